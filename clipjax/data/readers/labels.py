"""What the labels of a table mean: numbers of classes, however they are written, or names."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
MISSING = ("nan", "<na>", "nat")  # what pandas writes for a cell without a value
MOST = 2**31  # no class has such a number


def is_number(text: str) -> bool:
    """Whether a label is a number, of a class or not.

    >>> [is_number(text) for text in ("3", "03", "+3", "-1", "0.0", "1e0", "1,5", "t-1", "nan")]
    [True, True, True, True, True, True, True, False, False]
    """
    return _NUMBER.fullmatch(text) is not None


def whole(text: str) -> int | None:
    """The whole number that a label is; None for fractions, names and what is far too large.

    >>> [whole(text) for text in ("3", "03", "+3", "-1", "0.0", "1e0", "1.5", "1,0", "cat")]
    [3, 3, 3, -1, 0, 1, None, None, None]
    """
    if not is_number(text) or "," in text:  # 1,000 is 1 here and 1000 there
        return None
    value = Decimal(text)
    return int(value) if abs(value) < MOST and value == int(value) else None


def is_missing(text: str) -> bool:
    """Whether a label says that there is none.

    >>> is_missing("NaN"), is_missing("nan_bread")
    (True, False)
    """
    return text.lower() in MISSING


class Meaning:
    """Labels as numbers of named classes.

    Attributes:
      numbers: label -> number of its class, for those that have one.
      unknown: the labels that have none.
      numbered: whether labels were read as numbers, not as names.
      doubtful: a label that, read as a number, is one class and by its name another; "" if none.
    """

    def __init__(self, texts: Collection[str], names: Sequence[str]):
        """Labels are names where all are; else numbers where all are; else names.

        >>> Meaning({"0.0", "1.0"}, ("cat", "dog")).numbers == {"0.0": 0, "1.0": 1}
        True
        >>> Meaning({"1", "2"}, ("1", "2")).numbers == {"1": 0, "2": 1}
        True
        >>> Meaning({"1", "2"}, ("1", "2", "3")).doubtful
        '1'

        Args:
          texts: labels, different ones.
          names: of the classes, by number.
        """
        texts, by_name = set(texts), {name: k for k, name in enumerate(names)}
        by_value = {whole(name): k for k, name in enumerate(names) if whole(name) is not None}
        values = {text: whole(text) for text in texts}
        named = {t: by_name.get(t, by_value.get(v)) for t, v in values.items()}
        named = {t: k for t, k in named.items() if k is not None}
        counted = {t: v for t, v in values.items() if v is not None and 0 <= v < len(names)}
        both = len(named) == len(counted) == len(texts)
        self.doubtful = min((t for t in texts if both and named[t] != counted[t]), default="")
        self.numbered = len(named) < len(texts) and all(map(is_number, texts))
        self.numbers = counted if self.numbered else named
        self.unknown = texts - self.numbers.keys()

    def fault(self, names: Sequence[str], table: str) -> tuple[str, str] | None:
        """A label that cannot be read and what is wrong with it; None where all can.

        Args:
          names: of the classes, by number.
          table: what they are from.
        """
        if self.doubtful:
            number = whole(self.doubtful)
            return self.doubtful, (
                f"may be number {number} of {table}, which is {names[number]!r}, or the class that "
                f"is called {self.doubtful!r}; give the classes names that are no numbers"
            )
        if not self.unknown:
            return None
        first, last = min(self.unknown), len(names) - 1
        if not self.numbered:
            return first, f"is not in {table}; correct either"
        if fractions := [text for text in sorted(self.unknown) if whole(text) is None]:
            return fractions[0], "is no whole number of a class; correct it"
        values = {whole(text) for text in (*self.numbers, *self.unknown)}
        what = f"is not within 0 and {last}, as {table} says; "
        if (min(values), max(values)) == (1, len(names)):
            return first, f"{what}labels run from 1 to {len(names)}: number them from 0"
        return first, what + "correct either"
