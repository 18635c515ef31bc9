"""Sources made of others: several as one; given rows, a few shots or a share of each class."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import (
    Dataset,
    Example,
    Skipped,
    Source,
    check_domain,
    digest,
    open_parts,
)
from clipjax.data.splits import SPLITS, WHOLE
from clipjax.data.unlabelled import labelled
from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import counted, nfc, some

DEALT = "are dealt into train, val and test; numbers of all of them need another target"
UNUSED = "has no label, and its domain is data.source"  # why an image is passed over


class Wrapped(Dataset):
    """A dataset that is as another one, but for what a subclass says of it."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.name, self.domains, self.classes = dataset.name, dataset.domains, dataset.classes
        self.skipped = dataset.skipped

    def classes_of(self, domain: str) -> tuple[str, ...]:
        return self._dataset.classes_of(domain)

    def unlabelled(self, domain: str) -> bool:
        return self._dataset.unlabelled(domain)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        return self._dataset.splits_of(domain)

    def source(self, domain: str, split: str) -> Source:
        return self._dataset.source(domain, split)


class LabelledDomains(Wrapped):
    """A dataset without the images that have no label in some domains, the sources of a run.

    They are in `skipped`. DataError for a domain that has no labels at all.
    """

    def __init__(self, dataset: Dataset, domains: Sequence[str]):
        super().__init__(dataset)
        self._only = [d for d in map(nfc, domains) if dataset.unlabelled(d)]
        found = list(dataset.skipped)
        for domain in self._only:
            parts, failed = open_parts(dataset, domain)
            bare = {s: np.flatnonzero(~labelled(part.labels)) for s, part in parts.items()}
            if sum(map(len, bare.values())) == sum(map(len, parts.values())):
                told = f"domain {domain!r} is data.source, and none of its images has a label"
                remedy = "give them labels (class folders, `path label` lines, a label column)"
                raise DataError(f"{told}; {remedy}, or make it data.target.")
            found += [Skipped(parts[s].name_of(i), UNUSED) for s in bare for i in bare[s].tolist()]
        self.skipped = tuple(found)

    def unlabelled(self, domain: str) -> bool:
        return domain not in self._only and self._dataset.unlabelled(domain)

    def source(self, domain: str, split: str) -> Source:
        source = self._dataset.source(domain, split)
        rows = np.flatnonzero(labelled(source.labels))
        whole = domain not in self._only or len(rows) == len(source)
        return source if whole else Subset(source, rows)


class Dealt(Wrapped):
    """A dataset with one domain's test images dealt into train, val and test, as a target's are.

    ConfigError for shares that are none.
    """

    def __init__(self, dataset: Dataset, domain: str, fractions: Sequence[float]):
        super().__init__(dataset)
        self._domain = check_domain(dataset, domain)
        self._fractions = splits.check_fractions(fractions)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        mine = check_domain(self, domain) == self._domain
        return SPLITS if mine else self._dataset.splits_of(domain)

    def source(self, domain: str, split: str) -> Source:
        if check_domain(self, domain) != self._domain:
            return self._dataset.source(domain, split)
        whole = self._dataset.source(domain, "test")
        names = lambda: (os.path.basename(whole.name_of(i)) for i in range(len(whole)))
        where = lambda: splits.positions(names())
        rows = splits.deal(split, (WHOLE,), where, whole.labels, self._fractions)
        part = Subset(whole, rows)
        part.split = split
        return part


class JoinedDataset(Dataset):
    """A dataset with one more domain, `name`: the examples of some of its own, one by one.

    >>> from clipjax.data.dataset import ArrayDataset, ArraySource
    >>> image = np.zeros((1, 8, 8, 3), np.uint8)
    >>> make = lambda domain: {"train": ArraySource(image, [0], classes="ab", domain=domain)}
    >>> dataset = JoinedDataset(ArrayDataset({"a": make("a"), "b": make("b")}), ("a", "b"), "a+b")
    >>> dataset.domains, dataset.source("a+b", "train").groups.tolist()
    (('a', 'b', 'a+b'), [0, 1])
    """

    def __init__(self, dataset: Dataset, domains: Sequence[str], name: str):
        self._dataset, self._name = dataset, name
        self._joined = tuple(check_domain(dataset, domain) for domain in domains)
        self.name, self.classes, self.skipped = dataset.name, dataset.classes, dataset.skipped
        self.domains = (*dataset.domains, name)

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """Return the classes that a domain declares; for the joined one those of any."""
        if domain != self._name:
            return self._dataset.classes_of(domain)
        declared = {name for each in self._joined for name in self._dataset.classes_of(each)}
        return tuple(name for name in self.classes if name in declared)

    def unlabelled(self, domain: str) -> bool:
        domains = self._joined if domain == self._name else (domain,)
        return any(self._dataset.unlabelled(each) for each in domains)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        """Return the splits of a domain; of the joined one those that all have."""
        domains = self._joined if domain == self._name else (domain,)
        found = [self._dataset.splits_of(each) for each in domains]
        return tuple(split for split in SPLITS if all(split in each for each in found))

    def source(self, domain: str, split: str) -> Source:
        if domain != self._name:
            return self._dataset.source(domain, split)
        sources = [self._dataset.source(each, split) for each in self._joined]
        return JoinedSource(sources, domain, split, sources[0].classes)


class JoinedSource(Source):
    """Several sources, one after the other; `member`, int32 [N], numbers them: also its groups."""

    def __init__(
        self, sources: Sequence[Source], domain: str, split: str, classes: tuple[str, ...]
    ):
        self._sources, self.domain, self.split, self.classes = sources, domain, split, classes
        labels = [np.zeros(0, np.int32), *(source.labels for source in sources)]
        self.labels = np.concatenate(labels, dtype=np.int32)
        lengths = [len(source) for source in sources]
        self.member = np.repeat(np.arange(len(sources), dtype=np.int32), lengths)
        self.groups, self.group_names = self.member, tuple(source.domain for source in sources)
        self._starts = np.cumsum([0, *lengths])

    def __getitem__(self, index: int) -> Example:
        source, row = self._place(index)
        return source[row]

    def name_of(self, index: int) -> str:
        source, row = self._place(index)
        return source.name_of(row)

    def _place(self, index: int) -> tuple[Source, int]:
        number = int(self.member[index])
        return self._sources[number], int(index - self._starts[number])

    def __repr__(self) -> str:
        sources = digest(["\n".join(map(repr, self._sources))])
        return f"Joined({self.domain}/{self.split}, {sources})"


class Uncut(NamedTuple):
    """The images of a part before half of its classes were cut away."""

    labels: np.ndarray  # int32 [M], of all images
    classes: tuple[str, ...]  # all
    left_out: np.ndarray  # int64: rows of the images cut away
    rows: np.ndarray  # int64 [N]: rows of those that are left, in their order


class Subset(Source):
    """Some rows int [N] of a source, in the order given; DataError for rows that it lacks.

    >>> from clipjax.data.dataset import ArraySource
    >>> source = ArraySource(np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 1], classes="ab", domain="d")
    >>> part = Subset(source, [2, 0])
    >>> len(part), part.labels.tolist(), part[0].name
    (2, [1, 0], 'd/train/2')
    """

    def __init__(self, source: Source, rows: Sequence[int] | np.ndarray):
        self.source, self.rows = source, np.asarray(rows, np.int64)
        if len(self.rows) and not 0 <= self.rows.min() <= self.rows.max() < len(source):
            asked = f"rows {self.rows.min()} to {self.rows.max()} were asked of"
            has = f"{source.domain}/{source.split}, which has {len(source)} examples"
            raise DataError(f"{asked} {has}.")
        self.domain, self.split, self.classes = source.domain, source.split, source.classes
        self.labels = np.asarray(source.labels, np.int32)[self.rows]
        if (groups := getattr(source, "groups", None)) is not None:
            self.groups = np.asarray(groups)[self.rows]
            self.group_names = tuple(getattr(source, "group_names", ()))
        if (member := getattr(source, "member", None)) is not None:  # of several domains
            self.member = member[self.rows]
        if (uncut := getattr(source, "uncut", None)) is not None:
            self.uncut = uncut._replace(rows=uncut.rows[self.rows])

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.rows[index])]

    def name_of(self, index: int) -> str:
        return self.source.name_of(int(self.rows[index]))

    def __repr__(self) -> str:
        rows = digest([self.rows.astype("<i8").tobytes()])
        return f"Subset({self.source!r}, n={len(self)}, {rows})"


def few_shot(
    labels: np.ndarray,
    shots: int,
    seed: int,
    class_names: Sequence[str] = (),
    missing: str = "refuse",
) -> np.ndarray:
    """Choose `shots` examples of each class in labels int [N]: rows int64, ascending.

    Of a class that has fewer, all with `missing` "all"; else ConfigError. With `class_names` a
    class without any has fewer, too.

    >>> few_shot(np.array([0, 1, 0, 1, 0]), 2, seed=0).tolist()
    [0, 1, 2, 3]
    """
    if shots < 1:
        raise ConfigError(f"data.shots={shots}: give 1 example per class or more.")
    counts = np.bincount(np.asarray(labels, np.int64), minlength=len(class_names))
    classes = np.arange(len(counts)) if len(class_names) else np.flatnonzero(counts)
    if len(classes) and (least := counts[classes].min()) < shots and missing != "all":
        smallest = int(classes[counts[classes].argmin()])
        name = repr(class_names[smallest]) if len(class_names) > smallest else smallest
        has = f"class {name} has {least or 'no'} examples to train on"
        remedy = "set at most that many" if least else "give it some"
        remedy = f"{remedy}, or data.shots_missing=all to take all of such a class"
        raise ConfigError(f"data.shots={shots}, but {has}; {remedy}.")
    return np.flatnonzero(_ranks(labels, seed) < shots)


def fraction(
    labels: np.ndarray, share: float, seed: int, class_names: Sequence[str] = ()
) -> np.ndarray:
    """Choose `share`, in (0, 1], of each class in labels int [N], at least one: rows, ascending.

    >>> len(fraction(np.arange(100) % 2, 0.1, seed=0))
    10
    """
    _check_share(share)
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    wanted = np.maximum(1, np.rint(share * counts))
    return np.flatnonzero(_ranks(labels, seed) < wanted[place])


def uniform_fraction(
    labels: np.ndarray,
    share: float,
    seed: int,
    class_names: Sequence[str] = (),
    needed: Sequence[int] | None = None,
) -> np.ndarray:
    """Choose round(share N) of all examples, whatever their class: rows int64, ascending.

    As WILDS' `get_subset` (which draws without a seed). Smaller shares of one seed are parts of
    larger ones. ConfigError if a class, of those `needed` (by default all), loses all its examples.

    >>> len(uniform_fraction(np.arange(100) % 2, 0.1, seed=0))
    10
    """
    _check_share(share)
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    rows = np.sort(order[: round(share * len(labels))])
    needed = labels if needed is None else needed
    if len(gone := np.setdiff1d(needed, np.asarray(labels)[rows])):
        names = some(repr(class_names[k]) if k < len(class_names) else str(k) for k in gone)
        told = f"data.fraction={share}, drawn uniformly, leaves"
        remedy = "take a larger share, another data.subset_seed, or data.fraction_how=stratified"
        few = counted(len(gone), "class", "classes")
        raise ConfigError(f"{told} {few} without an image to train on ({names}); {remedy}.")
    return rows


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"data.fraction={share}: give a share above 0 and at most 1.")


def _ranks(labels: np.ndarray, seed: int) -> np.ndarray:
    """Rank each example within its class, int64 [N], in an order that the seed decides.

    So subsets of one seed are nested: 4 shots are among 16.
    """
    # Raw bits: numpy promises these for all versions, its shuffles it does not.
    keys = np.random.PCG64(seed).random_raw(len(labels))
    order = np.lexsort((keys, labels))
    ordered = np.asarray(labels)[order]
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return ranks
