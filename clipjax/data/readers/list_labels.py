"""Reads the labels of list files, and names the classes."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from clipjax.data.readers.labels import class_numbers, is_missing, is_number, whole
from clipjax.data.readers.list_files import CLASSES, Lines
from clipjax.errors import DataError
from clipjax.io.texts import brief, class_name


def number_labels(
    lists: Sequence[Lines], classes: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Name the classes, and turn the labels of every list into indices of them.

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
    numbers = [np.array([number[t] for t in lines.labels], np.int32) for lines in lists]
    for lines, found in zip(lists, numbers, strict=True):
        _check_single_labels(lines, found)
    return tuple(names), numbers


def _refuse(lists: Sequence[Lines], texts: Collection[str], fault: str) -> None:
    """Raise DataError for the first line with one of these labels, if there are any."""
    if texts:
        places = ((lines, i) for lines in lists for i, t in enumerate(lines.labels) if t in texts)
        lines, i = next(places)
        raise DataError(f"{lines.at(i)}: label {brief(lines.labels[i])!r} {fault}.")


def _check_single_labels(lines: Lines, numbers: np.ndarray) -> None:
    """Raise DataError if one image has two classes, as in lists of boxes or of many labels."""
    if len(set(lines.paths)) == len(lines.paths):
        return
    first: dict[str, int] = {}
    for i, path in enumerate(lines.paths):
        known = first.setdefault(path, i)
        if numbers[known] != numbers[i]:
            raise DataError(
                f"{lines.at(i)}: image {brief(path)!r} has label {brief(lines.labels[i])!r}, and "
                f"{brief(lines.labels[known])!r} in line {lines.numbers[known]}; keep one."
            )


def _check_folders(
    lists: Sequence[Lines], names: Sequence[str], numbers: Mapping[str, int]
) -> None:
    """Raise DataError if `classes.txt` gives the name of an image's folder to another number."""
    number = {name: label for label, name in enumerate(names)}
    for lines in lists:
        for i, (path, text) in enumerate(zip(lines.paths, lines.labels, strict=True)):
            folder = class_name(folder_and_name(path)[0])
            if number.get(folder, numbers[text]) != numbers[text]:
                raise DataError(
                    f"{lines.at(i)}: an image in folder {folder!r} has label {text}, but {CLASSES} "
                    f"calls {text} {names[numbers[text]]!r} and gives {folder!r} the number "
                    f"{number[folder]}; correct either, or remove {CLASSES}."
                )


def folder_and_name(path: str) -> tuple[str, str]:
    """Return the class folder and the name of a file, from its path in a list.

    >>> folder_and_name("real/cat/1.jpg"), folder_and_name("1.jpg")
    (('cat', '1.jpg'), ('', '1.jpg'))
    """
    *above, name = path.rsplit("/", 2)
    return (above[-1] if above else ""), name


def _names_from_folders(lists: Sequence[Lines]) -> tuple[str, ...]:
    """Name classes after the folders of their images, in the order of their numbers."""
    pairs: dict[tuple[str, str], tuple[Lines, int]] = {}
    for lines in lists:
        for i, (path, text) in enumerate(zip(lines.paths, lines.labels, strict=True)):
            pairs.setdefault((folder_and_name(path)[0], text), (lines, i))
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    for (folder, text), (lines, i) in pairs.items():
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
