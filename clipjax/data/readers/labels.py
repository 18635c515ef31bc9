"""Reads labels of tables: numbers of classes, however they are written, or names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from typing import NoReturn

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
    """Return whether a label is what pandas writes for a cell without a value.

    >>> is_missing("NaN"), is_missing("nan_bread")
    (True, False)
    """
    return text.lower() in ("nan", "<na>", "nat")


def class_numbers(
    texts: Collection[str],
    names: Sequence[str],
    table: str,
    refuse: Callable[[str, str], NoReturn],
) -> tuple[dict[str, int], bool]:
    """Map labels to numbers of named classes.

    Labels are names if all of them are; else numbers if all are; else names.

    >>> class_numbers(["0.0"], ("cat", "dog"), "classes.txt", print)
    ({'0.0': 0}, True)
    >>> class_numbers(["1", "2"], ("1", "2"), "classes.txt", print)[0] == {"1": 0, "2": 1}
    True

    Args:
      texts: different labels.
      names: of the classes, by number.
      table: the source of the names, for messages.
      refuse: raises an error for a label that cannot be read, with the reason.

    Returns:
      Label -> number, and whether labels were read as numbers.
    """
    by_name = {name: k for k, name in enumerate(names)}
    by_value = {whole(name): k for k, name in enumerate(names) if whole(name) is not None}
    values = {text: whole(text) for text in sorted(texts)}
    named = {t: by_name.get(t, by_value.get(v)) for t, v in values.items()}
    named = {t: k for t, k in named.items() if k is not None}
    counted = {t: v for t, v in values.items() if v is not None and 0 <= v < len(names)}
    if len(named) == len(counted) == len(values):
        for text in values:
            if named[text] != counted[text]:
                refuse(
                    text,
                    f"may be number {values[text]} of {table}, which is {names[values[text]]!r}, "
                    f"or the class that is called {text!r}; give the classes names that are no "
                    "numbers",
                )
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
