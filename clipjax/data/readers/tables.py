"""Splits the lines of a list file into fields, and finds which column holds what."""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipjax.data.readers.files import is_picture_name
from clipjax.errors import DataError
from clipjax.io.texts import some

SEPARATORS = {" ": "a space", ",": "a comma", "\t": "a tab", ";": "a semicolon"}
# Columns by their names in headers, in small letters without other characters.
NAMES = {
    "path": "path paths filepath file filename image images img imagepath imgpath imagefile "
    "imagename imgname imagefilename".split(),
    "label": "label labels class classes category target classname labelname categoryname "
    "classid labelid categoryid y".split(),
    "split": ["split", "subset"],
    "domain": ["domain"],
}
_MEANINGS = {name: meaning for meaning, names in NAMES.items() for name in names}
# A path and, behind the last blank, a label, each quoted or not.
_WORDS = re.compile(r"""\s*(?:"([^"]*)"|(\S|\S.*?\S))\s+(?:"([^"]*)"|(\S+))\s*""")
_LONE = re.compile(r"""\s*(?:"([^"]*)"|([^\s,;"]+))\s*""")  # a single field
Row = tuple[int, tuple[str, ...]]  # number of the line, from 1, and its fields


class Columns(NamedTuple):
    """The positions of the needed fields in a row."""

    path: int
    label: int
    split: int | None = None
    domain: int | None = None
    header: bool = False  # whether the first row is one
    width: int = 2  # fields of every row


def lone(line: str) -> str:
    """Return the one field of a line, which is quoted if it holds blanks; "" of several.

    >>> lone(' a.jpg'), lone('"a b.jpg"'), lone("cat a.jpg"), lone("a.jpg,cat")
    ('a.jpg', 'a b.jpg', '', '')
    """
    found = _LONE.fullmatch(line)
    return (found[1] or found[2]) if found else ""


def bare(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a list, without blank ones, are paths alone.

    >>> bare(["a.jpg", "c.jpg"]), bare(["path", "a.jpg"]), bare(["a.jpg 3"]), bare(["path"])
    (True, True, False, False)
    """
    first, *others = map(lone, lines)
    header = bool(others) and _meaning(first) == "path"
    return all(map(is_picture_name, others)) and (is_picture_name(first) or header)


def words(line: str) -> list[str]:
    """Split a line at its last space; both parts may be quoted.

    >>> words("a b.jpg 3"), words('"a b.jpg" "t shirt"'), words("a")
    (['a b.jpg', '3'], ['a b.jpg', 't shirt'], ['a'])
    """
    if '"' not in line:
        return line.strip().rsplit(None, 1)
    if not (found := _WORDS.fullmatch(line)):
        return [line.strip()] if line.strip() else []
    return [found[1] or found[2] or "", found[3] or found[4] or ""]


def separator(line: str, suffix: str) -> str:
    """Return the separator of a table, from a first line that may be a header.

    >>> [separator(line, ".txt") for line in ("a b.jpg 3", "a b.jpg,3", "a,b.jpg 3", "a.jpg;b c")]
    [' ', ',', ' ', ';']
    """
    if "\t" in line or suffix.lower() == ".tsv":
        return "\t"
    parts = words(line)
    if suffix.lower() != ".csv" and len(parts) == 2 and is_picture_name(parts[0]):
        return " "
    for mark in filter(line.__contains__, ",;"):  # `a,b.jpg;cat` names an image between semicolons
        fields = next(csv.reader([line], delimiter=mark))
        named = (is_picture_name(f.strip()) or _meaning(f) == "path" for f in fields)
        if len(fields) > 1 and any(named):
            return mark
    if suffix.lower() == ".csv":
        return ";" if ";" in line and "," not in line else ","
    return "," if "," in line else " "


def rows(text: str, mark: str, name: str) -> Iterator[Row]:
    """Split lines into stripped fields, without blank lines; a quote must end on its line."""
    lines = text.split("\n")
    if mark == " ":
        split = ((number, tuple(words(line))) for number, line in enumerate(lines, 1))
        yield from (row for row in split if row[1])
        return
    reader, number = csv.reader(lines, delimiter=mark, skipinitialspace=True), 1
    try:
        for fields in reader:
            if reader.line_num > number:
                fault = f"{name}, line {number}: a quoted field does not end on its line"
                raise DataError(f"{fault}; close it, or take out the quote.")
            if any(fields := tuple(map(str.strip, fields))):
                yield number, fields
            number += 1
    except csv.Error as error:
        fault = f"{name}, line {number} cannot be read ({error})"
        raise DataError(f"{fault}; close the quote if one is open.") from None


def find_columns(first: Row, second: Row | None, mark: str, name: str) -> Columns:
    """Find which column holds what, from the first two rows.

    A first line without an image's name is a header if the second has one. Of two columns paths
    come first unless a name or the header shows otherwise; more need a clear header.
    """
    line, fields = first
    meanings = list(map(_meaning, fields))
    images = [k for k, field in enumerate(fields) if is_picture_name(field)]
    below = [is_picture_name(field) for field in second[1]] if second else []
    named = "path" in meanings and "label" in meanings
    if mark == " " and any(map(is_picture_name, fields[0].split())):  # `a.jpg t shirt` is no header
        return Columns(0, 1)
    if images or not (any(below) or named or (second is None and len(fields) == 2)):
        if len(fields) == 2 and images != [0, 1]:
            return Columns(1, 0) if images == [1] else Columns(0, 1)
        fault = f": expected a path and a label separated by {SEPARATORS[mark]}"
        if len(fields) == 2:
            fault = f" names two images, {some(map(repr, fields))}; give a path and a label"
        if len(fields) > 2:
            fault = f" has {len(fields)} columns and there is no header; name them in a first line"
        raise DataError(f"{name}, line {line}{fault}.")
    plain = len(fields) == 2 and meanings[0] in ("", "path") and meanings[1] in ("", "label")
    if plain and (second is None or below[:1] == [True]):
        return Columns(0, 1, header=True)
    return _named_columns(first, meanings, name)


def _named_columns(header: Row, meanings: Sequence[str], name: str) -> Columns:
    """Return the columns that a header names."""
    line, fields = header
    found = {m: [k for k, each in enumerate(meanings) if each == m] for m in NAMES}
    for meaning, at in found.items():
        if len(at) > 1 or (not at and meaning in ("path", "label")):
            columns = some(repr(fields[k]) for k in at or range(len(fields)))
            fault = f"has {len(at)} columns that may hold" if at else "has no column for"
            called = f"call just one column {' or '.join(NAMES[meaning][:3])}"
            called += ", or list the paths alone where there are no labels" * (not at)
            fault = f"{name}, line {line} {fault} the {meaning} ({columns})"
            raise DataError(f"{fault}; {called}.")
    places = {meaning: next(iter(at), None) for meaning, at in found.items()}
    return Columns(**places, header=True, width=len(fields))


def _meaning(field: str) -> str:
    """Return the meaning of a header's field; "" for any other column."""
    return _MEANINGS.get(re.sub(r"[^a-z]", "", field.lower()), "")
