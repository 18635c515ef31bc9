"""Images without labels that lie anywhere: in a folder, by a pattern, in a list of paths."""

import glob
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Dataset, Skipped, Source, check_domain, check_local
from clipjax.data.readers.files import (
    FileSource,
    Names,
    is_image_name,
    is_picture_name,
    look,
    unusable,
)
from clipjax.data.readers.list_files import SUFFIXES, read_list
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown


def is_place(name: str) -> bool:
    """Return whether the name of a domain may be a place: a path, or a pattern of paths.

    >>> [is_place(name) for name in ("/scans", "~/scans", "scans/*.png", "*.png", "scans")]
    [True, True, True, True, False]
    """
    return os.sep in name or name.startswith("~") or glob.has_magic(name)


def find_images(place: str, root: str = "") -> list[str]:
    """Find the files that a place names, as absolute paths, sorted, images or not.

    A pattern means what it matches, `**` any folders; a list (.txt, .csv, .tsv) the paths in it,
    relative to where it lies or to the root; a folder the files right in it. Places are relative
    to the root, or else to the working directory. DataError for nothing there.
    """
    check_local(place, "target")
    path = os.path.expanduser(place)
    below = os.path.join(os.path.expanduser(root), path) if root else path
    if glob.has_magic(path) and not os.path.exists(below) and not os.path.exists(path):
        found = glob.glob(below, recursive=True) or glob.glob(path, recursive=True)
        files = [file for file in found if os.path.isfile(file)]
    else:
        there = below if os.path.exists(below) else path
        if not os.path.exists(there):
            told = f"data.target {place!r} is no domain of the data and does not exist"
            raise DataError(f"{told}; give a folder, a list of paths or a pattern like dir/*.png.")
        files = [e.path for e in os.scandir(there) if e.is_file()] if os.path.isdir(there) else []
        if not os.path.isdir(there):
            files = _listed(there, root)
    visible = (file for file in files if not os.path.basename(file).startswith("."))
    return sorted(map(os.path.abspath, visible))


def _listed(file: str, root: str) -> list[str]:
    """Return the paths in a list of them; DataError for another file, or files that are missing."""
    if not file.lower().endswith(SUFFIXES):
        told = f"data.target {shown(file)!r} is a file"
        raise DataError(f"{told}; give a folder, a list of paths (.txt) or a pattern like *.png.")
    lines = read_list(file)
    bases = [os.path.dirname(os.path.abspath(file)), os.path.expanduser(root) or "."]
    for i, path in enumerate(lines.paths):
        there = (p for base in bases if os.path.exists(p := os.path.join(base, path)))
        lines.paths[i] = next(there, path)
        if not os.path.exists(lines.paths[i]):
            told = (
                f"{lines.at(i)}: {shown(path)!r} is neither in {shown(bases[0])} nor in data.root"
            )
            raise DataError(f"{told}; correct it, or give absolute paths.")
    return lines.paths


class WithPlace(Dataset):
    """A dataset with one more domain, named after a place: its images, none with a label.

    They are dealt to splits by a hash of folder and name. DataError for a place without images.
    """

    def __init__(
        self,
        dataset: Dataset,
        place: str,
        root: str = "",
        fractions: Sequence[float] = splits.FRACTIONS,
    ):
        self._dataset, self._name, self._fractions = dataset, nfc(place), fractions
        self.name, self.classes = dataset.name, dataset.classes
        self.domains = (*dataset.domains, self._name)
        found = find_images(place, root)
        folders = list(dict.fromkeys(map(os.path.dirname, (f for f in found if is_image_name(f)))))
        images = [os.path.split(file) for file in found if is_image_name(file)]
        number = {folder: k for k, folder in enumerate(folders)}
        folder = np.array([number[folder] for folder, _ in images], np.int32)
        files = look(os.sep, folders, folder, Names.pack(name for _, name in images))
        others = [f for f in found if is_picture_name(f) and not is_image_name(f)]
        unread = (
            Skipped(shown(f), f"images of this kind are not read ({_suffix(f)})") for f in others
        )
        self.skipped = (*dataset.skipped, *unread, *unusable(files))
        keep = np.flatnonzero(files.sizes > 0)
        if not len(keep):
            held = f"{len(found):,} files and no image that can be read" if found else "no files"
            raise DataError(f"data.target {place!r} holds {held}; give the place of some images.")
        self._files = files.take(keep)
        keys = (splits.file_key(os.path.basename(images[i][0]), images[i][1]) for i in keep)
        self._positions = splits.positions(keys)

    def classes_of(self, domain: str) -> tuple[str, ...]:
        return () if domain == self._name else self._dataset.classes_of(domain)

    def unlabelled(self, domain: str) -> bool:
        return domain == self._name or self._dataset.unlabelled(domain)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        return splits.SPLITS if domain == self._name else self._dataset.splits_of(domain)

    def source(self, domain: str, split: str) -> Source:
        if check_domain(self, domain) != self._name:
            return self._dataset.source(domain, split)
        labels = np.full(len(self._files), NO_LABEL, np.int32)
        where = lambda: self._positions
        rows = splits.deal(split, (splits.WHOLE,), where, labels, self._fractions)
        return FileSource(self._files.take(rows), labels[rows], self.classes, domain, split)


def _suffix(file: str) -> str:
    return pathlib.PurePath(file).suffix
