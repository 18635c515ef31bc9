"""List files, with a line for each image, its path and its label: reads one, finds several."""

from __future__ import annotations

import collections
import csv
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data.readers import tables
from clipjax.data.readers.files import glimpse, is_picture_name, reachable
from clipjax.data.readers.folder_index import is_unlabelled
from clipjax.data.readers.tables import SEPARATORS, Columns, Row
from clipjax.data.splits import SPLITS, WHOLE, split_of
from clipjax.errors import DataError
from clipjax.io.texts import GLANCE, begin_text, brief, class_name, nfc, read_text, shown

SUFFIXES = (".txt", ".csv", ".tsv")
PLACES = ("", "splits", "lists", "splits_mini", "image_list", "txt")  # below the root, in turn
CLASSES = "classes.txt"
UNLABELLED = "unlabelled"  # in place of a split: a list whose labels, if any, are not read


class Lines(NamedTuple):
    """The lines of one list file, without its header and blank lines."""

    file: pathlib.Path
    paths: list[str]
    labels: list[str]
    numbers: np.ndarray  # int32 [N], of the lines, from 1
    splits: list[str] | None = None  # where a column names them
    domains: list[str] | None = None
    more: pathlib.Path | None = None  # where the last lines are from, whose labels are all ""
    first: int = 0  # of these

    def at(self, index: int) -> str:
        file = self.more if self.more and index >= self.first else self.file
        return f"{shown(file)}, line {self.numbers[index]}"

    def without_labels(self) -> Lines:
        """Return the same images without their labels."""
        return Lines(self.file, self.paths, [""] * len(self.paths), self.numbers)

    def followed_by(self, others: Lines) -> Lines:
        """Return these images, then those of a list `without_labels`."""
        both = [[*one, *two] for one, two in zip(self[1:3], others[1:3], strict=True)]
        numbers = np.concatenate([self.numbers, others.numbers])
        return Lines(self.file, *both, numbers, more=others.file, first=len(self.paths))

    def take(self, rows: Sequence[int]) -> Lines:
        """Return some of the lines, without columns for splits and domains."""
        paths, labels = [self.paths[i] for i in rows], [self.labels[i] for i in rows]
        return Lines(self.file, paths, labels, self.numbers[rows])


def read_list(file: str | os.PathLike) -> Lines:
    """Read `path label`, `path,label`, `path;label` or `path<tab>label` lines, or paths alone.

    The first line decides the separator. Paths may hold spaces; fields may be quoted. A header may
    name the columns, in any order, with others between them: of paths (`filepath`, `image`, ...),
    labels (`class`, `target`, ...), `split` and `domain`. A DataError names the unclear line.
    Images of a list of paths alone have the label "": none.
    """
    file = pathlib.Path(file)
    name, text = shown(file), read_text(file)
    if tables.bare([line for line in text.split("\n") if line.strip()][:2] or [""]):
        return _paths(file, text)
    first = next((line for line in text.split("\n") if line.strip()), "")
    mark = tables.separator(first, file.suffix)
    found = list(tables.rows(text, mark, name))
    if found:
        columns = tables.find_columns(found[0], found[1] if len(found) > 1 else None, mark, name)
        found = found[columns.header :]
    if not found:
        raise DataError(f"{name} lists no images; fill it with lines `path label`, or remove it.")
    for row in found:
        fields = row[1]
        if len(fields) != columns.width or "" in fields or (mark == " " and " " in fields[0]):
            _check_row(row, columns, mark, name)
    column = lambda k: None if k is None else [fields[k] for _, fields in found]
    names = {label: class_name(label) for label in set(column(columns.label))}
    return Lines(
        file,
        [path.removeprefix("./") for path in column(columns.path)],
        [names[label] for label in column(columns.label)],
        np.array([number for number, _ in found], np.int32),
        column(columns.split),
        column(columns.domain),
    )


def _paths(file: pathlib.Path, text: str) -> Lines:
    """Read a list of paths alone, one a line, with or without a header."""
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    found = [(n, tables.lone(line)) for n, line in lines]
    for (number, path), (_, line) in list(zip(found, lines, strict=True))[1:]:
        if not is_picture_name(path):
            told = f"{shown(file)}, line {number}: expected the path of an image alone, as in the"
            raise DataError(f"{told} first line, and it is {brief(line)!r}; correct it.")
    found = found[not is_picture_name(found[0][1]) :]
    paths = [path.removeprefix("./") for _, path in found]
    return Lines(file, paths, [""] * len(found), np.array([n for n, _ in found], np.int32))


def _check_row(row: Row, columns: Columns, mark: str, name: str) -> None:
    """Raise DataError for a line with other columns than the first, or nothing in a needed one."""
    number, fields = row
    needed = {what: at for what in tables.NAMES if (at := getattr(columns, what)) is not None}
    empty = [what for what, at in needed.items() if at < len(fields) and not fields[at]]
    wanted = "a path and a label" if columns.width == 2 else f"{columns.width} columns"
    fault = f": expected {wanted} separated by {SEPARATORS[mark]}, "
    if len(fields) != columns.width:
        fault += "as in the first line"
    elif mark == " " and any(map(is_picture_name, fields[0].split()[:-1])):
        fault = " holds more than a path and a label; quote what holds spaces, or separate by tabs"
    elif empty:
        fault += f"and the {empty[0]} is empty; fill it in, or take out the line"
    else:
        return
    raise DataError(f"{name}, line {number}{fault}.")


def divided(lines: Lines, domain: str, split: str) -> dict[tuple[str, str], Lines]:
    """Divide the lines of a file by (domain, split), as its columns say, else as its name does."""
    if lines.splits is None and lines.domains is None:
        return {(domain, split): lines}
    parts: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for i in range(len(lines.paths)):
        own = split_of(lines.splits[i]) if lines.splits else split
        if own is None or (split and own != split):
            why = f"the file is named after {split}" if own else "splits are train, val and test"
            fault = f"{lines.at(i)} has split {brief(lines.splits[i])!r}, and {why}"
            raise DataError(f"{fault}; correct it, or take out the column.")
        parts[nfc(lines.domains[i]) if lines.domains else domain, own].append(i)
    return {part: lines.take(at) for part, at in parts.items()}


def find_lists(
    folder: str | os.PathLike, *, asked: bool = True
) -> dict[str, dict[str, pathlib.Path]]:
    """Find the lists in a folder: domain -> split -> file; split "" for a list without splits.

    They are called `{domain}_train.txt`, `_val`, `_test`, `_unlabeled` (or `_unlabelled`), or
    `{domain}_list.txt` (.csv and .tsv too), and one of a domain's files begins like a list:
    `class_list.txt` counts only if no other file is a list. Without such names, every text file
    that begins like a list is that of the domain it is named after. But unless lists are `asked`
    for, tables of more than two columns beside folders of classes (`metadata.csv`) are none, nor
    are paths alone without other lists. No part may have two lists.
    """
    plain = (f for f in sorted(pathlib.Path(folder).iterdir()) if not f.name.startswith("."))
    files = [f for f in plain if f.suffix.lower() in SUFFIXES and f.name != CLASSES and f.is_file()]
    named: dict[str, dict[str, pathlib.Path]] = {}
    for file in files:
        domain, _, kind = nfc(shown(file.stem)).rpartition("_")
        split = UNLABELLED if is_unlabelled(kind) else split_of(kind)
        split = WHOLE if kind.lower() == "list" else split
        if domain and split is not None:
            _add(named, domain, split, file)
    named = {d: f for d, f in named.items() if any(map(_names_images, f.values()))} or named
    if not named:
        widths = {file: width for file in files if (width := _columns_of(file))}
        found = [file for file, width in widths.items() if width == 2]
        wide = [file for file, width in widths.items() if width > 2]
        if not found and wide and (asked or not _holds_classes(folder)):
            found = wide
        if found or asked:
            found += [file for file, width in widths.items() if width == 1]
        for file in found:
            _add(named, nfc(shown(file.stem)), WHOLE, file)
    order = (WHOLE, *SPLITS, UNLABELLED)
    return {d: dict(sorted(f.items(), key=lambda p: order.index(p[0]))) for d, f in named.items()}


def _add(lists: dict, domain: str, split: str, file: pathlib.Path) -> None:
    parts = lists.setdefault(domain, {})
    alike = (f for s, f in parts.items() if s == split or WHOLE in (s, split))
    for other in alike if split != UNLABELLED else filter(None, [parts.get(split)]):
        both = f"{shown(file.parent)} holds both {other.name} and {file.name}, two lists of"
        raise DataError(f"{both} domain {domain!r}; keep one, or choose a folder by data.lists.")
    parts[split] = file


def _columns_of(file: pathlib.Path) -> int:
    """Count the columns of the first line that names an image and more, of two; 0 for neither.

    1: the lines are paths alone.
    """
    lines = _first_lines(file)
    if lines and tables.bare(lines):
        return 1
    mark = tables.separator(lines[0], file.suffix) if lines else " "
    for line in lines:
        row = tables.words(line) if mark == " " else next(csv.reader([line], delimiter=mark), [])
        if len(row) > 1 and any(is_picture_name(field.strip()) for field in row):
            return len(row)
    return 0


def _holds_classes(folder: str | os.PathLike) -> bool:
    """Look whether some `domain/class` folder holds images."""
    inner = (place for place in pathlib.Path(folder).glob("[!.]*/[!.]*") if place.is_dir())
    return any(is_picture_name(name) for place in inner for name in glimpse(place))


def _names_images(file: pathlib.Path) -> bool:
    """Look whether the first lines of a file hold an image's name at all."""
    seen = (word for line in _first_lines(file) for word in re.split(r"[\s,;\"]", line))
    return any(map(is_picture_name, seen))


def _first_lines(file: pathlib.Path) -> list[str]:
    """Return the first two lines that are not blank."""
    with reachable(file), file.open("rb") as stream:
        lines = begin_text(stream.read(GLANCE)).split("\n")
    return [line for line in lines if line.strip()][:2]


def find_folder(
    root: pathlib.Path, lists: str = "", *, doubtful: bool = False
) -> pathlib.Path | None:
    """Find the folder of lists: the one asked for (relative to the root or not), or the first.

    One with files that are only called like lists is `doubtful`, and found only if wanted.
    """
    if lists:
        asked = (root / lists, pathlib.Path(lists).expanduser())
        for place in filter(pathlib.Path.is_dir, asked):
            return place
        raise DataError(f"data.lists {lists!r} does not exist; give the folder of list files.")
    places = list(filter(pathlib.Path.is_dir, (root / name for name in PLACES)))
    for place in places:
        found = find_lists(place, asked=False).values()
        if any(_names_images(file) for parts in found for file in parts.values()):
            return place
    return next(filter(find_lists, places), None) if doubtful else None


def class_names(*folders: pathlib.Path) -> tuple[str, ...]:
    """Read the first `classes.txt` in these folders, a different name a line; () without one."""
    file = next((f / CLASSES for f in folders if (f / CLASSES).is_file()), None)
    if file is None:
        return ()
    first: dict[str, int] = {}
    for number, line in enumerate(read_text(file).rstrip().split("\n"), 1):
        name = class_name(line)
        if not name or (known := first.setdefault(name, number)) < number:
            fault = f"names {name!r} again, as line {known} does" if name else "is empty"
            place = f"{shown(file)}, line {number}"
            raise DataError(f"{place} {fault}; give each line a name, each a different one.")
    return tuple(first)
