"""Sources and features: what is read, what is refused, and when the cache is used."""

import numpy as np
import pytest

from clipjax import open_dataset
from clipjax.data.batches import image_batches
from clipjax.data.preprocess import Preprocess
from clipjax.data.sources import ArraySource, FolderDataset
from clipjax.errors import ConfigError, DataError

PREPROCESS = Preprocess(size=16)


def test_folder_domains_classes_and_splits(folder_dataset):
    dataset = open_dataset("folder", str(folder_dataset))
    assert dataset.domains == ("real", "sketch") and dataset.classes == ("blue", "green", "red")
    parts = [dataset.source("real", split) for split in ("train", "val", "test")]
    names = [str(p[i].name) for p in parts for i in range(len(p))]
    assert len(names) == len(set(names)) == 18
    label = parts[0][0].label
    assert dataset.classes[label] in parts[0][0].name


def test_given_split_folders_win_over_the_hash(folder_dataset, tmp_path):
    root = tmp_path / "split"
    for split in ("train", "test"):
        for domain in ("real", "sketch"):
            (root / domain / split).mkdir(parents=True)
            for name in ("blue", "green", "red"):
                (root / domain / split / name).symlink_to(folder_dataset / domain / name)
    dataset = FolderDataset(root)
    assert len(dataset.source("real", "train")) == 18
    with pytest.raises(DataError, match="val"):
        dataset.source("real", "val")


def test_hidden_files_and_other_files_are_skipped(folder_dataset):
    before = len(FolderDataset(folder_dataset).source("real", "train"))
    for name in (".DS_Store", "Thumbs.db", ".hidden.png", "notes.txt"):
        (folder_dataset / "real" / "red" / name).write_bytes(b"x")
    assert len(FolderDataset(folder_dataset).source("real", "train")) == before


def test_upper_case_extensions_count(folder_dataset):
    folder = folder_dataset / "real" / "red"
    (folder / "0.png").rename(folder / "0.PNG")
    dataset = FolderDataset(folder_dataset)
    assert sum(len(dataset.source("real", s)) for s in ("train", "val", "test")) == 18


def test_bad_folders_are_explained(folder_dataset, tmp_path):
    with pytest.raises(DataError, match="no_such"):
        FolderDataset(tmp_path / "no_such")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        FolderDataset(tmp_path / "empty")
    (tmp_path / "bare" / "real").mkdir(parents=True)
    with pytest.raises(DataError, match="class folders"):
        FolderDataset(tmp_path / "bare")
    for file in (folder_dataset / "sketch" / "red").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="sketch/red has no images"):
        FolderDataset(folder_dataset).source("sketch", "train")
    (folder_dataset / "sketch" / "red").rmdir()
    with pytest.raises(DataError, match="'red'.*'sketch'"):
        FolderDataset(folder_dataset)


def test_unknown_names_list_what_exists(folder_dataset):
    with pytest.raises(ConfigError, match="emoji, folder, parquet"):
        open_dataset("imagenet")
    with pytest.raises(ConfigError, match="real, sketch"):
        FolderDataset(folder_dataset).source("cartoon", "train")


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
