"""`data.name=auto`: which reader takes a root, why, and what fits several or none."""

import json
import shutil

import pytest

from clipjax.data.open import EMOJI, open_dataset
from clipjax.data.recognise import recognise
from clipjax.errors import DataError


def test_folders_lists_and_parquet_are_told_apart(folder_dataset, tmp_path):
    assert recognise(folder_dataset) == (
        "folder",
        "the root is read as folders of images (real/blue, ...)",
    )
    (folder_dataset / "splits").mkdir()
    (folder_dataset / "splits" / "real_train.txt").write_text("real/red/0.png red\n")
    name, why = recognise(folder_dataset)
    assert name == "lists" and "images in lists (splits/real_train.txt); data.name=folder" in why
    assert recognise(folder_dataset, "splits").why.endswith("is read by the lists in splits")
    assert recognise(EMOJI) == ("parquet", "the root is read as Parquet files")


@pytest.mark.parametrize("place", ["", "real/train", "deep/unlabeled"])
def test_any_depth_of_folders_will_do(tmp_path, folder_dataset, place):
    """Splits below domains, and plain images beside class folders."""
    root = tmp_path / "root"
    shutil.copytree(folder_dataset / "real", root / (place or "real"))
    assert recognise(root).name == "folder"


def test_prepared_tensorflow_datasets_are_found_by_their_files(tmp_path):
    version = tmp_path / "toys" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="holds nothing that clipjax reads"):
        recognise(tmp_path / "toys")  # as `save_to_disk` of datasets leaves it
    (version / "features.json").write_text("{}")
    name, why = recognise(tmp_path / "toys")
    assert name == f"tfds:{tmp_path / 'toys'}" and "TensorFlow Datasets (1.0.0)" in why
    assert recognise(tmp_path).name == f"tfds:{tmp_path}"


def test_what_fits_several_readers_is_refused_by_name(folder_dataset):
    shutil.copy(next(EMOJI.glob("*.parquet")), folder_dataset / "train.parquet")
    with pytest.raises(DataError) as error:
        open_dataset(root=str(folder_dataset))
    assert str(error.value) == (
        f"{folder_dataset} holds Parquet files and folders of images (real/blue, ...); say which: "
        "data.name=parquet or data.name=folder."
    )
    assert open_dataset("folder", str(folder_dataset)).domains == ("real", "sketch")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["shard-0.tar", "shard-1.tar"], r"\(2 .tar\); .*unpack the tar files"),
        (["a/data-0.arrow", "a/dataset_info.json"], r"\.arrow.*to_parquet"),
        (["x.npz", "y.json"], "pass arrays in Python"),
        (["0.png", "1.png"], "move the images into folders of classes in a folder of their domain"),
        (["readme.md"], r"\(1 .md\); it reads folders domain/class/image, lists"),
    ],
)
def test_what_fits_none_is_refused_with_what_is_there(tmp_path, files, words):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(DataError, match=words) as error:
        open_dataset(root=str(tmp_path))
    assert json.dumps(str(error.value)).count("clipjax reads") == 1


def test_an_empty_root_is_refused(tmp_path):
    with pytest.raises(DataError, match="is empty; give domain/class/image"):
        open_dataset(root=str(tmp_path))
