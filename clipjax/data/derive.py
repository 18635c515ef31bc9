"""Splits that a dataset does not have, dealt out of one that it has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from clipjax.data.splits import SPLITS


def origin(split: str, given: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The given split that holds `split`, and all splits that are dealt out of it.

    What is missing comes out of train; out of the first given split where there is no train.

    >>> origin("val", ["train", "test"])
    ('train', ('train', 'val'))
    >>> origin("test", ["train", "test"])
    ('test', ('test',))
    """
    given = set(given)
    base = next(s for s in SPLITS if s in given)
    sharing = tuple(s for s in SPLITS if s == base or s not in given)
    return (base, sharing) if split in sharing else (split, (split,))


def dealt(
    keys: Sequence[str], split: str, sharing: Sequence[str], fractions: Sequence[float]
) -> np.ndarray:
    """Which keys fall to `split`, bool [N], by a hash of each: the same on every machine.

    Args:
      keys: what tells the examples of a domain apart.
      split: one of `sharing`.
      sharing: the splits that keys are dealt to; each key falls to one.
      fractions: shares of train, val and test; only those of `sharing` count.
    """
    if len(sharing) == 1:
        return np.ones(len(keys), bool)
    digests = b"".join(hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    shares = [fractions[SPLITS.index(s)] for s in sharing]
    edges = np.cumsum(shares if sum(shares) > 0 else [1.0] * len(shares))
    where = np.frombuffer(digests, ">u8") / 2**64 * edges[-1]
    fell = np.minimum(np.searchsorted(edges, where, side="right"), len(sharing) - 1)
    return fell == list(sharing).index(split)
