"""Datasets whose images are named in list files: DomainNet as published, and any other."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Skipped, check_domain, check_root
from clipjax.data.readers.archive_names import find_archive
from clipjax.data.readers.archives import open_archive
from clipjax.data.readers.files import Files, FileSource, Names, Store, look, problem
from clipjax.data.readers.list_files import (
    PLACES,
    Lines,
    class_names,
    divided,
    find_doubtful_folder,
    find_folder,
    find_lists,
    read_list,
)
from clipjax.data.readers.list_labels import folder_and_name, number_labels
from clipjax.data.readers.spelling import respelled
from clipjax.data.splits import WHOLE
from clipjax.errors import DataError
from clipjax.io.texts import shown, some


class _Part(NamedTuple):
    """The images of one list that can be read."""

    files: Store
    labels: np.ndarray  # int32 [N]
    positions: np.ndarray  # float64 [N], for splits by hash


class ListDataset:
    """Images named in `{domain}_train.txt`, `{domain}_test.txt` and their like, below one root.

    The official DomainNet is one: its six folders, or the six zips as downloaded, beside its lists.
    Lists may also lie in `splits`, `lists`, `splits_mini`, `image_list` or `txt` below the root.
    `find_lists` says how they are called, `read_list` what is in them. Splits without a list are
    taken out of train by a hash of class and file name; `{domain}_list.txt` is split so as a whole.

    A class is called like the folder of its images, unless labels are names or a `classes.txt`,
    beside the lists or in the root, names their numbers (`0.0` and `00` are 0, too). All domains
    share one numbering, so a domain may lack a class.

    Args:
      root: what paths are relative to.
      lists: the folder of lists, relative to the root or not; default: where some are found.
      fractions: shares of train, val and test where the lists give none.
      name: default: the root folder's.

    Raises:
      DataError: no lists; a line that is wrong; labels and names that contradict each other; images
        that are not there.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        lists: str = "",
        fractions: Sequence[float] = splits.FRACTIONS,
        name: str = "",
    ):
        self.root, self.fractions = (
            check_root(root, "the folder of images"),
            splits.check_fractions(fractions),
        )
        self.name = name or shown(self.root.absolute().name)
        parts = self._read(lists)
        self.domains = tuple(dict.fromkeys(domain for domain, _ in parts))
        self._given = {d: tuple(s for e, s in parts if e == d) for d in self.domains}
        keys, lines = list(parts), list(parts.values())
        folder = lines[0].file.parent
        self.classes, numbers = number_labels(lines, class_names(folder, self.root))
        stores = _open(self.root, lines)
        self._parts, skipped = {}, []
        for key, part, labels, store in zip(keys, lines, numbers, stores, strict=True):
            keep = np.flatnonzero(store.sizes > 0)
            empty = np.flatnonzero(store.sizes <= 0)
            skipped += [Skipped(shown(store.path(i)), problem(int(store.sizes[i]))) for i in empty]
            where = self._positions(key, part)
            self._parts[key] = _Part(store.take(keep), labels[keep], where[keep])
        self.skipped = tuple(skipped)

    def _read(self, lists: str) -> dict[tuple[str, str], Lines]:
        """(domain, split) -> its lines, of all files."""
        folder = find_folder(self.root, lists) or find_doubtful_folder(self.root)
        found = find_lists(folder) if folder else {}
        if not found:
            raise DataError(
                f"{shown(folder or self.root)} holds no list files; expected DOMAIN_train.txt and "
                "DOMAIN_test.txt, or DOMAIN_list.txt, of lines `path label` (DomainNet offers them "
                "beside its zips)."
            )
        files = [(domain, split, file) for domain in found for split, file in found[domain].items()]
        parts: dict[tuple[str, str], Lines] = {}
        for domain, split, file in files:
            for key, lines in divided(read_list(file), domain, split).items():
                _check_apart(parts, key, lines)
                parts[key] = lines
        order = (WHOLE, *splits.SPLITS)
        return dict(sorted(parts.items(), key=lambda part: (part[0][0], order.index(part[0][1]))))

    def _positions(self, key: tuple[str, str], lines: Lines) -> np.ndarray:
        """Hash positions of the images, if any split needs them."""
        domain, part = key
        given = self._given[domain]
        if not any(splits.origin(s, given)[0] == part != s for s in splits.SPLITS):
            return np.zeros(len(lines.paths))
        return splits.positions(splits.file_key(*folder_and_name(path)) for path in lines.paths)

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """All classes: the lists have one numbering for all domains."""
        domain = check_domain(self, domain)
        return self.classes

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split: always, as a list or dealt out of another."""
        return split in splits.SPLITS

    def source(self, domain: str, split: str) -> FileSource:
        """The examples of a domain and split, in the order of the list.

        Raises:
          ConfigError: an unknown domain.
          DataError: a class with a single image where all splits are made by hash.
        """
        domain = check_domain(self, domain)
        given = self._given[domain]
        part = self._parts[domain, splits.origin(split, given)[0]]
        splits.check_single(split, given, part.labels, self.classes, domain, self.fractions)
        rows = np.flatnonzero(
            splits.members(split, given, part.positions, part.labels, self.fractions)
        )
        files, labels = part.files.take(rows), part.labels[rows]
        return FileSource(files, labels, classes=self.classes, domain=domain, split=split)


def _check_apart(
    parts: Mapping[tuple[str, str], Lines], key: tuple[str, str], lines: Lines
) -> None:
    """Refuses lines for a part of a domain that another file has given already."""
    domain, split = key
    for (known, part), other in parts.items():
        if known == domain and (part == split or WHOLE in (part, split)):
            raise DataError(
                f"{shown(other.file)} and {lines.at(0)}, both list images of domain {domain!r}"
                f"{', ' + split if split else ''}; keep them in one."
            )


def _open(root: pathlib.Path, lists: Sequence[Lines]) -> list[Store]:
    """The images of every list, in its order.

    Raises:
      DataError: how many are not there, and the first five.
    """
    places = collections.defaultdict(list)
    for number, lines in enumerate(lists):
        places[_archive_of(root, lines.paths)].append(number)
    found: dict[int, tuple[Store, np.ndarray]] = {}
    for archive, numbers in places.items():
        paths = [lists[number].paths for number in numbers]
        opened = open_archive(archive, paths) if archive else [_look(root, p) for p in paths]
        found |= dict(zip(numbers, opened, strict=True))
    gone = [np.flatnonzero(~found[number][1]) for number in range(len(lists))]
    if count := sum(map(len, gone)):
        total = sum(len(lines.paths) for lines in lists)
        first = [lines.paths[i] for lines, at in zip(lists, gone, strict=True) for i in at[:5]][:5]
        raise DataError(
            f"{count:,} of {total:,} listed images are not in {shown(root)}: {some(first)}"
            f"{', ...' if count > 5 else ''}; add them, or take out the lists of what is not there"
            f"{_instead(root, places)}."
        )
    return [found[number][0] for number in range(len(lists))]


def _instead(root: pathlib.Path, opened: Collection[pathlib.Path | None]) -> str:
    """Other ways to read a root: zips that stand for nothing listed, or its folders."""
    unused = (f for f in root.iterdir() if f.suffix.lower() == ".zip" and f not in opened)
    if zips := sorted(f.name for f in unused):
        some = ", ".join(map(shown, zips[:3])) + (", ..." if len(zips) > 3 else "")
        return f"; a zip is read where it is called like the first folder of the paths ({some})"
    plain = (f for f in root.iterdir() if f.name not in PLACES and not f.name.startswith("."))
    if not any(folder.is_dir() for folder in plain):
        return ""
    return ", or read the folders without lists: --config.data.name=folder"


def _archive_of(root: pathlib.Path, paths: Sequence[str]) -> pathlib.Path | None:
    """The zip that stands in place of the one folder that all these paths begin with."""
    top = paths[0].split("/", 1)[0]
    if (root / top).is_dir() or not all(path.startswith(f"{top}/") for path in paths):
        return None
    return find_archive(root, top)


def _look(root: pathlib.Path, paths: Sequence[str]) -> tuple[Files, np.ndarray]:
    """Files by their paths, and bool [N]: which of them exist."""
    files = _look_at(root, paths)
    if all(paths[i].isascii() for i in np.flatnonzero(files.sizes < 0)):
        return files, files.sizes >= 0
    files = _look_at(root, respelled(root, paths))
    return files, files.sizes >= 0


def _look_at(root: pathlib.Path, paths: Sequence[str]) -> Files:
    numbers: dict[str, int] = {}
    parts = [path.rpartition("/") for path in paths]
    folder = [numbers.setdefault(part[0], len(numbers)) for part in parts]
    names = Names.pack(part[2] for part in parts)
    return look(root, list(numbers), np.array(folder, np.int32), names)
