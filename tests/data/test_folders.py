"""Folders of images: what is read, what is passed over and said, and what is remembered."""

import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from clipjax.data.dataset import reasons
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.readers import folder_index as index
from clipjax.data.readers.folder_index import walk
from clipjax.data.readers.folders import FolderDataset
from clipjax.data.splits import SPLITS
from clipjax.errors import ConfigError, DataError


def names_of(dataset, domain="real", split=None):
    """File names, with their class folder, of a domain."""
    parts = [dataset.source(domain, s) for s in ([split] if split else SPLITS)]
    return ["/".join(p[i].name.split("/")[-2:]) for p in parts for i in range(len(p))]


def picture(path, size=(20, 16)):
    """Writes an image of the kind that the extension says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 10, 10)).save(path)


def test_domains_classes_and_splits(folder_dataset):
    dataset = FolderDataset(folder_dataset)
    assert dataset.domains == ("real", "sketch") and dataset.classes == ("blue", "green", "red")
    assert (
        dataset.name == "photos"
        and dataset.skipped == ()
        and "val" in dataset.splits_of(dataset.domains[0])
    )
    names = names_of(dataset)
    assert len(names) == len(set(names)) == 18
    example = dataset.source("real", "train")[0]
    assert f"/{dataset.classes[example.label]}/" in example.name


def test_splits_are_the_same_everywhere_and_new_files_hardly_move_them(folder_dataset):
    """A hash of class and name orders each class, whatever else there is."""
    dataset = FolderDataset(folder_dataset)
    assert names_of(dataset, split="val") == ["blue/3.png", "green/0.png", "red/4.png"]
    assert names_of(dataset, split="test") == ["blue/0.png", "green/5.png", "red/0.png"]
    before = {split: set(names_of(dataset, split=split)) for split in SPLITS}
    picture(folder_dataset / "real" / "red" / "40.png")
    after = FolderDataset(folder_dataset)
    left = set().union(*(before[s] - set(names_of(after, split=s)) for s in SPLITS))
    assert len(left) <= 2 and all(name.startswith("red/") for name in left)


def test_fractions_are_followed(folder_dataset):
    for i in range(6, 300):
        shutil.copy(folder_dataset / "real/red/0.png", folder_dataset / f"real/red/{i}.png")
    dataset = FolderDataset(folder_dataset, (0.2, 0.5, 0.3))
    for split, count in zip(SPLITS, (60, 150, 90), strict=True):
        assert np.bincount(dataset.source("real", split).labels).tolist()[2] == count
    with pytest.raises(ConfigError, match="three shares"):
        FolderDataset(folder_dataset, (0.5, 0.5))


def given_splits(folder_dataset, root, splits):
    for split in splits:
        for domain in ("real", "sketch"):
            shutil.copytree(folder_dataset / domain, root / domain / split)
    return FolderDataset(root)


def test_given_splits_are_kept(folder_dataset, tmp_path):
    dataset = given_splits(folder_dataset, tmp_path / "all", SPLITS)
    assert [len(dataset.source("real", split)) for split in SPLITS] == [18, 18, 18]


def test_test_is_taken_out_of_train_where_only_val_is_given(folder_dataset, tmp_path):
    dataset = given_splits(folder_dataset, tmp_path / "two", ("train", "val"))
    assert "test" in dataset.splits_of("real") and len(dataset.source("real", "val")) == 18
    train, test = (set(names_of(dataset, split=split)) for split in ("train", "test"))
    assert train and test and not train & test and len(train | test) == 18
    nothing = FolderDataset(tmp_path / "two", (0, 1, 0))
    with pytest.raises(ConfigError, match="train and test .* data.fractions"):
        nothing.source("real", "test")


def test_split_folders_may_have_other_names(folder_dataset, tmp_path):
    for split in ("Train", "validation", "TEST"):
        for domain in ("real", "sketch"):
            shutil.copytree(folder_dataset / domain, tmp_path / "all" / domain / split)
    dataset = FolderDataset(tmp_path / "all")
    assert dataset.skipped == () and dataset.classes == ("blue", "green", "red")
    for split, folder in zip(SPLITS, ("Train", "validation", "TEST"), strict=True):
        source = dataset.source("real", split)
        assert len(source) == 18 and f"/real/{folder}/blue/" in source[0].name
    shutil.copytree(folder_dataset / "real", tmp_path / "all" / "real" / "dev")
    (tmp_path / "all" / "real" / "extra").mkdir()
    with pytest.raises(DataError, match="both dev and validation, two folders for val"):
        FolderDataset(tmp_path / "all")
    shutil.rmtree(tmp_path / "all" / "real" / "dev")
    (beside,) = FolderDataset(tmp_path / "all").skipped
    assert beside.name.endswith("real/extra") and "beside the split folders" in beside.reason


@pytest.mark.parametrize(
    "suffix", [".jfif", ".JPE", ".jif", ".JPG", ".TIF", ".dib", ".avif", ".pgm"]
)
def test_images_of_every_name_that_pillow_reads(folder_dataset, suffix):
    form = {".avif": "AVIF", ".tif": "TIFF", ".dib": "BMP", ".pgm": "PPM"}.get(
        suffix.lower(), "JPEG"
    )
    for file in (folder_dataset / "sketch").rglob("*.png"):
        Image.open(file).save(file.with_suffix(suffix), form)
        file.unlink()
    dataset = FolderDataset(folder_dataset)
    assert dataset.skipped == () and len(names_of(dataset, "sketch")) == 18
    example = dataset.source("sketch", "train")[0]
    assert example.name.endswith(suffix)
    Preprocess(size=8).crop(example.image, example.name)


def test_images_that_are_not_read_are_counted_by_kind(folder_dataset):
    red = folder_dataset / "sketch" / "red"
    for i in range(40):
        (red / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (red / "notes.txt").write_text("x")
    (red / "none.png").write_bytes(b"")
    said = reasons(FolderDataset(folder_dataset).skipped)
    assert said == (
        "40 images of this kind are not read (.heic); 1 not an image by its name (.txt); "
        "1 empty, 0 bytes"
    )
    for file in red.glob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match=r"sketch/red has no images that can be read \(40 .*heic"):
        FolderDataset(folder_dataset).source("sketch", "train")


@pytest.mark.parametrize("name", ["lost+found", "@eaDir", "__MACOSX"])
def test_folders_of_the_system_are_ignored(folder_dataset, name):
    for place in (folder_dataset, folder_dataset / "real", folder_dataset / "real" / "red"):
        (place / name).mkdir()
    dataset = FolderDataset(folder_dataset)
    assert dataset.domains == ("real", "sketch") and dataset.skipped == ()
    assert dataset.classes == ("blue", "green", "red")


def test_val_is_taken_out_of_train_where_only_test_is_given(folder_dataset, tmp_path):
    for i in range(6, 100):
        shutil.copy(folder_dataset / "real/red/0.png", folder_dataset / f"real/red/{i}.png")
    picture(folder_dataset / "real" / "single" / "0.png")
    dataset = given_splits(folder_dataset, tmp_path / "given", ("train", "test"))
    train, val = names_of(dataset, split="train"), names_of(dataset, split="val")
    assert len(dataset.source("real", "test")) == 113 and "val" in dataset.splits_of(
        dataset.domains[0]
    )
    assert not set(train) & set(val) and len(train) + len(val) == 113
    assert 5 < len(val) < 30 and "single/0.png" in train  # 0.1 / 0.7 of 113


def test_a_class_called_train_is_no_split(tmp_path):
    for name in ("train", "bus"):
        for i in range(3):
            picture(tmp_path / "real" / name / f"{i}.png")
    dataset = FolderDataset(tmp_path)
    assert dataset.classes == ("bus", "train") and len(names_of(dataset)) == 6


def test_domains_may_have_other_classes(folder_dataset):
    shutil.rmtree(folder_dataset / "sketch" / "red")
    for i in range(3):
        picture(folder_dataset / "sketch" / "yellow" / f"{i}.png")
    dataset = FolderDataset(folder_dataset)
    assert dataset.classes == ("blue", "green", "red", "yellow")
    assert dataset.classes_of("real") == ("blue", "green", "red")
    assert dataset.classes_of("sketch") == ("blue", "green", "yellow")
    labels = np.concatenate([dataset.source("sketch", split).labels for split in SPLITS])
    assert set(labels.tolist()) == {0, 1, 3}


def test_what_is_not_read_is_listed(folder_dataset):
    folder = folder_dataset / "real" / "red"
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", ".hidden.png"):
        (folder / name).write_bytes(b"x")
    assert FolderDataset(folder_dataset).skipped == ()
    (folder / "notes.txt").write_bytes(b"x")
    (folder / "empty.png").touch()
    (folder / "gone.png").symlink_to(folder_dataset / "nowhere.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "deeper.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    picture(folder_dataset / "real" / "stray.jpg")
    dataset = FolderDataset(folder_dataset)
    assert len(names_of(dataset)) == 18
    reasons = {os.path.relpath(name, folder): reason for name, reason in dataset.skipped}
    assert set(reasons) == {
        "notes.txt", "empty.png", "gone.png", "circle.png", "deeper.png", "pipe.png", "../stray.jpg"
    }  # fmt: skip
    assert "0 bytes" in reasons["empty.png"] and "(.txt)" in reasons["notes.txt"]


def test_links_are_followed_and_circles_end(folder_dataset, tmp_path):
    outside = tmp_path / "elsewhere"
    (folder_dataset / "real").rename(outside)
    (folder_dataset / "real").symlink_to(outside)
    (outside / "blue" / "9.png").symlink_to(folder_dataset / "sketch" / "blue" / "0.png")
    (outside / "up").symlink_to(folder_dataset)
    (folder_dataset / "itself").symlink_to(folder_dataset)
    dataset = FolderDataset(folder_dataset)
    assert dataset.domains == ("real", "sketch") and len(names_of(dataset)) == 19
    assert [reason for _, reason in dataset.skipped] == ["a link back to a folder above it"] * 2


@pytest.mark.parametrize("kind", ["JPG", "jpeg", "PNG", "webp", "bmp", "gif", "tif", "TIFF"])
def test_image_kinds(tmp_path, kind):
    for i in range(8):
        picture(tmp_path / "real" / "red" / f"{i}.{kind}")
    sources = [FolderDataset(tmp_path).source("real", split) for split in SPLITS]
    examples = [source[i] for source in sources for i in range(len(source))]
    assert len(examples) == 8
    crop = Preprocess(size=8).crop(examples[0].image, examples[0].name)
    assert np.abs(crop.astype(int) - [200, 10, 10]).max() < 12


def test_bad_folders_are_explained(folder_dataset, tmp_path):
    with pytest.raises(DataError, match="no_such"):
        FolderDataset(tmp_path / "no_such")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        FolderDataset(tmp_path / "empty")
    (folder_dataset / "bare").mkdir()
    with pytest.raises(DataError, match="photos/bare holds no class folders"):
        FolderDataset(folder_dataset)
    (folder_dataset / "bare").rmdir()
    for file in (folder_dataset / "sketch" / "red").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="sketch/red has no images"):
        FolderDataset(folder_dataset).source("sketch", "train")


def test_the_only_image_of_a_class_is_trained_on(folder_dataset):
    picture(folder_dataset / "sketch" / "lonely" / "0.png")
    dataset = FolderDataset(folder_dataset)
    assert [s for s in SPLITS if "lonely/0.png" in names_of(dataset, "sketch", s)] == ["train"]
    assert len(FolderDataset(folder_dataset, (0, 0, 1)).source("sketch", "test")) == 19


def test_a_source_is_known_by_what_its_files_are(folder_dataset):
    def now(split="train"):
        return repr(FolderDataset(folder_dataset).source("real", split))

    before = now()
    assert before == now() == repr(pickle.loads(pickle.dumps(source_of(folder_dataset))))
    picture(folder_dataset / "sketch" / "red" / "new.png")
    assert now() == before  # another domain
    path = source_of(folder_dataset)[0].name
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    touched = now()
    with open(path, "ab") as file:
        file.write(b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert len({before, touched, now()}) == 3


def source_of(root):
    return FolderDataset(root).source("real", "train")


def test_a_file_that_vanishes_is_named(folder_dataset):
    source = source_of(folder_dataset)
    os.unlink(source[0].name)
    with pytest.raises(DataError, match=r"real/blue/\d.png cannot be read"):
        source[0]
    with pytest.raises(IndexError):
        source[len(source)]


def test_names_that_are_no_text(tmp_path):
    folder = os.fsencode(tmp_path / "real" / "red")
    os.makedirs(folder)
    for name in (b"\xff\xfe.png", b"\xe4.png", "ü.png".encode()):
        Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
        os.rename(tmp_path / "image.png", os.path.join(folder, name))
    sources = [FolderDataset(tmp_path).source("real", split) for split in SPLITS]
    assert sum(len(s) for s in sources) == 3
    assert all(s[i].image for s in sources for i in range(len(s))) and all(map(repr, sources))
    assert any("\\xff\\xfe.png" in s[i].name for s in sources for i in range(len(s)))
    os.makedirs(os.path.join(os.fsencode(tmp_path), b"d\xff", b"c\xff"))
    for number in range(8):
        place = os.path.join(os.fsencode(tmp_path), b"d\xff", b"c\xff", b"%d\xfe.png" % number)
        with open(place, "wb") as file:
            file.write(b"x" if number else b"")
    dataset = FolderDataset(tmp_path)
    assert dataset.domains == ("d\\xff", "real") and dataset.classes == ("c\\xff", "red")
    (skipped,) = dataset.skipped
    source = dataset.source("d\\xff", "train")
    texts = (*dataset.domains, *skipped, source[0].name, repr(source))
    assert all(text.encode() for text in texts)  # what print does


def settled(root):
    """Makes every folder look as if it had last changed an hour ago."""
    for folder, _, _ in os.walk(root):
        stat = os.stat(folder)
        os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns - 3600 * 10**9))
    return root


class Counted:
    """`walk`, counting its calls."""

    def __init__(self, root, cache):
        self.root, self.cache, self.calls = root, cache, 0

    def __call__(self, root):
        self.calls += 1
        return walk(root)

    def find(self):
        return index.find_files(self.root, self.cache, least=1, walk=self)


def test_the_index_is_used_until_a_folder_changes(folder_dataset, tmp_path):
    find = Counted(settled(folder_dataset), tmp_path / "cache")
    first, again = find.find(), find.find()
    assert find.calls == 1
    assert first._replace(names=None, folder=None, positions=None) == again._replace(
        names=None, folder=None, positions=None
    )
    assert list(first.names) == list(again.names)
    assert np.array_equal(first.folder, again.folder)
    assert np.array_equal(first.positions, again.positions)
    picture(folder_dataset / "real" / "red" / "new.png")
    assert len(find.find().names) == len(first.names) + 1 and find.calls == 2
    settled(folder_dataset)
    (folder_dataset / "sketch" / "red" / "0.png").unlink()
    assert len(find.find().names) == len(first.names)
    (folder_dataset / "sketch" / "other").mkdir()
    assert ("sketch", "", "other") in find.find().folders
    shutil.rmtree(folder_dataset / "sketch")
    assert find.find().domains == ("real",)


def test_the_index_outlives_the_device_and_sees_times_set_back(folder_dataset, tmp_path):
    find = Counted(settled(folder_dataset), tmp_path / "cache")
    found = find.find()
    moved = {d: state._replace(device=state.device + 1) for d, state in found.directories.items()}
    assert index.is_current(found._replace(directories=moved), folder_dataset)
    folder = folder_dataset / "real" / "red"
    stat = os.stat(folder)
    picture(folder / "new.png")
    os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(find.find().names) == len(found.names) + 1


def test_folders_that_just_changed_are_not_trusted(folder_dataset, tmp_path):
    find = Counted(folder_dataset, tmp_path / "cache")
    find.find(), find.find()
    assert find.calls == 2 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_index_is_made_again(folder_dataset, tmp_path, damage):
    find = Counted(settled(folder_dataset), tmp_path / "cache")
    first = find.find()
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes(flipped if damage is None else damage)
    assert list(find.find().names) == list(first.names) and find.calls == 2
    assert path.read_bytes() != flipped
    find.find()
    assert find.calls == 2


def test_a_rewritten_file_shows_through_the_index(folder_dataset, tmp_path, monkeypatch):
    """Its folder keeps its time, so the index stays; sizes and times are asked for anew."""
    monkeypatch.setattr(index, "LEAST", 1)
    cache = tmp_path / "cache"
    settled(folder_dataset)
    empty = folder_dataset / "real" / "red" / "0.png"
    before = empty.read_bytes()
    with empty.open("r+b") as file:
        file.truncate()
    first = FolderDataset(folder_dataset, cache_dir=cache)
    assert len(list(cache.iterdir())) == 1
    assert [skipped.name for skipped in first.skipped] == [str(empty)]
    with empty.open("r+b") as file:
        file.write(before)
    again = FolderDataset(folder_dataset, cache_dir=cache)
    assert again.skipped == () and len(names_of(again)) == 18


def test_an_index_that_cannot_be_kept_costs_no_run(folder_dataset, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    find = Counted(settled(folder_dataset), tmp_path / "cache")
    with pytest.warns(UserWarning, match="no file index is kept"):
        assert len(find.find().names) == 36
