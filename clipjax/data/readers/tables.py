"""The lines of a list file: how they are separated, which column holds what."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipjax.data.readers.files import is_picture_name
from clipjax.errors import DataError
from clipjax.io.texts import brief, some

SEPARATORS = {" ": "a space", ",": "a comma", "\t": "a tab", ";": "a semicolon"}
# What headers call the columns, in small letters without what is no letter.
NAMES = {
    "path": "path paths filepath file filename image images img imagepath imgpath imagefile "
    "imagename imgname imagefilename".split(),
    "label": "label labels class classes category target classname labelname categoryname "
    "classid labelid categoryid y".split(),
    "split": ["split", "subset"],
    "domain": ["domain"],
}
_MEANINGS = {name: meaning for meaning, names in NAMES.items() for name in names}
# A path, quoted or not, and behind the last blank a label, quoted or not.
_WORDS = re.compile(r"""\s*(?:"([^"]*)"|(\S|\S.*?\S))\s+(?:"([^"]*)"|(\S+))\s*""")


Row = tuple[int, tuple[str, ...]]  # number of the line, from 1, and its fields


class Columns(NamedTuple):
    """The positions of the needed fields in a row."""

    path: int
    label: int
    split: int | None = None
    domain: int | None = None
    header: bool = False  # the first row is none of an image
    width: int = 2  # fields of every row


def words(line: str) -> list[str]:
    """The parts of a line before its last space and after it, each quoted or not.

    >>> words("a b.jpg 3"), words('"a b.jpg" "t shirt"'), words("a")
    (['a b.jpg', '3'], ['a b.jpg', 't shirt'], ['a'])
    """
    if '"' not in line:
        return line.strip().rsplit(None, 1)
    if not (found := _WORDS.fullmatch(line)):
        return [line.strip()] if line.strip() else []
    return [found[1] or found[2] or "", found[3] or found[4] or ""]


def separator(line: str, suffix: str) -> str:
    """The separator of a table, from a first line that may be a header.

    >>> [separator(line, ".txt") for line in ("a b.jpg 3", "a b.jpg,3", "a,b.jpg 3", "a.jpg;b c")]
    [' ', ',', ' ', ';']
    """
    if "\t" in line or suffix.lower() == ".tsv":
        return "\t"
    parts = words(line)
    if suffix.lower() != ".csv" and len(parts) == 2 and is_picture_name(parts[0]):
        return " "
    for mark in ",;":  # `a,b.jpg;cat` has a field of an image's name between semicolons only
        if mark in line and _is_telling(next(csv.reader([line], delimiter=mark))):
            return mark
    if suffix.lower() == ".csv":
        return ";" if ";" in line and "," not in line else ","
    return "," if "," in line else " "


def _is_telling(fields: Sequence[str]) -> bool:
    """Whether one of several fields is an image's name, or what a header calls one."""
    named = (is_picture_name(f.strip()) or _meaning(f) == "path" for f in fields)
    return len(fields) > 1 and any(named)


def rows(text: str, mark: str, name: str) -> Iterator[Row]:
    """The lines that are not blank, as fields without blanks around them.

    Raises:
      DataError: a quoted field that does not end on its line, which may be a quote too many.
    """
    if mark == " ":
        for number, line in enumerate(text.split("\n"), 1):
            if fields := words(line):
                yield number, tuple(fields)
        return
    reader, before = csv.reader(text.split("\n"), delimiter=mark, skipinitialspace=True), 0
    while True:
        number = before + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{name}, line {number} cannot be read ({error}); if a quote is left open there, "
                "close it."
            ) from None
        if fields is None:
            return
        if reader.line_num > number:
            raise DataError(
                f"{name}, line {number}: a quoted field does not end on its line; close the quote, "
                "or take it out."
            )
        before = reader.line_num
        if fields := [field.strip() for field in fields] if any(map(str.strip, fields)) else []:
            yield number, tuple(fields)


def find_columns(first: Row, second: Row | None, mark: str, name: str) -> Columns:
    """Which column holds what, from the first two rows.

    A first line without an image's name is a header if the second has one. Of two columns paths
    come first where nothing says otherwise; of more the header says which they are.

    Raises:
      DataError: more than two columns, and no header that says clearly what they hold.
    """
    line, fields = first
    meanings = [_meaning(field) for field in fields]
    images = [k for k, field in enumerate(fields) if is_picture_name(field)]
    below = [is_picture_name(field) for field in second[1]] if second else []
    named = "path" in meanings and "label" in meanings
    if mark == " " and any(map(is_picture_name, fields[0].split())):  # `a.jpg t shirt` is no header
        return Columns(0, 1)
    if len(fields) == 2 and images == [0, 1]:
        raise DataError(
            f"{name}, line {line} names two images, {brief(fields[0])!r} and {brief(fields[1])!r}; "
            "give a path and a label."
        )
    if images or not (any(below) or named or (second is None and len(fields) == 2)):
        if len(fields) == 2:
            return Columns(1, 0) if images == [1] else Columns(0, 1)
        if len(fields) < 2:
            raise DataError(
                f"{name}, line {line}: expected a path and a label separated by {SEPARATORS[mark]}."
            )
        raise DataError(
            f"{name}, line {line} has {len(fields)} columns and there is no header; put a "
            "line like `path,label,...` at the top that names them."
        )
    plain = len(fields) == 2 and meanings[0] in ("", "path") and meanings[1] in ("", "label")
    if plain and (second is None or below[:1] == [True]):
        return Columns(0, 1, header=True)
    return _named_columns(first, meanings, name)


def _named_columns(header: Row, meanings: Sequence[str], name: str) -> Columns:
    """The columns as a header calls them."""
    line, fields = header
    found = {}
    for meaning in NAMES:
        at = [k for k, m in enumerate(meanings) if m == meaning]
        if len(at) > 1 or (not at and meaning in ("path", "label")):
            columns = [fields[k] for k in at] if at else fields
            fault = f"has {len(at)} columns that may hold" if at else "has no column for"
            called = " or ".join(NAMES[meaning][:3])
            raise DataError(
                f"{name}, line {line} {fault} the {meaning} ({some(map(repr, columns))}); "
                f"needed are one of paths and one of labels: call just one column {called}."
            )
        found[meaning] = at[0] if at else None
    return Columns(**found, header=True, width=len(fields))


def _meaning(field: str) -> str:
    """The meaning of a header's field; "" for what is not needed."""
    return _MEANINGS.get(re.sub(r"[^a-z]", "", field.lower()), "")
