"""Assigns examples to splits: as given, or by a hash of their names."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from clipjax.data.unlabelled import labelled
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

    Every class is dealt by itself: its examples in the order of their hashes, cut at the rounded
    shares, so that each split with a share has one of every class that has enough for all. A
    class with fewer examples fills the split it was given in first, then train, test, val.
    Examples of one hash, which have one name, stay together. One more example of a class moves at
    most one other (or those of one name) over each cut, and none of another class.

    `where`, float64 [N], holds the `positions` of that part's examples, `labels` int32 [N] their
    classes, -1 where there is none, and `fractions` the shares of train, val and test.

    ConfigError if the splits dealt out of the part have no share.
    """
    base, sharing = origin(split, given)
    if len(sharing) == 1:
        return np.ones(len(labels), bool)
    shares = [fractions[SPLITS.index(s)] for s in sharing]
    if sum(shares) <= 0:
        dealt = f"{' and '.join(sharing)} are to be dealt out of {base}"
        raise ConfigError(f"{dealt}; give one of them a share in data.fractions above zero.")
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    ordered = where[np.argsort(classes, kind="stable")]
    ends = np.cumsum(counts)
    for start, end in zip(ends - counts, ends, strict=True):
        ordered[start:end].sort()
    ordered = np.append(ordered, np.inf)
    fell = np.zeros(len(labels), np.int8)
    for edges in _edges(counts, shares, sharing, base):
        limits = np.where(edges < counts, ordered[ends - counts + edges], np.inf)
        fell += where >= limits[classes]
    return fell == sharing.index(split)


def _edges(
    counts: np.ndarray, shares: Sequence[float], sharing: Sequence[str], base: str
) -> list[np.ndarray]:
    """Return from which rank on the examples of each class, int64 [K], are of the next split."""
    active = [s for s, share in zip(sharing, shares, strict=True) if share > 0]
    filled = sorted(active, key=(base, "train", "test", "val").index)  # by classes of few
    few = [[], [base] if base in sharing else filled[:1], filled[:2], filled]
    least = np.array([[s in row for s in sharing] for row in few], np.int64)
    least = least[np.minimum(counts, len(few) - 1)].T  # of each split
    found, edge = [], np.zeros_like(counts)
    for number in range(1, len(sharing)):
        share = round(sum(shares[:number]) / sum(shares), 12)  # 0.1 + 0.7 is not 0.8
        ideal = np.floor(counts * share + 0.5).astype(np.int64)
        edge = np.clip(ideal, edge + least[number - 1], counts - least[number:].sum(axis=0))
        found.append(edge)
    return found


def deal(
    split: str,
    given: Collection[str],
    where: Callable[[], np.ndarray],
    labels: np.ndarray,
    fractions: Sequence[float],
) -> np.ndarray:
    """Return the rows of a part that are of the split, int64 [M], by `members`.

    Of a part with and without labels the images without one stay where they were given, in train of
    a whole: what is tested has labels. A part without any is dealt as if all were of one class.
    """
    base, sharing = origin(split, given)
    known = labelled(labels)
    if len(sharing) == 1:
        return np.arange(len(labels))
    if known.all() or not known.any():
        return np.flatnonzero(members(split, given, where(), labels, fractions))
    rows = np.flatnonzero(known)
    dealt = rows[members(split, given, where()[rows], labels[rows], fractions)]
    keeps = split == (base or SPLITS[0])
    return np.union1d(dealt, np.flatnonzero(~known)) if keeps else dealt
