"""`clipjax inspect domino`: what it says of images with masks, and what a run would refuse."""

import dataclasses
import re
import shutil

import numpy as np
import pytest

from clipjax.data.mask_survey import check_surveys, survey
from clipjax.data.masks import MixedMasks
from clipjax.data.open_masks import open_masks
from clipjax.errors import ConfigError, DataError
from clipjax.inspect.masks import inspect_masks
from clipjax.inspect.survey import Options
from clipjax.study import parse
from clipjax.study.segmentation_data import open_data
from tests.data import mask_sets


def config(root, **data):
    data = {"root": str(root), "source": "clear", **data}
    return parse({"experiment": "segmentation", "data": data})


def looked(root, out, capsys, **data):
    refusals = inspect_masks(config(root, **data), out, Options())
    return refusals, capsys.readouterr().out, (out / "inspect.html").read_text()


@pytest.fixture
def root(tmp_path):
    return mask_sets.folders(tmp_path / "data")


def test_it_counts_images_classes_and_sizes_and_shows_masks(root, tmp_path, capsys):
    for domain in ("clear", "fog"):  # a border that is ignored
        file = root / domain / "masks" / "train" / "0.png"
        mask = np.full((16, 24), 255, np.uint8)
        mask[:8, :12] = 1
        mask_sets.save(file, mask)
    refusals, said, page = looked(root, tmp_path / "out", capsys)
    assert refusals == [] and "A run would start" in said
    assert "18 images with masks, 2 domains, 3 classes." in said
    found = open_masks(root=str(root))
    parts = [found.source("clear", split) for split in found.splits_of("clear")]
    masks = np.concatenate([part[i].mask.ravel() for part in parts for i in range(len(part))])
    share = 100 * (masks == 1).sum() / (masks != 255).sum()
    line = next(line for line in said.split("\n") if line.startswith("  box"))
    assert f"{share:.2g} %" in line
    line = next(line for line in said.split("\n") if "(ignored)" in line)
    assert f"{100 * (masks == 255).mean():.2g} %" in line
    assert re.search(r"clear/train +16 +24 +1 +16 x 24 \(4\)", said)
    assert page.count("data:image/webp") == 2  # domains
    assert all(f"</i>{name}</span>" in page for name in mask_sets.NAMES)  # colours of classes
    assert "Every image has a mask that fits." in page


def test_what_does_not_fit_is_told_by_kind_and_refused_by_a_run(root, tmp_path, capsys):
    masks = root / "fog" / "masks"
    mask_sets.save(masks / "test" / "0.png", np.zeros((24, 16), np.uint8))
    mask_sets.save(masks / "test" / "1.png", np.full((16, 24), 9, np.uint8))
    (masks / "train" / "0.png").unlink()
    (masks / "train" / "1.png").write_bytes(b"no image")
    mask_sets.save(masks / "val" / "7.png", np.zeros((16, 24), np.uint8))
    refusals, said, page = looked(root, tmp_path / "out", capsys)
    assert len(refusals) == 1 and "0.png is 24 x 16, and the image 16 x 24 pixels" in refusals[0]
    for words in (
        "1 image: masks of another size, which no run accepts",
        "1 image: labels beyond the table, which no run accepts",
        "has the value 9 beyond the table of 3 classes",
        "1 image: unreadable",
        "1 image without a mask",
        "Passed over: 1 a mask without an image",
        "No run would start: the mask of",
    ):
        assert words in said and words in page.replace("&#39;", "'")
    with pytest.raises(DataError, match="and the image 16 x 24 pixels .* make them of one size"):
        open_data(config(root).data)
    mask_sets.save(masks / "test" / "0.png", np.full((16, 24), 9, np.uint8))
    with pytest.raises(DataError, match="0.png has the value 9 .*1 other image has such a mask"):
        open_data(config(root).data)


def test_images_without_masks_are_counted_and_no_share_is_given(root, tmp_path, capsys):
    shutil.rmtree(root / "clear/masks/train")
    shutil.rmtree(root / "fog/masks")
    refusals, said, page = looked(root, tmp_path / "out", capsys)
    words = "methods.linear trains on masks, and the training images of 'clear' have none"
    assert len(refusals) == 1 and words in refusals[0]
    assert "5 images with masks, 2 domains, 3 classes." in said
    told = "Images of clear/train, fog have no masks: they are answered, not measured, and trained"
    assert told in said and told in page
    assert re.search(r"clear .source. +4 +2 +3 +4 +0\n +fog +4 +2 +3 +9 +0\n", said)
    assert re.search(r"box +\S+ % +–\n", said) and "fog has no pixel" not in said
    assert "Every image of the others has a mask that fits." in said
    assert "fog/train: images<" in page and "clear/val: images, and their masks over" in page
    methods = {"student": {"decoder": "aspp", "labels": "teacher"}}
    taught = dataclasses.replace(config(root), methods=methods)
    assert inspect_masks(taught, tmp_path / "again", Options()) == []


def test_sizes_that_a_run_refuses_are_told(root, tmp_path, capsys):
    image, mask = mask_sets.scene(0, (20, 30))
    for kind, pixels in (("images", image), ("masks", mask)):
        mask_sets.save(root / "clear" / kind / "train" / "0.png", pixels)
    refusals, said, _ = looked(root, tmp_path / "out", capsys)
    assert refusals and "training images have 2 sizes (16 x 24, 20 x 30)" in refusals[0]
    assert re.search(r"clear/train +16–20 +24–30 +2 +16 x 24 \(3\)", said)
    assert not looked(root, tmp_path / "out", capsys, resize=(16, 24))[0]


def test_images_without_a_mask_are_left_out_or_too_many(root):
    for name in ("0.png", "1.png"):
        (root / "clear" / "masks" / "train" / name).unlink()
    (root / "fog" / "masks" / "test" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    told = (
        "3 of 10 images cannot be used, more than data.max_unreadable=0.01 allows: 2 images "
        r"without a mask \(.*train/0.png; .*train/1.png\) and 1 image that cannot be read"
    )
    with pytest.raises(DataError, match=told):
        open_data(config(root).data)
    data = open_data(config(root, max_unreadable=0.5).data)
    assert len(data.train) == 2 and {d: len(s) for d, s in data.tests.items()} == {
        "clear": 3, "fog": 2
    }  # fmt: skip
    assert data.notes[0] == "the root is read as folders of images and masks"
    assert data.notes[1].startswith("3 of 10 images are left out: 2 images without a mask")
    assert [data.tests["fog"][i].mask.max() for i in range(2)] == [2, 2]


def test_a_survey_is_exact_and_knows_what_is_absent(root):
    source = MixedMasks([open_masks(root=str(root)).source("fog", "train")])
    found = survey(source)
    masks = np.stack([source[i].mask for i in range(4)])
    assert found.pixels.tolist() == [*np.bincount(masks.ravel(), minlength=3), 0]
    assert found.sizes == {(16, 24): 4} and found.usable.all() and found.ignored == 0
    assert found.shares.sum() == pytest.approx(1)
    assert check_surveys([(source, found)], 0.0) == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"source": ""}, "data.source is not named; say which domain is trained on"),
        ({"root": "", "workers": 2}, "data.workers=2 has no effect on scenes"),
        ({"root": "", "max_unreadable": 0.5}, "data.max_unreadable=0.5 has no effect on scenes"),
        ({"max_unreadable": 2}, "data.max_unreadable is 2; give a share, 0 to 1"),
    ],
)
def test_fields_without_effect_are_refused(root, data, words):
    with pytest.raises(ConfigError, match=words):
        config(data.pop("root", root), **data)


def test_options_of_other_data_are_refused(root, tmp_path):
    with pytest.raises(ConfigError, match="are not of masks, all of which are read"):
        inspect_masks(config(root), tmp_path, Options("none"))
