"""List files: a line for each image, its path and its label. Reading one, finding several."""

from __future__ import annotations

import collections
import csv
import itertools
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data.readers.files import is_picture_name
from clipjax.data.readers.tables import (
    SEPARATORS,
    Columns,
    Row,
    find_columns,
    rows,
    separator,
    words,
)
from clipjax.data.splits import SPLITS, WHOLE, split_of
from clipjax.errors import DataError
from clipjax.io.texts import GLANCE, begin_text, brief, class_name, nfc, read_text, shown

SUFFIXES = (".txt", ".csv", ".tsv")
PLACES = ("", "splits", "lists", "splits_mini", "image_list", "txt")  # below the root, in turn
CLASSES = "classes.txt"
GLIMPSE = 100  # entries of a folder, to see what it holds


class Lines(NamedTuple):
    """The lines of one list file, apart from its header and blank lines."""

    file: pathlib.Path
    paths: list[str]
    labels: list[str]
    numbers: np.ndarray  # int32 [N], of the lines, from 1
    splits: list[str] | None = None  # where a column names them
    domains: list[str] | None = None

    def at(self, index: int) -> str:
        """The place of a line, for messages."""
        return f"{shown(self.file)}, line {self.numbers[index]}"

    def take(self, rows: Sequence[int]) -> Lines:
        """Some of the lines, without columns for splits and domains."""
        paths, labels = [self.paths[i] for i in rows], [self.labels[i] for i in rows]
        return Lines(self.file, paths, labels, self.numbers[rows])


def read_list(file: str | os.PathLike) -> Lines:
    """Reads `path label`, `path,label`, `path;label` or `path<tab>label` lines.

    Paths may hold spaces; what is separated by other marks may be quoted. The separator is that of
    the first line. A header may name the columns, in any order and with others between them: those
    of paths and labels (`filepath`, `image`, ..., `class`, `target`, ...), and `split` and `domain`
    where there are such.

    Raises:
      DataError: the file cannot be read, holds no lines, or one that is not a path and a label; or
        it is not clear which columns hold them.
    """
    file = pathlib.Path(file)
    name, text = shown(file), read_text(file)
    first = next((line for line in text.split("\n") if line.strip()), "")
    mark = separator(first, file.suffix)
    found = list(rows(text, mark, name))
    if found:
        columns = find_columns(found[0], found[1] if len(found) > 1 else None, mark, name)
        found = found[columns.header :]
    if not found:
        raise DataError(f"{name} lists no images; fill it with lines `path label`, or remove it.")
    for row in found:
        fields = row[1]
        if len(fields) != columns.width or "" in fields or (mark == " " and " " in fields[0]):
            _check_row(row, columns, mark, name)
    column = lambda k: None if k is None else [row[1][k] for row in found]
    names = {label: class_name(label) for label in set(column(columns.label))}
    return Lines(
        file,
        [path.removeprefix("./") for path in column(columns.path)],
        [names[label] for label in column(columns.label)],
        np.array([row[0] for row in found], np.int32),
        column(columns.split),
        column(columns.domain),
    )


def _check_row(row: Row, columns: Columns, mark: str, name: str) -> None:
    """Raises DataError for a line with other columns than the first, or nothing in one needed."""
    number, fields = row
    if len(fields) != columns.width:
        wanted = "a path and a label" if columns.width == 2 else f"{columns.width} columns"
        raise DataError(
            f"{name}, line {number}: expected {wanted} separated by {SEPARATORS[mark]}, as in "
            "the first line."
        )
    if mark == " " and any(map(is_picture_name, fields[0].split()[:-1])):
        raise DataError(
            f"{name}, line {number} holds more than a path and a label; put what holds spaces "
            "into quotes, or separate by tabs."
        )
    for what in ("path", "label", "split", "domain"):
        if (place := getattr(columns, what)) is not None and not fields[place]:
            raise DataError(
                f"{name}, line {number}: expected a path and a label separated by "
                f"{SEPARATORS[mark]}, and the {what} is empty; fill it in, or take out the line."
            )


def divided(lines: Lines, domain: str, split: str) -> dict[tuple[str, str], Lines]:
    """(domain, split) -> the lines of a file that belong there, as its columns say or its name.

    Args:
      lines: of one file.
      domain: as its name says.
      split: as its name says; "" for none.

    Raises:
      DataError: the line whose split is none, or another than the file is named after.
    """
    if lines.splits is None and lines.domains is None:
        return {(domain, split): lines}
    parts: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for i in range(len(lines.paths)):
        own = split_of(lines.splits[i]) if lines.splits else split
        if own is None or (split and own != split):
            fault = f"the file is named after {split}" if own else "splits are train, val and test"
            raise DataError(
                f"{lines.at(i)} has split {brief(lines.splits[i])!r}, and {fault}; correct it, or "
                "take out the column."
            )
        parts[nfc(lines.domains[i]) if lines.domains else domain, own].append(i)
    return {part: lines.take(at) for part, at in parts.items()}


def find_lists(
    folder: str | os.PathLike, *, asked: bool = True
) -> dict[str, dict[str, pathlib.Path]]:
    """The lists in a folder: domain -> split -> file; the split is "" where a list has none.

    `{domain}_train.txt`, `_val`, `_test`, or `{domain}_list.txt` for a domain that comes without
    splits (.csv and .tsv too). Where none is called so, every text file that begins like a list is
    that of the domain it is named after. Of files called like lists, those of domains for which
    none begins like one are something else (`class_list.txt`), if there are any other lists.

    Args:
      folder: where they lie.
      asked: whether it is known that there are lists; else a table of more than two columns beside
        folders of classes (`metadata.csv`) is none.

    Raises:
      DataError: two lists for the same part.
    """
    files = [f for f in sorted(pathlib.Path(folder).iterdir()) if _is_candidate(f)]
    named: dict[str, dict[str, pathlib.Path]] = {}
    for file in files:
        domain, _, kind = nfc(shown(file.stem)).rpartition("_")
        if domain and kind.lower() == "list":
            _add(named, domain, WHOLE, file)
        elif domain and (split := split_of(kind)):
            _add(named, domain, split, file)
    sure = {d: f for d, f in named.items() if any(map(_speaks_of_images, f.values()))}
    named = sure or named
    if not named:
        widths = {file: _columns_of(file) for file in files}
        found = [file for file in files if widths[file] == 2]
        if not found and any(widths.values()) and (asked or not _holds_classes(folder)):
            found = [file for file in files if widths[file]]
        for file in found:
            _add(named, nfc(shown(file.stem)), WHOLE, file)
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


def _columns_of(file: pathlib.Path) -> int:
    """Columns of a file of which the first or, after a header, the second line names an image and
    more; 0 for other files."""
    lines = _first_lines(file)
    mark = separator(lines[0], file.suffix) if lines else " "
    for line in lines:
        row = words(line) if mark == " " else next(csv.reader([line], delimiter=mark), [])
        if len(row) > 1 and any(is_picture_name(field.strip()) for field in row):
            return len(row)
    return 0


def _holds_classes(folder: str | os.PathLike) -> bool:
    """Whether some `domain/class` folder in it is seen to hold images."""
    inner = (place for place in pathlib.Path(folder).glob("[!.]*/[!.]*") if place.is_dir())
    some = (file for place in inner for file in itertools.islice(place.iterdir(), GLIMPSE))
    return any(is_picture_name(file.name) for file in some)


def _speaks_of_images(file: pathlib.Path) -> bool:
    """Whether its first lines hold an image's name at all: of a file that is called like a list."""
    seen = (word for line in _first_lines(file) for word in re.split(r"[\s,;\"]", line))
    return any(map(is_picture_name, seen))


def _first_lines(file: pathlib.Path) -> list[str]:
    """The first two that are not blank."""
    try:
        with file.open("rb") as stream:
            lines = begin_text(stream.read(GLANCE)).split("\n")
    except OSError as error:
        raise DataError(f"{shown(file)} cannot be read ({error.strerror}); restore it.") from None
    return [line for line in lines if line.strip()][:2]


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
    """A folder whose files are at least called like lists, to say what is wrong with them."""
    return next((p for p in _places(root) if find_lists(p)), None)


def _places(root: pathlib.Path) -> list[pathlib.Path]:
    return [place for place in (root / name for name in PLACES) if place.is_dir()]


def _holds_lists(folder: pathlib.Path) -> bool:
    """Whether any of its files begins like a list, or is called like one and speaks of images."""
    found = find_lists(folder, asked=False).values()
    return any(_speaks_of_images(file) for parts in found for file in parts.values())


def class_names(*folders: pathlib.Path) -> tuple[str, ...]:
    """The lines of the first `classes.txt` in these folders; () without one.

    Raises:
      DataError: it cannot be read, is empty, or names a class twice.
    """
    file = next((f / CLASSES for f in folders if (f / CLASSES).is_file()), None)
    if file is None:
        return ()
    first: dict[str, int] = {}
    for number, line in enumerate(read_text(file).rstrip().split("\n"), 1):
        name = class_name(line)
        if not name or (known := first.setdefault(name, number)) < number:
            fault = f"names {name!r} again, as line {known} does" if name else "is empty"
            raise DataError(
                f"{shown(file)}, line {number} {fault}; it needs one name on each line, each a "
                "different one."
            )
    return tuple(first)
