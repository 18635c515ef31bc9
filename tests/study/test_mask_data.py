"""Sizes of images with masks in a run, and fields of its data that would have no effect."""

import numpy as np
import pytest

from clipjax.errors import ConfigError
from clipjax.study import parse
from clipjax.study.segmentation_data import open_data
from tests.data import mask_sets


def opened(root, **data):
    data = {"root": str(root), "source": "clear", **data}
    return open_data(parse({"experiment": "segmentation", "data": data}).data)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders in which two images have sizes of their own."""
    root = mask_sets.folders(tmp_path_factory.mktemp("masks"))
    for domain, split, size in (("clear", "train", (20, 30)), ("fog", "test", (40, 24))):
        image, mask = mask_sets.scene(0, size)
        mask_sets.save(root / domain / "images" / split / "0.png", image)
        mask_sets.save(root / domain / "masks" / split / "0.png", mask)
    return root


def test_what_is_encoded_has_one_size(root):
    data = opened(root, resize=(32, 48))
    assert data.trained == data.tested == (32, 48)
    assert all(x.shape[:2] == (32, 48) for i in range(4) for x in data.train[i][:2])
    fog = data.tests["fog"]
    assert [fog[i].image.shape[:2] for i in range(3)] == [(32, 48)] * 3
    assert [fog[i].mask.shape for i in range(3)] == [(40, 24), (16, 24), (16, 24)]  # their own
    assert set(np.unique(data.train[0].mask)) <= {0, 1, 2}
    data = opened(root, crop=(8, 16), window=(16, 16))
    assert (data.trained, data.tested) == ((8, 16), (16, 16))
    assert data.crops.changes and data.crops.size == (8, 16)


def test_several_sources_are_mixed_by_their_shares(root):
    data = opened(root, source="clear+fog", shares=(0.5, 0.5), train=4, crop=(8, 8), window=(8, 8))
    assert [len(rows) for rows in data.train.rows] == [2, 2] and list(data.tests) == ["clear"]
    assert {data.train.domain_of(i) for i in range(4)} == {"clear", "fog"}
    again = opened(root, source=("clear", "fog"), crop=(8, 8), window=(8, 8))
    assert [len(rows) for rows in again.train.rows] == [4, 4]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {},
            r"training images have 2 sizes \(16 x 24, 20 x 30\); give data.resize one, or",
        ),
        ({"crop": (8, 8)}, r"images have 2 sizes \(16 x 24, 40 x 24\); give data.resize one, or d"),
        (
            {"crop": (8, 8), "window": (24, 24)},
            r"data.window=\(24, 24\) is larger than an image of 16 x 24 pixels; take a smaller one",
        ),
        ({"window": (8, 8), "stride": (9, 8)}, "data.stride is .9, 8., which leaves gaps between"),
        ({"stride": (8, 8)}, "data.stride=.8, 8. has no effect without data.window"),
        ({"scale": (0.5, 2.0)}, "data.scale=.0.5, 2.0. has no effect without data.crop"),
        ({"cat_max_ratio": 0.5}, "data.cat_max_ratio=0.5 has no effect without data.crop"),
        ({"scale": (2.0, 0.5), "crop": (8, 8)}, "data.scale is .*; give two numbers above 0"),
        ({"crop": (8,)}, "data.crop is .8,.; give two whole numbers above 0, as .512, 512."),
        ({"resize": (0, 8)}, "data.resize is .0, 8.; give two whole numbers above 0"),
        ({"cat_max_ratio": 0.0}, "data.cat_max_ratio is 0.0; give a share above 0"),
        ({"train": 9}, "data.train=9 asks for more images than the 4 of 'clear'; lower it"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(root, data, words):
    with pytest.raises(ConfigError, match=words):
        opened(root, **data)
