"""Assigns examples to splits: as given, or by a hash of their names."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import nfc

SPLITS = ("train", "val", "test")
FRACTIONS = (0.6, 0.1, 0.3)
WHOLE = ""  # the split of examples that come without one
_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_WORDS |= {word: "val" for word in ("val", "valid", "validation", "dev")}


def check_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """Return three shares as floats; raise ConfigError if one is below zero, or all are zero."""
    shares = tuple(float(share) for share in fractions)
    if len(shares) != len(SPLITS) or not all(s >= 0 for s in shares) or not 0 < sum(shares) < 1e9:
        given = tuple(fractions)
        raise ConfigError(f"data.fractions is {given}; give three shares like (0.6, 0.1, 0.3).")
    return shares


def split_of(name: str) -> str | None:
    """Return the split that a folder, file or TFDS split is named after; None for other names.

    >>> split_of("Validation"), split_of("dev"), split_of("cat")
    ('val', 'val', None)
    """
    return _WORDS.get(name.lower())


def positions(keys: Iterable[str]) -> np.ndarray:
    """Hash each key, in NFC, to a position between 0 and 1, float64 [N]."""
    encoded = (nfc(key).encode("utf-8", "surrogateescape") for key in keys)
    digests = b"".join(hashlib.sha256(key).digest()[:8] for key in encoded)
    return np.frombuffer(digests, ">u8") / 2**64


def file_key(folder: str, name: str) -> str:
    """Return the key of an image for `positions`: adding files to its class folder moves none."""
    return f"{folder}/{name}"


def origin(split: str, given: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Return the given part that holds a split, and all splits that are dealt out of that part.

    Data given as a whole (`WHOLE`) is dealt to every split. Otherwise missing splits come out of
    train, or out of the first given split where there is no train.

    >>> origin("val", ("train", "test")), origin("test", ("train", "test"))
    (('train', ('train', 'val')), ('test', ('test',)))
    >>> origin("test", ("",))
    ('', ('train', 'val', 'test'))
    """
    base = WHOLE if WHOLE in given else next((s for s in SPLITS if s in given), None)
    if base is None:
        raise DataError("there is no train, val or test to take a split from; give one of them.")
    sharing = SPLITS if base == WHOLE else tuple(s for s in SPLITS if s == base or s not in given)
    return (base, sharing) if split in sharing else (split, (split,))


def members(
    split: str,
    given: Collection[str],
    where: np.ndarray,
    labels: np.ndarray,
    fractions: Sequence[float],
) -> np.ndarray:
    """Return which examples of the part `origin(split, given)` are of the split, bool [N].

    `where`, float64 [N], holds the `positions` of that part's examples, `labels` int32 [N] their
    classes, and `fractions` the shares of train, val and test.
    """
    base, sharing = origin(split, given)
    if len(sharing) == 1:
        return np.ones(len(labels), bool)
    edges = np.cumsum([fractions[SPLITS.index(s)] for s in sharing])
    if edges[-1] <= 0:
        dealt = f"{' and '.join(sharing)} are to be dealt out of {base}"
        raise ConfigError(f"{dealt}; give one of them a share in data.fractions above zero.")
    fell = np.searchsorted(edges, where * edges[-1], side="right")
    fell = np.minimum(fell, len(sharing) - 1)
    if base != WHOLE and len(labels):  # the only example of a class stays where it was given
        fell[np.bincount(labels)[labels] == 1] = sharing.index(base)
    return fell == sharing.index(split)


def check_single(
    split: str,
    given: Collection[str],
    labels: np.ndarray,
    classes: Sequence[str],
    domain: str,
    fractions: Sequence[float],
) -> None:
    """Raise DataError if all splits are dealt out of a part with a class of one example."""
    dealt = origin(split, given)[1] == SPLITS and sum(share > 0 for share in fractions) > 1
    single = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 1) if dealt else ()
    if len(single):
        more = f" ({len(single)} classes have)" if len(single) > 1 else ""
        fault = f"class {classes[single[0]]!r} of domain {domain!r} has a single image{more}"
        raise DataError(f"{fault} for train, val and test; add images, or give the splits.")


def deal(
    split: str,
    given: Collection[str],
    where: Callable[[], np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    domain: str,
    fractions: Sequence[float],
) -> np.ndarray:
    """Return the rows of a part that are of the split, int64 [M], by `check_single`, `members`."""
    check_single(split, given, labels, classes, domain, fractions)
    if len(origin(split, given)[1]) == 1:
        return np.arange(len(labels))
    return np.flatnonzero(members(split, given, where(), labels, fractions))
