"""Datasets whose images are named in list files: DomainNet as published, and any other."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Skipped, check_domain, check_root, shown
from clipjax.data.readers.archive_names import find_archive
from clipjax.data.readers.archives import open_archive
from clipjax.data.readers.files import Files, FileSource, Names, Store, look, problem
from clipjax.data.readers.list_files import (
    CLASSES,
    PLACES,
    Lines,
    class_names,
    find_doubtful_folder,
    find_folder,
    find_lists,
    read_list,
)
from clipjax.errors import DataError


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
    beside the lists or in the root, names their numbers. All domains share one numbering, so a
    domain may lack a class.

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
        found = self._find(lists)
        self.domains = tuple(sorted(found))
        self._given = {domain: tuple(found[domain]) for domain in self.domains}
        keys = [(d, split) for d in self.domains for split in found[d]]
        lines = [read_list(found[domain][split]) for domain, split in keys]
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

    def _find(self, lists: str) -> dict[str, dict[str, pathlib.Path]]:
        folder = find_folder(self.root, lists) or find_doubtful_folder(self.root)
        found = find_lists(folder) if folder else {}
        if not found:
            raise DataError(
                f"{shown(folder or self.root)} holds no list files; expected DOMAIN_train.txt and "
                "DOMAIN_test.txt, or DOMAIN_list.txt, of lines `path label` (DomainNet offers them "
                "beside its zips)."
            )
        return found

    def _positions(self, key: tuple[str, str], lines: Lines) -> np.ndarray:
        """Where a hash puts the images, if any split needs it."""
        domain, part = key
        given = self._given[domain]
        if not any(splits.origin(s, given)[0] == part != s for s in splits.SPLITS):
            return np.zeros(len(lines.paths))
        return splits.positions(splits.file_key(*_folder_and_name(path)) for path in lines.paths)

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """All classes: the lists have one numbering for all domains."""
        check_domain(self, domain)
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
        check_domain(self, domain)
        given = self._given[domain]
        part = self._parts[domain, splits.origin(split, given)[0]]
        splits.check_single(split, given, part.labels, self.classes, domain, self.fractions)
        rows = np.flatnonzero(
            splits.members(split, given, part.positions, part.labels, self.fractions)
        )
        files, labels = part.files.take(rows), part.labels[rows]
        return FileSource(files, labels, classes=self.classes, domain=domain, split=split)


def number_labels(
    lists: Sequence[Lines], classes: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Class names, and the labels of every list as indices of them.

    Args:
      lists: of one dataset.
      classes: names of the labels, from `classes.txt`; () where there is none.

    Returns:
      The names, and int32 [N] for each list.

    Raises:
      DataError: the file and line of a label that is out of range or unknown, or that gives a class
        a second name or number.
    """
    texts = {text for lines in lists for text in lines.labels}
    digits = {text for text in texts if text.removeprefix("-").isdecimal()}
    if digits and digits != texts:
        lines, i = _first(lists, texts - digits)
        raise DataError(
            f"{lines.at(i)}: label {lines.labels[i]!r} is a name where others are numbers; use one "
            "or the other."
        )
    if not digits:
        names = tuple(classes) or tuple(sorted(texts))
        number = {name: label for label, name in enumerate(names)}
        _check_known(lists, texts - set(names), f"is not in {CLASSES}")
    else:
        names = tuple(classes) or _names_from_folders(lists)
        values = {text: int(text) for text in digits}
        if classes:
            number = values
            unknown = {text for text, value in values.items() if not 0 <= value < len(names)}
            _check_known(lists, unknown, f"is not within 0 and {len(names) - 1}, as {CLASSES} says")
            _check_folders(lists, names)
        else:  # numbers that no list uses are left out
            dense = {value: label for label, value in enumerate(sorted(set(values.values())))}
            number = {text: dense[value] for text, value in values.items()}
    return names, [np.array([number[t] for t in lines.labels], np.int32) for lines in lists]


def _first(lists: Sequence[Lines], texts: set[str]) -> tuple[Lines, int]:
    """Where one of these labels stands first."""
    places = ((lines, i) for lines in lists for i, t in enumerate(lines.labels) if t in texts)
    return next(places)


def _check_known(lists: Sequence[Lines], unknown: set[str], what: str) -> None:
    if unknown:
        lines, i = _first(lists, unknown)
        raise DataError(f"{lines.at(i)}: label {lines.labels[i]!r} {what}; correct either.")


def _check_folders(lists: Sequence[Lines], names: Sequence[str]) -> None:
    """Refuses a `classes.txt` that gives the name of an image's folder to another number."""
    number = {name: label for label, name in enumerate(names)}
    for lines in lists:
        for i, (path, text) in enumerate(zip(lines.paths, lines.labels, strict=True)):
            folder = _folder_and_name(path)[0]
            if number.get(folder, int(text)) != int(text):
                raise DataError(
                    f"{lines.at(i)}: an image in folder {folder!r} has label {text}, but {CLASSES} "
                    f"calls {text} {names[int(text)]!r} and gives {folder!r} the number "
                    f"{number[folder]}; correct either, or remove {CLASSES}."
                )


def _folder_and_name(path: str) -> tuple[str, str]:
    """The class folder and the name of a file, from its path in a list.

    >>> _folder_and_name("real/cat/1.jpg"), _folder_and_name("1.jpg")
    (('cat', '1.jpg'), ('', '1.jpg'))
    """
    parts = path.rsplit("/", 2)
    return (parts[-2] if len(parts) > 1 else ""), parts[-1]


def _names_from_folders(lists: Sequence[Lines]) -> tuple[str, ...]:
    """The class names in the order of their numbers: the folders that their images lie in."""
    pairs: dict[tuple[str, int], tuple[Lines, int]] = {}
    for lines in lists:
        folders = (_folder_and_name(path)[0] for path in lines.paths)
        for i, pair in enumerate(zip(folders, lines.labels, strict=True)):
            pairs.setdefault((pair[0], int(pair[1])), (lines, i))
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    for (name, number), (lines, i) in pairs.items():
        known, other = names.setdefault(number, name), numbers.setdefault(name, number)
        if number < 0 or not name:
            fault = "is below 0" if number < 0 else "belongs to a path without a class folder"
            raise DataError(
                f"{lines.at(i)}: label {number} {fault}; correct it, or name the labels in "
                f"{CLASSES}."
            )
        if known != name or other != number:
            contrary = f"{known!r}" if known != name else f"{other}"
            raise DataError(
                f"{lines.at(i)}: class {name!r} has label {number}, which before was "
                f"{contrary}; class names come from the folders of the images: use lists of one "
                f"kind, or name the labels in {CLASSES}."
            )
    return tuple(names[number] for number in sorted(names))


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
            f"{count:,} of {total:,} listed images are not in {shown(root)}: {', '.join(first)}"
            f"{', ...' if count > 5 else ''}; add them, or take out the lists of what is not there"
            f"{_instead(root, places)}."
        )
    return [found[number][0] for number in range(len(lists))]


def _instead(root: pathlib.Path, opened: Collection[pathlib.Path | None]) -> str:
    """What else a root could be read as: zips that stand for nothing listed, or its folders."""
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
    numbers: dict[str, int] = {}
    parts = [path.rpartition("/") for path in paths]
    folder = [numbers.setdefault(part[0], len(numbers)) for part in parts]
    names = Names.pack(part[2] for part in parts)
    files = look(root, list(numbers), np.array(folder, np.int32), names)
    return files, files.sizes >= 0
