"""Which split an example belongs to: the given one, or one that a hash of its name decides."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from clipjax.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
FRACTIONS = (0.6, 0.1, 0.3)
WHOLE = ""  # the split of examples that come without one


def check_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """The shares of train, val and test.

    Raises:
      ConfigError: not three shares, one below zero, or all zero.
    """
    shares = tuple(float(share) for share in fractions)
    if len(shares) != len(SPLITS) or not all(s >= 0 for s in shares) or not 0 < sum(shares) < 1e9:
        raise ConfigError(
            f"data.fractions is {tuple(fractions)}; it needs three shares, of train, val and test, "
            "like (0.6, 0.1, 0.3)."
        )
    return shares


def position(folder: str, name: str) -> float:
    """Where between 0 and 1 a file falls, by its class folder and its name alone.

    So a split is the same on every machine, and adding files moves no others.
    """
    key = f"{folder}/{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def positions(folders: Iterable[str], names: Iterable[str]) -> np.ndarray:
    """`position` of every pair, float64 [N]."""
    return np.asarray(list(map(position, folders, names)), np.float64)


def split_by_hash(where: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """int64 [N]: the index in `SPLITS` of examples at these positions, float64 [N].

    >>> split_by_hash(np.array([0.1, 0.65, 0.9]), (0.6, 0.1, 0.3)).tolist()
    [0, 1, 2]
    """
    found = np.searchsorted(np.cumsum(fractions), where * sum(fractions), side="right")
    return np.minimum(found, len(SPLITS) - 1)


def origin(split: str, given: Collection[str]) -> str | None:
    """The given part that a split is taken from; None where there is no such split.

    A dataset given as a whole (`WHOLE`) has every split. One given as train and test has its val
    inside train.

    >>> origin("val", ("train", "test")), origin("test", ("train", "val")), origin("val", ("",))
    ('train', None, '')
    """
    if split in given:
        return split
    if WHOLE in given and split in SPLITS:
        return WHOLE
    return "train" if split == "val" and {"train", "test"} <= set(given) else None


def members(
    split: str,
    given: Collection[str],
    where: np.ndarray,
    labels: np.ndarray,
    fractions: Sequence[float],
) -> np.ndarray:
    """bool [N]: which examples of the part `origin(split, given)` are of the split.

    Args:
      split: one that `origin` finds.
      given: the splits that the data comes in.
      where: float64 [N], `positions` of the examples of that part.
      labels: int32 [N].
      fractions: shares of train, val and test; val taken from train has val / (train + val).
    """
    part = origin(split, given)
    if part == WHOLE:
        return split_by_hash(where, fractions) == SPLITS.index(split)
    derived = part == "train" and "val" not in given and "test" in given
    if not derived:
        return np.ones(len(labels), bool)
    train, val, _ = fractions
    # The only example of a class stays where it was given: in train.
    alone = np.bincount(labels, minlength=1)[labels] == 1 if len(labels) else np.zeros(0, bool)
    held_out = (where * (train + val) >= train) & ~alone
    return held_out if split == "val" else ~held_out


def needs_hash(split: str, given: Collection[str]) -> bool:
    """Whether `members` looks at positions at all."""
    part = origin(split, given)
    return part == WHOLE or (part == "train" and "val" not in given and "test" in given)


def check_single(
    labels: np.ndarray, classes: Sequence[str], domain: str, fractions: Sequence[float]
) -> None:
    """Refuses to split by hash what holds a class with a single example.

    Raises:
      DataError: names the class.
    """
    if sum(share > 0 for share in fractions) < 2:
        return
    single = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 1)
    if len(single):
        more = f" ({len(single)} classes have)" if len(single) > 1 else ""
        raise DataError(
            f"class {classes[single[0]]!r} of domain {domain!r} has a single image{more}, and "
            "train, val and test are to be split off; add images, or give train, val and test."
        )
