"""Classes of images in list files: what their labels mean, and what the classes are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.data.readers.labels import Meaning, is_missing, is_number, whole
from clipjax.data.readers.list_files import CLASSES, Lines
from clipjax.errors import DataError
from clipjax.io.texts import brief, class_name


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
    digits = {text for text in texts if is_number(text)}
    absent = {text for text in texts if is_missing(text)} - set(classes)
    others = texts - digits - set(classes) if digits else set()
    _refuse(lists, absent, "says that there is none; give the image one, or take out the line")
    _refuse(lists, others, f"is a name where others are numbers; use one, or name all in {CLASSES}")
    if classes:
        meaning = Meaning(texts, classes)
        if fault := meaning.fault(classes, CLASSES):
            _refuse(lists, {fault[0]}, fault[1])
        names, number = tuple(classes), meaning.numbers
        if meaning.numbered:
            _check_folders(lists, names, number)
    else:
        _refuse(lists, {t for t in digits if whole(t) is None}, "is no whole number; correct it")
        names = _names_from_folders(lists) if digits else tuple(sorted(texts))
        known = sorted({whole(t) for t in digits}) if digits else names
        dense = {value: label for label, value in enumerate(known)}  # without unused numbers
        number = {text: dense[whole(text) if digits else text] for text in texts}
    numbers = [np.array([number[t] for t in lines.labels], np.int32) for lines in lists]
    for lines, found in zip(lists, numbers, strict=True):
        _check_single_labels(lines, found)
    return names, numbers


def _refuse(lists: Sequence[Lines], texts: set[str], what: str) -> None:
    """Raises DataError for the first line with one of these labels."""
    if texts:
        places = ((lines, i) for lines in lists for i, t in enumerate(lines.labels) if t in texts)
        lines, i = next(places)
        raise DataError(f"{lines.at(i)}: label {brief(lines.labels[i])!r} {what}.")


def _check_single_labels(lines: Lines, numbers: np.ndarray) -> None:
    """Refuses a list that gives one image two classes, as lists of boxes or of many labels do."""
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
    """Refuses a `classes.txt` that gives the name of an image's folder to another number."""
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
    """The class folder and the name of a file, from its path in a list.

    >>> folder_and_name("real/cat/1.jpg"), folder_and_name("1.jpg")
    (('cat', '1.jpg'), ('', '1.jpg'))
    """
    parts = path.rsplit("/", 2)
    return (parts[-2] if len(parts) > 1 else ""), parts[-1]


def _names_from_folders(lists: Sequence[Lines]) -> tuple[str, ...]:
    """The class names in the order of their numbers: the folders that their images lie in."""
    pairs: dict[tuple[str, str], tuple[Lines, int]] = {}
    for lines in lists:
        folders = (folder_and_name(path)[0] for path in lines.paths)
        for i, pair in enumerate(zip(folders, lines.labels, strict=True)):
            pairs.setdefault(pair, (lines, i))
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    for (folder, text), (lines, i) in pairs.items():
        name, number = class_name(folder), whole(text)
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
