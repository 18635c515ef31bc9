"""Sources and features: what is read, what is refused, and when the cache is used."""

import numpy as np
import pytest

from clipjax import open_dataset
from clipjax.data import features
from clipjax.data.folders import FolderDataset
from clipjax.data.pipeline import image_batches
from clipjax.data.preprocess import Preprocess
from clipjax.data.sources import EMOJI, ArrayDataset, ArraySource
from clipjax.errors import ConfigError, DataError

PREPROCESS = Preprocess(size=16)


def test_unknown_names_list_what_exists(folder_dataset):
    with pytest.raises(ConfigError, match="emoji, folder, lists, domainnet, parquet, tfds:"):
        open_dataset("imagenet")
    with pytest.raises(ConfigError, match="real, sketch"):
        FolderDataset(folder_dataset).source("cartoon", "train")


def test_a_root_decides_what_it_is(folder_dataset, tmp_path):
    assert open_dataset(root=str(folder_dataset)).domains == ("real", "sketch")
    (folder_dataset / "real_train.txt").write_text("real/red/0.png red\n")
    assert open_dataset(root=str(folder_dataset)).domains == ("real",)
    assert open_dataset("folder", str(folder_dataset)).domains == ("real", "sketch")
    assert open_dataset(root=str(EMOJI)).domains == open_dataset("emoji").domains
    for name in ("emoji", "folder", "lists", "domainnet", "parquet"):
        with pytest.raises(DataError, match="nowhere"):
            open_dataset(name, str(tmp_path / "nowhere"))
    for name in ("folder", "lists", "parquet"):
        with pytest.raises(ConfigError, match="data.root"):
            open_dataset(name)


def test_arrays_make_a_dataset():
    images = np.zeros((2, 4, 4, 3), np.uint8)

    def part(domain, split, classes=("a", "b")):
        return ArraySource(images, [0, 1], classes=classes, domain=domain, split=split)

    parts = {"photo": {"train": part("photo", "train"), "test": part("photo", "test")}}
    dataset = ArrayDataset(parts | {"drawing": {"test": part("drawing", "test")}})
    assert dataset.domains == ("photo", "drawing") and dataset.classes_of("photo") == ("a", "b")
    assert dataset.has_split("test") and not dataset.has_split("train")
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
    with pytest.raises(DataError, match="red/0.png"):
        for split in ("train", "val", "test"):
            list(image_batches(dataset.source("real", split), PREPROCESS, 4))


def test_arrays_check_their_labels():
    with pytest.raises(DataError, match="0 .. 1"):
        ArraySource(np.zeros((1, 4, 4, 3), np.uint8), [2], classes=("a", "b"), domain="d")


@pytest.mark.parametrize("n, batch", [(1, 4), (4, 4), (7, 3), (7, 10)])
def test_every_example_comes_once_and_padding_is_masked(n, batch):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((16, 16, 3), np.uint8)
    source = ArraySource(images, [0] * n, classes=("a",), domain="d")
    batches = list(image_batches(source, PREPROCESS, batch))
    assert all(b["image"].shape == (batch, 16, 16, 3) for b in batches)
    seen = np.concatenate([b["image"][b["mask"]][:, 0, 0, 0] for b in batches])
    assert seen.tolist() == list(range(n))


def emoji_source():
    return open_dataset("emoji").source("render", "val")


def test_the_cache_is_read_and_keyed_by_everything(tmp_path):
    calls = []

    def encode(images):
        calls.append(len(images))
        return images.reshape(len(images), -1)[:, :5].astype(np.float32)

    def run(weights="w", preprocess=PREPROCESS, source=None):
        return features.cached_features(
            encode, source or emoji_source(), preprocess, weights=weights, cache_dir=tmp_path
        )

    first = run()
    made = len(calls)
    again = run()
    assert len(calls) == made and np.array_equal(first.features, again.features)
    run(weights="other")
    run(preprocess=Preprocess(size=17))
    run(source=open_dataset("emoji").source("flat", "val"))
    assert len(calls) == 4 * made
    assert not list(tmp_path.glob("*.partial"))


def test_changed_images_get_a_new_key():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    one = ArraySource(images, [0, 0], classes=("a",), domain="d")
    images = images.copy()
    images[1, 0, 0, 0] = 1
    two = ArraySource(images, [0, 0], classes=("a",), domain="d")
    assert features.cache_key("w", PREPROCESS, one) != features.cache_key("w", PREPROCESS, two)


def test_fingerprint_sees_every_weight():
    one = {"a": np.zeros(3, np.float32)}
    assert features.fingerprint(one) != features.fingerprint({"b": one["a"]})
    assert features.fingerprint(one) != features.fingerprint({"a": np.array([0, 0, 1], np.float32)})


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
