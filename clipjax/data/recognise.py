"""Looks at what lies at a root and says which reader it is for."""

import collections
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from clipjax.data.dataset import check_root
from clipjax.data.readers.coop import coop_tables
from clipjax.data.readers.files import glimpse, is_picture_name, reachable, subfolders
from clipjax.data.readers.imagenet import BASE, NAMES
from clipjax.data.readers.list_files import find_folder, find_lists
from clipjax.data.readers.parquet_io import begins_parquet
from clipjax.data.readers.wilds import FMOW, IWILDCAM, REGIONS
from clipjax.errors import DataError
from clipjax.io.texts import GLANCE, begin_text, shown, some

_GLANCE = 2000  # files that are looked at to say what a root holds
_INFO, _FEATURES = "dataset_info.json", "features.json"  # of a builder of TensorFlow Datasets
READABLE = (
    "folders domain/class/image, lists of `path label`, DomainNet's zips with their lists, "
    "Parquet, prepared TensorFlow Datasets, and WILDS' FMoW and iWildCam, CoOp's datasets and "
    "ImageNet with its variants as published"
)
_REMEDIES = {
    ".arrow": "datasets.load_from_disk(...).to_parquet(...) writes Parquet of it",
    ".tar": "unpack the tar files into domain/class/image",
    ".tgz": "unpack the archives into domain/class/image",
    ".gz": "unpack the archives into domain/class/image",
    ".7z": "unpack the archives into domain/class/image",
    ".rar": "unpack the archives into domain/class/image",
    ".tfrecord": "prepare it as ArrayRecord, with dataset_info.json beside it (docs/your-data.md)",
    ".h5": "write its images as files",
    ".hdf5": "write its images as files",
    ".npz": "write its images as files, or pass arrays in Python (ArrayDataset)",
    ".npy": "write its images as files, or pass arrays in Python (ArrayDataset)",
    ".mat": "write its images as files",
    ".lmdb": "write its images as files",
    ".mdb": "write its images as files",
}


class Kind(NamedTuple):
    """The reader of a root, and why this one."""

    name: str  # as `data.name`
    why: str  # "the root is read as ..."


def recognise(root: str | os.PathLike, lists: str = "") -> Kind:
    """Say which reader is for what lies at a root; `lists` is the folder of lists, if one is named.

    Looks at names and at the first lines of text files, not at images: quick for millions of these.

    DataError for a root that is no folder, that fits several readers, or none.
    """
    folder = check_root(root or lists, "the folder of a dataset")
    place = shown(folder)
    if not lists and (published := _published(folder)):
        return published
    if lists:
        return Kind("lists", f"the root is read by the lists in {lists}")
    found = {}
    if builder := next(_prepared(folder), None):
        name = f"tfds:{folder.absolute()}"
        found[name] = f"prepared TensorFlow Datasets ({_below(builder, folder)})"
    if begins_parquet(folder):
        found["parquet"] = "Parquet files"
    pictures = next(_image_folders(folder), None)
    if where := find_folder(folder):
        files = (file for each in find_lists(where, asked=False).values() for file in each.values())
        names = some((shown(file.relative_to(folder)) for file in files), 3)
        found["lists"] = f"images in lists ({names})"
    elif pictures:
        found["folder"] = f"folders of images ({_below(pictures, folder)}, ...)"
    if len(found) > 1:
        names = " or ".join(f"data.name={name}" for name in found)
        raise DataError(f"{place} holds {' and '.join(found.values())}; say which: {names}.")
    if not found:
        return _misfit(folder)
    ((name, what),) = found.items()
    aside = "; data.name=folder would leave the lists aside" * (name == "lists" and bool(pictures))
    return Kind(name, f"the root is read as {what}{aside}")


def _published(folder: pathlib.Path) -> Kind | None:
    """Recognise the layout of a publisher by the names of its tables."""
    kinds = {
        "wilds_fmow": ((FMOW, REGIONS), "WILDS FMoW"),
        "wilds_iwildcam": ((IWILDCAM, "train"), "WILDS iWildCam"),
        "imagenet": ((f"{BASE}/{NAMES}",), "ImageNet and its variants"),
    }
    for name, (files, what) in kinds.items():
        animals = name != "wilds_iwildcam" or _begins_iwildcam(folder / IWILDCAM)
        if all((folder / file).exists() for file in files) and animals:
            return Kind(name, f"the root is read as {what} ({files[0]})")
    if tables := coop_tables(folder):
        return Kind("coop", f"the root is read as a dataset of CoOp's ({shown(tables[0].name)})")
    return None


def _begins_iwildcam(file: pathlib.Path) -> bool:
    """Return whether the header of a `metadata.csv`, of which there are many kinds, is iWildCam's.

    Two of its columns are enough: others that are missing are for the reader to tell.
    """
    if not file.is_file():
        return False
    with reachable(file), open(file, "rb") as opened:
        header = begin_text(opened.read(GLANCE)).split("\n", 1)[0]
    return {"location_remapped", "sequence_remapped"} <= set(header.strip().split(","))


def _below(path: pathlib.Path, root: pathlib.Path) -> str:
    return shown(path.relative_to(root))


def _prepared(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Find builders of TensorFlow Datasets: root/version, root/config/version, or root itself."""
    inner = subfolders(root)
    for place in itertools.chain((root, *inner), *map(subfolders, inner)):
        if (place / _INFO).is_file() and (place / _FEATURES).is_file():
            yield place


def _image_folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Find folders of images: domain/class, domain/split/class, or a domain's plain images."""
    holds = lambda folder: any(map(is_picture_name, glimpse(folder)))
    for domain in subfolders(root):
        for inner in subfolders(domain):
            yield from filter(holds, (inner, *subfolders(inner)))
        yield from filter(holds, (domain,))


def _misfit(folder: pathlib.Path) -> Kind:
    """Say that nothing there can be read, and what it is; empty places and zips are for readers."""
    walked = (names for _, _, names in os.walk(folder))
    names = list(itertools.islice(itertools.chain.from_iterable(walked), _GLANCE))
    names = [name for name in names if not name.startswith(".")]
    ends = collections.Counter(pathlib.PurePath(name).suffix.lower() or name for name in names)
    if not names or ".zip" in ends or find_folder(folder, doubtful=True):
        return Kind("folder", "the root is read as folders of images")
    held = some((f"{number} {end}" for end, number in ends.most_common()), 4)
    remedy = next((_REMEDIES[end] for end, _ in ends.most_common() if end in _REMEDIES), "")
    if any(map(is_picture_name, names)) and not remedy:
        remedy = "move the images into folders of classes in a folder of their domain"
    fault = f"{shown(folder)} holds nothing that clipjax reads ({held}); it reads {READABLE}"
    raise DataError(f"{fault}{'; ' * bool(remedy)}{remedy}.")
