"""Statistics of the parts (domain and split) of a dataset: classes, balance, repeated contents."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import Part, Source
from clipjax.data.derived import JoinedSource
from clipjax.data.unlabelled import labelled


class Rows(JoinedSource):
    """The examples of several parts as one sequence."""

    def __init__(self, sources: Mapping[Part, Source]):
        super().__init__(tuple(sources.values()), "", "", ())
        self.parts, self.part = tuple(sources), self.member  # int32 [N], index into `parts`

    def key(self, which: int) -> np.ndarray:
        """Number the domains (0) or the splits (1) of all rows, int64 [N]."""
        names = [part[which] for part in self.parts]
        order = list(dict.fromkeys(names))
        return np.array([order.index(name) for name in names], np.int64)[self.part]


def class_counts(sources: Mapping[Part, Source], num_classes: int) -> dict[Part, np.ndarray]:
    """Count the images of each class in each part, int64 [K]; those without a label in none."""
    known = {part: s.labels[labelled(s.labels)] for part, s in sources.items()}
    return {part: np.bincount(labels, minlength=num_classes) for part, labels in known.items()}


def bare_counts(sources: Mapping[Part, Source]) -> dict[Part, int]:
    """Count the images without a label in each part that has some."""
    found = {part: int((~labelled(s.labels)).sum()) for part, s in sources.items()}
    return {part: count for part, count in found.items() if count}


def domain_counts(counts: Mapping[Part, np.ndarray]) -> dict[str, np.ndarray]:
    """Count the images of each class in each domain, all its splits together, int64 [K]."""
    domains = dict.fromkeys(domain for domain, _ in counts)
    return {name: sum(each for (d, _), each in counts.items() if d == name) for name in domains}


class Balance(NamedTuple):
    """The balance of classes; all None without images."""

    largest: int | None  # class
    smallest: int | None  # class, among those with images
    ratio: float | None  # images of the largest over images of the smallest
    effective: float | None  # number of equal classes of the same entropy


def balance(counts: np.ndarray) -> Balance:
    """Return the balance of a part, from its images per class, int [K].

    >>> balance(np.array([2, 2, 0]))
    Balance(largest=0, smallest=0, ratio=1.0, effective=2.0)
    """
    present = np.flatnonzero(counts)
    if not len(present):
        return Balance(None, None, None, None)
    some = counts[present]
    share = some / some.sum()
    effective = float(np.exp(-(share * np.log(share)).sum()))
    largest, smallest = int(present[some.argmax()]), int(present[some.argmin()])
    return Balance(largest, smallest, float(some.max() / some.min()), round(effective, 6))


def missing_classes(counts: Mapping[Part, np.ndarray]) -> dict[str, list[int]]:
    """Map domains to the classes without an image there that some other domain has."""
    domains = domain_counts(counts)
    seen = sum(domains.values(), 0) > 0
    return {name: np.flatnonzero(seen & (each == 0)).tolist() for name, each in domains.items()}


def sample_rows(rows: Rows, limit: int, seed: int) -> np.ndarray:
    """Draw at most `limit` rows of each domain, bool [N]."""
    chosen, domain = np.zeros(len(rows), bool), rows.key(0)
    for number in np.unique(domain):
        own = np.flatnonzero(domain == number)
        rng = np.random.default_rng([seed, int(number)])
        chosen[rng.permutation(own)[:limit]] = True
    return chosen


def repeated(hashes: np.ndarray, hashed: np.ndarray) -> list[np.ndarray]:
    """Group the rows of equal hashes, uint64 [N, 2], each group ascending, by their first row.

    Rows where `hashed`, bool [N], is False have no hash.

    >>> [g.tolist() for g in repeated(np.array([[7, 1], [5, 0], [7, 1]]), np.ones(3, bool))]
    [[0, 2]]
    """
    rows = np.flatnonzero(hashed)
    order = rows[np.lexsort((rows, *hashes[rows].T))]
    new = (hashes[order][1:] != hashes[order][:-1]).any(axis=1)
    groups = np.split(order, np.flatnonzero(new) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: group[0])


def crossings(groups: Sequence[np.ndarray], key: np.ndarray) -> list[tuple[int, int]]:
    """Pair the first row of each group with the first row of every other key (int [N]) in it.

    >>> crossings([np.array([0, 2, 3])], np.array([0, 0, 0, 1]))
    [(0, 3)]
    """
    pairs = []
    for group in groups:
        _, first = np.unique(key[group], return_index=True)
        pairs += [(int(group[0]), int(group[i])) for i in sorted(first) if i]
    return pairs


def shared_contents(groups: Sequence[np.ndarray], rows: Rows) -> dict[tuple[Part, Part], int]:
    """Count the contents that each pair of parts shares, and those that one part repeats."""
    found: collections.Counter[tuple[int, int]] = collections.Counter()
    for group in groups:
        numbers, times = np.unique(rows.part[group], return_counts=True)
        twice = np.repeat(numbers, np.minimum(times, 2)).tolist()
        found.update(set(itertools.combinations(twice, 2)))
    return {(rows.parts[a], rows.parts[b]): found[a, b] for a, b in sorted(found)}
