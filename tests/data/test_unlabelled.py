"""Images without labels: every form in which they come, and how they are dealt to splits."""

import pickle

import numpy as np
import pytest
from PIL import Image

from clipjax import open_dataset
from clipjax.data.classes import match_classes
from clipjax.data.dataset import ArrayDataset, ArraySource
from clipjax.data.derived import JoinedDataset, Subset
from clipjax.data.readers.folders import FolderDataset
from clipjax.data.readers.list_files import read_list
from clipjax.data.readers.lists import ListDataset
from clipjax.data.splits import SPLITS
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import ConfigError, DataError

CLASSES = ("cat", "dog")


def pictures(folder, count, start=0):
    """Small images of different content."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.new("RGB", (8, 8), (i % 256, 9, len(str(folder)) % 256)).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    """A labelled domain of two classes; tests add the other."""
    for name in CLASSES:
        pictures(tmp_path / "photo" / name, 20)
    return tmp_path


def labels(dataset, domain):
    return {split: dataset.source(domain, split).labels for split in SPLITS}


def check_bare(dataset, domain, count):
    """The domain has this many images, none with a label, in every split, each once."""
    found = labels(dataset, domain)
    assert sum(map(len, found.values())) == count and all(map(len, found.values()))
    assert {n for each in found.values() for n in each.tolist()} == {NO_LABEL}
    sources = [dataset.source(domain, split) for split in SPLITS]
    examples = [source[i] for source in sources for i in range(len(source))]
    assert {e.label for e in examples} == {NO_LABEL}
    assert len({e.name for e in examples}) == count
    assert [e.name for e in examples] == [s.name_of(i) for s in sources for i in range(len(s))]
    assert dataset.unlabelled(domain) and not dataset.unlabelled("photo")
    source = pickle.loads(pickle.dumps(sources[0]))
    assert source.labels.dtype == np.int32 and repr(source) == repr(sources[0])


@pytest.mark.parametrize("below", ["", "unlabeled", "Unlabelled"])
def test_a_folder_of_plain_files(root, below):
    pictures(root / "scan" / below, 40)
    dataset = FolderDataset(root)
    assert dataset.domains == ("photo", "scan") and dataset.classes == CLASSES
    assert dataset.classes_of("scan") == () and dataset.skipped == ()
    check_bare(dataset, "scan", 40)


def test_split_folders_of_plain_files(root):
    for split, count in (("train", 12), ("validation", 5), ("test", 7)):
        pictures(root / "scan" / split, count)
    dataset = FolderDataset(root)
    check_bare(dataset, "scan", 24)
    assert [len(each) for each in labels(dataset, "scan").values()] == [12, 5, 7]


def test_a_labelled_test_beside_plain_training_images(root):
    pictures(root / "scan" / "train", 40)
    for name in CLASSES:
        pictures(root / "scan" / "test" / name, 3)
    found = labels(FolderDataset(root), "scan")
    assert found["test"].tolist() == [0, 0, 0, 1, 1, 1]
    assert set(found["train"]) == set(found["val"]) == {NO_LABEL}
    assert len(found["train"]) + len(found["val"]) == 40


@pytest.mark.parametrize("place", ["scan/unlabeled", "scan/train/unlabeled"])
def test_labelled_and_unlabelled_folders_mix(root, place):
    """Those without a label are all trained on; what is tested has labels."""
    given = place.startswith("scan/train")
    for name in CLASSES:
        pictures(root / "scan" / ("train" if given else "") / name, 20)
        if given:
            pictures(root / "scan" / "test" / name, 4)
    pictures(root / place, 15)
    dataset = FolderDataset(root)
    found = labels(dataset, "scan")
    assert (found["train"] == NO_LABEL).sum() == 15 and (found["train"] >= 0).any()
    assert (found["val"] >= 0).all() and (found["test"] >= 0).all()
    assert dataset.unlabelled("scan") and dataset.classes_of("scan") == CLASSES
    assert sum(map(len, found.values())) == 40 + 15 + 8 * given


def test_unlabelled_images_beside_split_folders_are_for_training(root):
    for name in CLASSES:
        pictures(root / "scan" / "test" / name, 4)
    pictures(root / "scan" / "unlabeled", 30)
    found = labels(FolderDataset(root), "scan")
    assert found["test"].tolist() == [0] * 4 + [1] * 4
    assert set(found["train"]) == set(found["val"]) == {NO_LABEL}


def test_loose_images_beside_class_folders_are_passed_over(root):
    pictures(root / "photo", 2, start=90)
    dataset = FolderDataset(root)
    assert [why for _, why in dataset.skipped] == ["outside of any class folder"] * 2
    assert not dataset.unlabelled("photo")


def test_folders_without_any_class_are_explained(tmp_path):
    pictures(tmp_path / "cat", 3)
    pictures(tmp_path / "dog", 3)
    with pytest.raises(DataError, match="holds folders of classes.*domain/class/image.*cat, dog"):
        FolderDataset(tmp_path)
    (tmp_path / "flat").mkdir()
    pictures(tmp_path / "flat", 3)
    with pytest.raises(DataError, match=r"holds images and no folders.*data.target="):
        FolderDataset(tmp_path / "flat")
    for file in [*(tmp_path / "cat").iterdir()]:
        file.rename(file.with_suffix(".heic"))
    pictures(tmp_path / "photo" / "red", 3)
    with pytest.raises(DataError, match=r"folder .*cat has no images that can be read.*\.heic"):
        FolderDataset(tmp_path).source("cat", "train")


HEADS = {"none": "", "a header": "path\n", "blank lines": "\n\n"}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["scan_list.txt", "scan.txt", "scan.csv", "scan_unlabeled.txt"])
def test_a_list_of_paths(root, head, name):
    pictures(root / "files", 40)
    rows = [f"photo/{c}/{i}.png {c}\n" for c in CLASSES for i in range(20)]
    photo = "photo_list.txt" if "_" in name else "photo.txt"
    (root / photo).write_text("".join(rows))
    rows = [f"./files/{i}.png\n" for i in range(40)]
    (root / name).write_text(HEADS[head] + "".join(rows))
    dataset = open_dataset(root=str(root))
    assert isinstance(dataset, ListDataset) and dataset.classes == CLASSES
    check_bare(dataset, "scan", 40)


def test_lists_with_and_without_labels_mix(root):
    rows = [f"photo/{c}/{i}.png {k}\n" for k, c in enumerate(CLASSES) for i in range(20)]
    (root / "photo_list.txt").write_text("".join(rows))
    (root / "scan_train.txt").write_text("".join(rows[:15] + rows[20:35]))
    (root / "scan_test.txt").write_text("".join(rows[15:20] + rows[35:]))
    pictures(root / "more", 8)
    (root / "scan_unlabeled.txt").write_text("".join(f"more/{i}.png\n" for i in range(8)))
    found = labels(ListDataset(root), "scan")
    assert (found["train"] == NO_LABEL).sum() == 8
    assert (found["val"] >= 0).all() and len(found["val"])
    assert found["test"].tolist() == [0] * 5 + [1] * 5
    assert sum(map(len, found.values())) == 48
    (root / "scan_unlabeled.txt").write_text("more/0.png\nmore/1.png 1\n")
    with pytest.raises(DataError, match="scan_unlabeled.txt, line 1"):
        ListDataset(root)
    (root / "scan_unlabeled.txt").write_text("more/0.png\nmore/1.png\nphoto/cat/0.png 1\n")
    with pytest.raises(DataError, match="scan_unlabeled.txt, line 3: expected the path of an"):
        ListDataset(root)


def test_lists_of_paths_alone_need_a_labelled_one(root):
    (root / "a_list.txt").write_text("photo/cat/0.png\n")
    with pytest.raises(DataError, match="a_list.txt is a list of paths alone, and no other list"):
        ListDataset(root)


def test_paths_with_blanks_are_quoted(tmp_path):
    file = tmp_path / "a_list.txt"
    file.write_text('"a b.png"\n"c.png"\n')
    assert read_list(file).paths == ["a b.png", "c.png"] and read_list(file).labels == ["", ""]
    file.write_text("cat a.png\ndog b.png\n")  # a label first, as ever
    assert read_list(file).labels == ["cat", "dog"]


def test_a_file_of_names_beside_folders_is_no_list(root):
    """Nor does it turn folders of classes into lists."""
    (root / "files.txt").write_text("photo/cat/0.png\nphoto/cat/1.png\n")
    assert isinstance(open_dataset(root=str(root)), FolderDataset)


def arrays():
    images = np.arange(40 * 48, dtype=np.uint32).astype(np.uint8).reshape(10, 4, 4, 12)[..., :3]
    images = np.ascontiguousarray(np.tile(images, (4, 1, 1, 1)))
    images[:, 0, 0, 0] = np.arange(40)
    parts = {}
    for domain, given in (("photo", [0, 1] * 5), ("scan", None)):
        parts[domain] = {
            split: ArraySource(
                images[10 * k :][:10], given, classes=CLASSES, domain=domain, split=split
            )
            for k, split in enumerate(SPLITS)
        }
    return ArrayDataset(parts)


def test_arrays_without_labels():
    dataset = arrays()
    check_bare(dataset, "scan", 30)
    one = {"classes": CLASSES, "domain": "d"}
    mixed = ArraySource(np.zeros((3, 4, 4, 3), np.uint8), [1, NO_LABEL, 0], **one)
    assert mixed[1].label == NO_LABEL and ArrayDataset({"d": {"train": mixed}}).unlabelled("d")
    with pytest.raises(DataError, match="run from -2 to 1"):
        ArraySource(np.zeros((2, 4, 4, 3), np.uint8), [1, -2], **one)


def test_derived_sources_keep_what_has_no_label():
    dataset = arrays()
    joined = JoinedDataset(dataset, ("photo", "scan"), "photo+scan")
    assert joined.unlabelled("photo+scan") and not joined.unlabelled("photo")
    source = joined.source("photo+scan", "train")
    assert source.labels.tolist() == [0, 1] * 5 + [NO_LABEL] * 10
    assert [source.name_of(i) for i in (0, 19)] == [source[0].name, source[19].name]
    part = Subset(source, [19, 1])
    assert part.labels.tolist() == [NO_LABEL, 1] and part.name_of(0) == source[19].name


def test_classes_come_from_the_source(root):
    """The target's images may be of any of them, whatever other domains have."""
    pictures(root / "scan", 40)
    for name in (*CLASSES, "emu"):
        pictures(root / "more" / name, 20)
    dataset = FolderDataset(root)
    kept, notes = match_classes(dataset, "photo", "scan", ("photo", "scan"))
    assert kept.classes == CLASSES and kept.classes_of("photo") == CLASSES
    assert not any("scan" in note for note in notes), notes
    check_bare(kept, "scan", 40)  # no label became that of the last class
    kept, _ = match_classes(dataset, "photo", "scan", ("more",), "intersection")
    assert kept.classes == CLASSES and set(labels(kept, "more")["train"]) == {0, 1}
    with pytest.raises(ConfigError, match="'photo' and 'more' differ: 1 only in 'more'"):
        match_classes(dataset, "photo", "scan", ("more",))


def test_a_target_of_some_labels_may_be_of_any_class(root):
    pictures(root / "scan" / "cat", 20)
    pictures(root / "scan" / "unlabeled", 20)
    for how in ("closed", "intersection"):
        kept, _ = match_classes(FolderDataset(root), "photo", "scan", (), how)
        assert kept.classes == CLASSES
    pictures(root / "scan" / "emu", 20)
    with pytest.raises(ConfigError, match="1 only in 'scan'"):
        match_classes(FolderDataset(root), "photo", "scan", ())
