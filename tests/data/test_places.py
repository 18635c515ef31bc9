"""A target that is a place: a folder, a pattern, a list of paths, anywhere."""

import pytest
from PIL import Image

from clipjax.data.readers.folders import FolderDataset
from clipjax.data.readers.places import WithPlace, find_images
from clipjax.data.splits import SPLITS
from clipjax.errors import DataError
from tests.data.test_unlabelled import check_bare, pictures

PLACES = (
    "{x}/scans", "{x}/scans/", "{x}/scans/*.png", "{x}/**/*.png", "{x}/scans/[0-9]*",
    "{x}/list.txt", "../x/scans", "../x/sc*/*.png", "../x/list.txt",
)  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path):
    """root/photo/{cat,dog} with labels, and x/scans with 40 plain images and what is none."""
    for name in ("cat", "dog"):
        pictures(tmp_path / "root" / "photo" / name, 10)
    pictures(tmp_path / "x" / "scans", 40)
    for name in ("notes.txt", ".hidden.png", "1.heic"):
        (tmp_path / "x" / "scans" / name).write_text("x")
    (tmp_path / "x" / "list.txt").write_text("".join(f"scans/{i}.png\n" for i in range(40)))
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_a_domain_without_labels(elsewhere, place):
    root = elsewhere / "root"
    place = place.format(x=elsewhere / "x")
    dataset = WithPlace(FolderDataset(root), place, str(root))
    assert dataset.domains == ("photo", place) and dataset.classes_of(place) == ()
    check_bare(dataset, place, 40)
    assert len(dataset.source("photo", "train")) == 12 and "val" in dataset.splits_of(
        dataset.domains[0]
    )
    names = {dataset.source(place, s).name_of(0) for s in SPLITS}
    assert all(name.startswith(str(elsewhere / "x" / "scans")) for name in names)


def test_what_is_passed_over_is_told(elsewhere):
    dataset = WithPlace(FolderDataset(elsewhere / "root"), f"{elsewhere}/x/scans")
    assert [why for _, why in dataset.skipped] == ["images of this kind are not read (.heic)"]
    (elsewhere / "x" / "scans" / "0.png").write_bytes(b"")
    dataset = WithPlace(FolderDataset(elsewhere / "root"), f"{elsewhere}/x/scans/*")
    assert sorted(why for _, why in dataset.skipped)[0] == "empty, 0 bytes"
    assert sum(len(dataset.source(dataset.domains[-1], split)) for split in SPLITS) == 39


def test_a_pattern_is_found_again_when_files_come(elsewhere):
    """The repr keys the feature cache: new files change it, the same ones do not."""
    make = lambda: WithPlace(FolderDataset(elsewhere / "root"), f"{elsewhere}/x/scans/*.png")
    one, two = (make().source(f"{elsewhere}/x/scans/*.png", "train") for _ in range(2))
    assert repr(one) == repr(two)
    before = {one.name_of(i) for i in range(len(one))}
    Image.new("RGB", (8, 8)).save(elsewhere / "x" / "scans" / "new.png")
    third = make().source(f"{elsewhere}/x/scans/*.png", "train")
    assert repr(third) != repr(one)
    after = {third.name_of(i) for i in range(len(third))}
    assert len(before - after) <= 1  # at most one moves over a cut


WRONG = {
    "/no/such/folder": "'/no/such/folder' is no domain of the data and does not exist",
    "{x}/*.jpg": "holds no files",
    "{x}/scans/*.txt": "holds 1 files and no image that can be read",
    "{x}/scans/0.png": "is a file; give a folder, a list of paths",
    "{x}/bad.txt": r"bad.txt, line 2: 'scans/gone.png' is neither in .* nor in data.root",
    "gs://b/scans": "data.target 'gs://b/scans' is in an object store",
}


@pytest.mark.parametrize("place", WRONG)
def test_places_without_images_are_explained(elsewhere, place):
    (elsewhere / "x" / "bad.txt").write_text("scans/1.png\nscans/gone.png\n")
    with pytest.raises(DataError, match=WRONG[place]):
        WithPlace(FolderDataset(elsewhere / "root"), place.format(x=elsewhere / "x"))


def test_home_is_expanded(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere))
    assert len(find_images("~/x/scans/*.png")) == 40
