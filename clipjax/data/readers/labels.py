"""Reads labels of tables: numbers of classes, however they are written, or names of classes."""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import NoReturn

import numpy as np

from clipjax.data.readers.list_files import CLASSES, Lines
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import DataError
from clipjax.io.texts import brief, class_name

_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
MOST = 2**31  # numbers of classes are smaller


def is_number(text: str) -> bool:
    """Return whether a label is a number, of a class or not.

    >>> [is_number(text) for text in ("3", "03", "+3", "-1", "0.0", "1e0", "1,5", "t-1", "nan")]
    [True, True, True, True, True, True, True, False, False]
    """
    return _NUMBER.fullmatch(text) is not None


def whole(text: str) -> int | None:
    """Return the whole number that a label is; None for other labels and far too large numbers.

    >>> [whole(text) for text in ("3", "03", "+3", "-1", "0.0", "1e0", "1.5", "1,0", "cat")]
    [3, 3, 3, -1, 0, 1, None, None, None]
    """
    if not is_number(text) or "," in text:  # 1,000 may be 1 or 1000
        return None
    value = Decimal(text)
    return int(value) if abs(value) < MOST and value == int(value) else None


def is_missing(text: str) -> bool:
    """Return whether a label is what pandas writes for a cell without a value."""
    return text.lower() in ("nan", "<na>", "nat")


def class_numbers(
    texts: Collection[str],
    names: Sequence[str],
    table: str,
    refuse: Callable[[str, str], NoReturn],
) -> tuple[dict[str, int], bool]:
    """Map labels to numbers of the named classes of a table, and say if they were read as numbers.

    Labels are names if all of them are; else numbers if all are; else names. `refuse` raises an
    error for a label that cannot be read, with the reason.

    >>> class_numbers(["0.0"], ("cat", "dog"), "classes.txt", print)
    ({'0.0': 0}, True)
    """
    by_name = {name: k for k, name in enumerate(names)}
    by_value = {whole(name): k for k, name in enumerate(names) if whole(name) is not None}
    values = {text: whole(text) for text in sorted(texts)}
    named = {t: by_name.get(t, by_value.get(v)) for t, v in values.items()}
    named = {t: k for t, k in named.items() if k is not None}
    counted = {t: v for t, v in values.items() if v is not None and 0 <= v < len(names)}
    both = len(named) == len(counted) == len(values)
    if doubtful := [text for text in values if both and named[text] != counted[text]]:
        text = doubtful[0]
        other = f"number {values[text]} of {table}, which is {names[values[text]]!r}"
        remedy = "give the classes names that are no numbers"
        refuse(text, f"may be {other}, or the class that is called {text!r}; {remedy}")
    numbered = len(named) < len(values) and all(map(is_number, values))
    numbers = counted if numbered else named
    unknown = [text for text in values if text not in numbers]
    if unknown and not numbered:
        refuse(unknown[0], f"is not in {table}; correct either")
    if fractions := [text for text in unknown if values[text] is None]:
        refuse(fractions[0], "is no whole number of a class; correct it")
    if unknown:
        remedy = "correct either"
        if (min(values.values()), max(values.values())) == (1, len(names)):
            remedy = f"labels run from 1 to {len(names)}: number them from 0"
        refuse(unknown[0], f"is not within 0 and {len(names) - 1}, as {table} says; {remedy}")
    return numbers, numbered


def number_labels(
    lists: Sequence[Lines], classes: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Name the classes of a dataset, and turn the labels of each list into indices, int32 [N].

    The label "" is none, NO_LABEL.
    Classes are those of a `classes.txt`, else the labels, or the folders where labels are numbers.
    A DataError names the file and line of a label that does not fit.
    """
    texts = {text for lines in lists for text in lines.labels} - {""}
    digits = {text for text in texts if is_number(text)}
    absent = {text for text in texts if is_missing(text)} - set(classes)
    others = texts - digits - set(classes) if digits else set()
    refuse = functools.partial(_refuse, lists)
    refuse(absent, "says that there is none; give the image one, or take out the line")
    refuse(others, f"is a name where others are numbers; use one, or name all in {CLASSES}")
    if classes:
        one = lambda text, fault: refuse({text}, fault)
        names, (number, numbered) = classes, class_numbers(texts, classes, CLASSES, one)
        if numbered:
            _check_folders(lists, names, number)
    else:
        refuse({t for t in digits if whole(t) is None}, "is no whole number; correct it")
        names = _names_from_folders(lists) if digits else sorted(texts)
        known = sorted({whole(t) for t in digits}) if digits else names
        dense = {value: label for label, value in enumerate(known)}  # without unused numbers
        number = {text: dense[whole(text) if digits else text] for text in texts}
    number = number | {"": NO_LABEL}
    numbers = [np.array([number[t] for t in lines.labels], np.int32) for lines in lists]
    for lines, found in zip(lists, numbers, strict=True):
        _check_single_labels(lines, found)
    return tuple(names), numbers


def _refuse(lists: Sequence[Lines], texts: Collection[str], fault: str) -> None:
    """Raise DataError for the first line with one of these labels, if there are any."""
    for lines in lists if texts else ():
        for i, text in enumerate(lines.labels):
            if text in texts:
                raise DataError(f"{lines.at(i)}: label {brief(text)!r} {fault}.")


def _check_single_labels(lines: Lines, numbers: np.ndarray) -> None:
    """Raise DataError if one image has two classes, as in lists of boxes or of many labels."""
    if len(set(lines.paths)) == len(lines.paths):
        return
    first: dict[str, int] = {}
    for i, path in enumerate(lines.paths):
        known = first.setdefault(path, i)
        if numbers[known] != numbers[i]:
            label, other = brief(lines.labels[i]), brief(lines.labels[known])
            both = f"label {label!r}, and {other!r} in line {lines.numbers[known]}"
            raise DataError(f"{lines.at(i)}: image {brief(path)!r} has {both}; keep one.")


def _check_folders(
    lists: Sequence[Lines], names: Sequence[str], numbers: Mapping[str, int]
) -> None:
    """Raise DataError if `classes.txt` gives the name of an image's folder to another number."""
    number = {name: label for label, name in enumerate(names)}
    for (folder, text), (lines, i) in _first_of(lists).items():
        folder = class_name(folder)
        if number.get(folder, numbers[text]) != numbers[text]:
            fault = f"an image in folder {folder!r} has label {text}, but {CLASSES} calls {text}"
            other = f"{names[numbers[text]]!r} and {folder!r} number {number[folder]}"
            raise DataError(f"{lines.at(i)}: {fault} {other}; correct or remove {CLASSES}.")


def _first_of(lists: Sequence[Lines]) -> dict[tuple[str, str], tuple[Lines, int]]:
    """Find the first line of each class folder and label."""
    first: dict[tuple[str, str], tuple[Lines, int]] = {}
    for lines in lists:
        for i, (path, text) in enumerate(zip(lines.paths, lines.labels, strict=True)):
            if text:
                first.setdefault((folder_and_name(path)[0], text), (lines, i))
    return first


def folder_and_name(path: str) -> tuple[str, str]:
    """Return the class folder and the name of a file, from its path in a list.

    >>> folder_and_name("real/cat/1.jpg"), folder_and_name("1.jpg")
    (('cat', '1.jpg'), ('', '1.jpg'))
    """
    *above, name = path.rsplit("/", 2)
    return (above[-1] if above else ""), name


def _names_from_folders(lists: Sequence[Lines]) -> tuple[str, ...]:
    """Name classes after the folders of their images, in the order of their numbers."""
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    for (folder, text), (lines, i) in _first_of(lists).items():
        name, number = class_name(folder), whole(text)
        known, other = names.setdefault(number, name), numbers.setdefault(name, number)
        fault = remedy = ""
        if number < 0 or not name:
            why = "is below 0" if number < 0 else "belongs to a path without a class folder"
            fault, remedy = f"label {number} {why}", "correct it"
        elif known != name or other != number:
            before = repr(known) if known != name else other
            fault = f"class {name!r} has label {number}, which before was {before}"
            remedy = "class names come from the folders of the images: use lists of one kind"
        if fault:
            raise DataError(f"{lines.at(i)}: {fault}; {remedy}, or name the labels in {CLASSES}.")
    return tuple(names[number] for number in sorted(names))
