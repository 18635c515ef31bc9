"""List files: a line for each image, its path and its label. Reading one, finding several."""

from __future__ import annotations

import csv
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import shown
from clipjax.data.readers.files import is_picture_name
from clipjax.data.splits import SPLITS, WHOLE, split_of
from clipjax.errors import DataError

SUFFIXES = (".txt", ".csv", ".tsv")
PLACES = ("", "splits", "lists", "splits_mini", "image_list", "txt")  # below the root, in turn
CLASSES = "classes.txt"


class Lines(NamedTuple):
    """The lines of one list file, apart from its header and blank lines."""

    file: pathlib.Path
    paths: list[str]
    labels: list[str]
    numbers: np.ndarray  # int32 [N], of the lines, from 1

    def at(self, index: int) -> str:
        """The place of a line, for messages."""
        return f"{shown(self.file)}, line {self.numbers[index]}"


def read_list(file: str | os.PathLike) -> Lines:
    """Reads `path label`, `path,label` or `path<tab>label` lines, with or without a header.

    Paths may hold spaces; what is separated by commas may be quoted. The separator is that of the
    first line.

    Raises:
      DataError: the file cannot be read, holds no lines, or one that is not a path and a label.
    """
    file = pathlib.Path(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(_rows(stream, file))
    except OSError as error:
        raise DataError(f"{shown(file)} cannot be read ({error.strerror}); restore it.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(file)} is not a text of paths and labels ({error}).") from None
    if _has_header(rows):
        rows = rows[1:]
    if not rows:
        raise DataError(
            f"{shown(file)} lists no images; fill it with lines `path label`, or remove it."
        )
    paths, labels, numbers = zip(*rows, strict=True)
    return Lines(file, list(paths), list(labels), np.array(numbers, np.int32))


def _has_header(rows: list[tuple[str, str, int]]) -> bool:
    """Whether the first line is no image, unlike the second if there is one."""
    return (
        bool(rows)
        and not is_picture_name(rows[0][0])
        and all(is_picture_name(path) for path, _, _ in rows[1:2])
    )


def _rows(stream, file: pathlib.Path) -> Iterator[tuple[str, str, int]]:
    """(path, label, number of the line) of every line that is not blank."""
    first = next((line for line in stream if line.strip()), "")
    stream.seek(0)
    separator = _separator(first, file.suffix)
    if separator == " ":
        parts = ((n, _words(line)) for n, line in enumerate(stream, 1) if line.strip())
    else:
        reader = csv.reader(stream, delimiter=separator, skipinitialspace=True)
        parts = ((reader.line_num, row) for row in reader if any(map(str.strip, row)))
    for number, row in parts:
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise DataError(
                f"{shown(file)}, line {number}: expected a path and a label separated by "
                f"{_SPOKEN[separator]}, as in the first line."
            )
        path = row[0].strip()
        yield path[2:] if path.startswith("./") else path, sys.intern(row[1].strip()), number


_SPOKEN = {" ": "a space", ",": "a comma", "\t": "a tab"}


def _words(line: str) -> list[str]:
    """What stands before the last space, quoted or not, and what stands after it."""
    parts = line.rsplit(None, 1)
    return [parts[0].strip().strip('"'), parts[1]] if len(parts) == 2 else parts


def _separator(line: str, suffix: str) -> str:
    """Of a first line that may be a header.

    >>> [_separator(line, ".txt") for line in ("a b.jpg 3", "a b.jpg,3", "a,b.jpg 3")]
    [' ', ',', ' ']
    """
    if "\t" in line or suffix == ".tsv":
        return "\t"
    if suffix == ".csv":
        return ","
    words = _words(line)
    if len(words) == 2 and is_picture_name(words[0]):
        return " "
    return "," if "," in line else " "


def find_lists(folder: str | os.PathLike) -> dict[str, dict[str, pathlib.Path]]:
    """The lists in a folder: domain -> split -> file; the split is "" where a list has none.

    `{domain}_train.txt`, `_val`, `_test`, or `{domain}_list.txt` for a domain that comes without
    splits (.csv and .tsv too). Where none is called so, every text file that begins like a list is
    that of the domain it is named after. Of files called like lists, those of domains for which
    none begins like one are something else (`class_list.txt`), if there are any other lists.

    Raises:
      DataError: two lists for the same part.
    """
    files = [f for f in sorted(pathlib.Path(folder).iterdir()) if _is_candidate(f)]
    named: dict[str, dict[str, pathlib.Path]] = {}
    for file in files:
        domain, _, kind = file.stem.rpartition("_")
        if domain and kind.lower() == "list":
            _add(named, domain, WHOLE, file)
        elif domain and (split := split_of(kind)):
            _add(named, domain, split, file)
    sure = {d: f for d, f in named.items() if any(map(_begins_like_a_list, f.values()))}
    named = sure or named
    if not named:
        for file in filter(_begins_like_a_list, files):
            _add(named, file.stem, WHOLE, file)
    order = (WHOLE, *SPLITS)
    return {d: dict(sorted(f.items(), key=lambda p: order.index(p[0]))) for d, f in named.items()}


def _is_candidate(file: pathlib.Path) -> bool:
    plain = not file.name.startswith(".") and file.name != CLASSES
    return plain and file.suffix.lower() in SUFFIXES and file.is_file()


def _add(lists: dict, domain: str, split: str, file: pathlib.Path) -> None:
    parts = lists.setdefault(domain, {})
    others = [f for s, f in parts.items() if s == split or WHOLE in (s, split)]
    if others:
        raise DataError(
            f"{shown(file.parent)} holds both {others[0].name} and {file.name}, two lists for the "
            f"same images of domain {domain!r}; keep one, or put them into folders and choose with "
            "data.lists."
        )
    parts[split] = file


def _begins_like_a_list(file: pathlib.Path) -> bool:
    """Whether the first or, after a header, the second line is the path of an image and a label."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            lines = [stream.readline(4096) for _ in range(2)]
    except OSError as error:
        raise DataError(f"{shown(file)} cannot be read ({error.strerror}); restore it.") from None
    separator = _separator(lines[0] if lines[0].strip() else lines[1], file.suffix)
    for line in lines:
        if separator == " ":
            row = _words(line)
        else:
            row = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        if len(row) == 2 and is_picture_name(row[0].strip()) and row[1].strip():
            return True
    return False


def find_folder(root: pathlib.Path, lists: str = "") -> pathlib.Path | None:
    """The folder of lists: the one asked for (relative to the root or not), or where some lie.

    Files that are only called like lists (`class_list.txt`, of classes) make no folder of lists.
    """
    if lists:
        places = [root / lists, pathlib.Path(lists).expanduser()]
        chosen = next((place for place in places if place.is_dir()), None)
        if chosen is None:
            raise DataError(f"data.lists {lists!r} does not exist; give the folder of list files.")
        return chosen
    return next((p for p in _places(root) if _holds_lists(p)), None)


def find_doubtful_folder(root: pathlib.Path) -> pathlib.Path | None:
    """Where files are at least called like lists, to say what is wrong with them."""
    return next((p for p in _places(root) if find_lists(p)), None)


def _places(root: pathlib.Path) -> list[pathlib.Path]:
    return [place for place in (root / name for name in PLACES) if place.is_dir()]


def _holds_lists(folder: pathlib.Path) -> bool:
    """Whether any of its files begins like a list."""
    found = find_lists(folder).values()
    return any(_begins_like_a_list(file) for parts in found for file in parts.values())


def class_names(*folders: pathlib.Path) -> tuple[str, ...]:
    """The lines of the first `classes.txt` in these folders; () without one.

    Raises:
      DataError: it cannot be read, is empty, or names a class twice.
    """
    file = next((f / CLASSES for f in folders if (f / CLASSES).is_file()), None)
    if file is None:
        return ()
    try:
        names = tuple(line.strip() for line in file.read_text("utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{shown(file)} cannot be read ({error}); it needs a name on each line, in UTF-8."
        ) from None
    names = tuple(itertools.dropwhile(lambda name: not name, names[::-1]))[::-1]
    if not names or len(set(names)) < len(names) or "" in names:
        raise DataError(f"{shown(file)} needs one name on each line, each a different one.")
    return names
