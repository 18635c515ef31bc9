"""Sources and features: what is read, what is refused, and when the cache is used."""

import hashlib

import numpy as np
import pytest

from clipjax import open_dataset
from clipjax.data.dataset import ArrayDataset, ArraySource
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.loader import image_batches
from clipjax.data.open import EMOJI
from clipjax.data.readers.folders import FolderDataset
from clipjax.errors import ConfigError, DataError

PREPROCESS = Preprocess(size=16)


def test_unknown_names_list_what_exists(folder_dataset):
    with pytest.raises(
        ConfigError, match="domainnet, parquet, coop, wilds_fmow, wilds_iwildcam, imagenet, tfds:"
    ):
        open_dataset("pascal")
    with pytest.raises(ConfigError, match="real, sketch"):
        FolderDataset(folder_dataset).source("cartoon", "train")


def test_a_root_decides_what_it_is(folder_dataset, tmp_path):
    assert open_dataset(root=str(folder_dataset)).domains == ("real", "sketch")
    (folder_dataset / "real_train.txt").write_text("real/red/0.png red\n")
    assert open_dataset(root=str(folder_dataset)).domains == ("real",)
    assert open_dataset("folder", str(folder_dataset)).domains == ("real", "sketch")
    assert open_dataset(root=str(EMOJI)).domains == open_dataset("emoji").domains
    assert open_dataset().domains == open_dataset("emoji").domains
    with pytest.raises(ConfigError, match="data.name=emoji is embedded data, and /x is named"):
        open_dataset("emoji", "/x")
    with pytest.raises(ConfigError, match="data.name=emoji_regrouped is embedded data, and /x"):
        open_dataset("emoji_regrouped", "/x")
    for name in ("auto", "folder", "lists", "domainnet", "parquet"):
        with pytest.raises(DataError, match="nowhere"):
            open_dataset(name, str(tmp_path / "nowhere"))
    for name in ("folder", "lists", "parquet"):
        with pytest.raises(ConfigError, match="data.root"):
            open_dataset(name)


def test_a_root_that_is_no_folder(folder_dataset, monkeypatch):
    file = folder_dataset / "real" / "red" / "0.png"
    for name in ("auto", "folder", "lists", "domainnet", "parquet"):
        with pytest.raises(DataError, match="0.png' is a file; give the folder"):
            open_dataset(name, str(file))
    monkeypatch.setenv("HOME", str(folder_dataset.parent))
    assert open_dataset(root="~/photos").domains == ("real", "sketch")


def test_arrays_of_another_shape_are_other_arrays():
    bytes_of = np.arange(36, dtype=np.uint8)
    shapes = [(1, 3, 4, 3), (1, 4, 3, 3), (1, 2, 6, 3)]
    described = {"classes": ("a",), "domain": "d"}
    assert len({repr(ArraySource(bytes_of.reshape(s), [0], **described)) for s in shapes}) == 3
    encoded = repr(ArraySource([b"x"], [0], **described))  # caches hold this: it stays
    digest = hashlib.sha256(np.zeros(1, np.int32).tobytes() + b"x" + b"a").hexdigest()[:16]
    assert encoded == f"ArraySource(d/train, n=1, {digest})"


def test_arrays_make_a_dataset():
    images = np.zeros((2, 4, 4, 3), np.uint8)

    def part(domain, split, classes=("a", "b")):
        return ArraySource(images, [0, 1], classes=classes, domain=domain, split=split)

    parts = {"photo": {"train": part("photo", "train"), "test": part("photo", "test")}}
    dataset = ArrayDataset(parts | {"drawing": {"test": part("drawing", "test")}})
    assert dataset.domains == ("photo", "drawing") and dataset.classes_of("photo") == ("a", "b")
    assert dataset.splits_of("photo") == ("train", "test") and dataset.splits_of("drawing") == (
        "test",
    )
    with pytest.raises(DataError, match="'drawing'.*no train split; it has test"):
        dataset.source("drawing", "train")
    with pytest.raises(DataError, match="calls itself photo/test"):
        ArrayDataset({"photo": {"train": part("photo", "test")}})
    with pytest.raises(DataError, match="other classes"):
        ArrayDataset(parts | {"drawing": {"test": part("drawing", "test", ("b", "a"))}})


def test_a_corrupt_image_is_named(folder_dataset):
    bad = folder_dataset / "real" / "red" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    dataset = FolderDataset(folder_dataset)
    parts = [dataset.source("real", split) for split in ("train", "val", "test")]
    problems = [
        p for part in parts for b in image_batches(part, PREPROCESS, 4) for p in b["problems"]
    ]
    assert [p.name for p in problems] == [str(bad)]


def test_arrays_check_their_labels():
    with pytest.raises(DataError, match="0 .. 1"):
        ArraySource(np.zeros((1, 4, 4, 3), np.uint8), [2], classes=("a", "b"), domain="d")


def test_transparency_becomes_white_and_palettes_work():
    import io

    from PIL import Image

    def encoded(picture, kind="PNG"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        return buffer.getvalue()

    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (PREPROCESS.crop(encoded(clear)) == 255).all()
    grey = Image.new("L", (20, 20), 77)
    assert (PREPROCESS.crop(encoded(grey)) == 77).all()
    palette = Image.new("RGB", (20, 20), (255, 0, 0)).convert("P")
    assert (PREPROCESS.crop(encoded(palette)) == [255, 0, 0]).all()
    cmyk = Image.new("CMYK", (20, 20), (0, 0, 0, 0))
    assert (PREPROCESS.crop(encoded(cmyk, "JPEG")) >= 250).all()


def test_another_size_scales_the_resize_rule():
    assert Preprocess(size=16).with_size(32) == Preprocess(size=32)
    assert Preprocess(size=16, resize=20).with_size(32).resize == 40
    assert Preprocess(size=16, resize=(16, 16)).with_size(32).resize == (32, 32)
    assert Preprocess(size=16, resize=None).with_size(32).resize is None
