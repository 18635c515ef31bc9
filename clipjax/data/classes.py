"""Matches the classes of source, target and evaluation domains by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from clipjax.data.dataset import Dataset, Example, Source, check_domain, digest
from clipjax.data.derived import Subset, Uncut
from clipjax.data.unlabelled import NO_LABEL, labelled
from clipjax.errors import ConfigError
from clipjax.io.texts import nfc, some

HALVES = ("base", "new")
HOW = ("closed", "intersection", *HALVES)
_WITHOUT_LABELS = (  # there they may be of any class of the source
    "To adapt to images of one class, give them without labels: their folder, written with a "
    "slash, as data.target."
)


def match_classes(
    dataset: Dataset, source: str, target: str, domains: Iterable[str], how: str = "closed"
) -> tuple[Dataset, list[str]]:
    """Restrict a dataset to the classes that a run trains and evaluates on.

    Args:
      dataset, source, target: a dataset, the labelled domain, the one that training adapts to.
      domains: those evaluated.
      how: "closed" requires the same classes in source and target, and none in `domains` that the
        source lacks; "intersection" keeps what source and target share; "base" and "new" are the
        first and the second half of "closed" ones (`cut`). Images without labels may be of any
        class of the source, so their domain has all of these.

    Returns:
      A dataset (`dataset` itself, if all are kept: features cached for it stay valid), and
      sentences for the user on what differs.

    ConfigError for "closed" classes that differ, fewer than two shared, unknown domain or `how`.
    """
    if how not in HOW:
        raise ConfigError(f"data.classes is {how!r}; known: {', '.join(HOW)}.")
    source, target = nfc(source), nfc(target)
    names = dict.fromkeys(check_domain(dataset, name) for name in (source, target, *domains))
    declared = {domain: set(dataset.classes_of(domain)) for domain in names}
    for domain in names:
        if domain != source and dataset.unlabelled(domain):
            declared[domain] |= declared[source]
    if how != "intersection":
        _check_closed(dataset, source, target, declared)
    shared = declared[source] & declared[target]
    kept = tuple(name for name in dataset.classes if name in shared)
    if len(kept) < 2:
        fault = f"{source!r} and {target!r} share {len(kept)} of their classes by name"
        hint = _spelling(declared[source], declared[target])
        single = len(kept) == 1 == len(declared[target]) < len(declared[source])
        hint = f" {_WITHOUT_LABELS}" if single else hint
        raise ConfigError(f"{fault}; at least two are needed.{hint}")
    for domain, names in declared.items():
        if not names & shared:
            fault = f"domain {domain!r} has none of the {len(kept)} classes that {source!r} and"
            raise ConfigError(f"{fault} {target!r} share; leave it out of the evaluation.")
    notes = [*_notes(dataset, kept, declared), *_alike(source, declared)]
    matched = dataset if kept == tuple(dataset.classes) else ClassSubset(dataset, kept)
    if how not in HALVES:
        return matched, notes
    found = cut(matched, how)
    for domain in declared:
        if not found.classes_of(domain):
            fault = f"domain {domain!r} has none of the {len(found.classes)} {how} classes"
            raise ConfigError(f"{fault}; leave it out of the evaluation.")
    told = f"data.classes={how}: {len(found.classes)} of the {len(kept)} classes are used"
    return found, [*notes, f"{told}, {found.classes[0]} to {found.classes[-1]}."]


def cut(dataset: Dataset, half: str) -> ClassCut:
    """Return the base or new half of a dataset's classes, in the order of labels, from 0 on.

    Base are the first ceil(n / 2), as in CoOp's and CoCoOp's base-to-new generalisation. Shots and
    shares of training images are drawn before the cut: those of base and of new are parts of those
    of all classes. ConfigError for a half of fewer than two classes.
    """
    middle = -(-len(dataset.classes) // 2)
    kept = dataset.classes[:middle] if half == "base" else dataset.classes[middle:]
    if len(kept) < 2:
        told = f"data.classes={half} is {len(kept)} of {len(dataset.classes)} classes"
        raise ConfigError(f"{told}; at least two are needed.")
    return ClassCut(dataset, kept)


def uncut(dataset: Dataset) -> Dataset:
    """Return a dataset with the classes that a `cut` has left out, or as it is."""
    return dataset.whole if isinstance(dataset, ClassCut) else dataset


def _check_closed(
    dataset: Dataset, source: str, target: str, declared: dict[str, set[str]]
) -> None:
    """Raise ConfigError if the classes of a closed set differ."""
    for domain, names in declared.items():
        extra = names - declared[source]
        lacking = declared[source] - names if domain == target else set()  # others may lack some
        parts = [
            f"{len(only)} only in {where!r} ({some(n for n in dataset.classes if n in only)})"
            for where, only in ((source, lacking), (domain, extra))
            if only
        ]
        if parts:
            hint = _spelling(lacking or declared[source], extra)
            fault = f"the classes of {source!r} and {domain!r} differ: {'; '.join(parts)}.{hint}"
            remedy = "Set data.classes=intersection to use those that both have."
            single = domain == target and len(names) == 1 and names < declared[source]
            raise ConfigError(f"{fault} {_WITHOUT_LABELS if single else remedy}")


def _notes(dataset: Dataset, kept: Sequence[str], declared: dict[str, set[str]]) -> list[str]:
    """Say which classes are left out, and which domains lack classes kept."""
    notes = []
    everything = set().union(*declared.values())
    if len(kept) < len(everything):
        notes.append(f"{len(kept)} of {len(everything)} classes are used.")
    for domain, names in declared.items():
        if gone := [n for n in dataset.classes if n in names and n not in kept]:
            notes.append(f"{domain} loses {len(gone)} classes: {some(gone)}.")
        if lacking := [n for n in kept if n not in names]:
            notes.append(f"{domain} has no {len(lacking)} of the classes: {some(lacking)}.")
    return notes


def _alike(source: str, declared: dict[str, set[str]]) -> list[str]:
    """Say which classes a domain would share with the source but for their spelling."""
    own = declared[source]
    hints = {domain: _spelling(own - names, names - own) for domain, names in declared.items()}
    return [f"{domain}: {hint.strip()}" for domain, hint in hints.items() if hint]


def _spelling(one: set[str], other: set[str]) -> str:
    """Hint at names that would match but for case, spaces, hyphens and underscores."""
    plain = lambda name: re.sub(r"[\W_]+", "", name).lower()
    ours = {plain(name): name for name in sorted(one)}
    pairs = [(ours[plain(n)], n) for n in sorted(other) if ours.get(plain(n), n) != n]
    if not pairs:
        return ""
    shown = some([f"{a!r} and {b!r}" for a, b in pairs], 3)
    return f" But for their spelling, {shown} would match: rename one of each."


class ClassSubset(Dataset):
    """A dataset restricted to some classes, renumbered in the order of `classes`."""

    def __init__(self, dataset: Dataset, classes: Sequence[str]):
        self._dataset, self.classes = dataset, tuple(classes)
        self.name, self.domains, self.skipped = dataset.name, dataset.domains, dataset.skipped

    def classes_of(self, domain: str) -> tuple[str, ...]:
        declared = set(self._dataset.classes_of(domain))
        return tuple(name for name in self.classes if name in declared)

    def unlabelled(self, domain: str) -> bool:
        return self._dataset.unlabelled(domain)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        return self._dataset.splits_of(domain)

    def source(self, domain: str, split: str) -> ClassSubsetSource:
        return ClassSubsetSource(self._dataset.source(domain, split), self.classes)


class ClassSubsetSource(Subset):
    """The examples of a source whose class is in `classes`, relabelled 0 .. K - 1 in that order.

    Those without a label stay, without one.
    """

    def __init__(self, source: Source, classes: Sequence[str]):
        number, left_out = {name: k for k, name in enumerate(classes)}, NO_LABEL - 1
        renumbered = [number.get(name, left_out) for name in source.classes]
        renumbered = np.array([*renumbered, NO_LABEL], np.int32)
        given = np.asarray(source.labels)
        labels = renumbered[np.where(labelled(given), given, len(source.classes))]
        super().__init__(source, np.flatnonzero(labels != left_out))
        self.labels, self.classes = labels[self.rows], tuple(classes)

    def __getitem__(self, index: int) -> Example:
        return super().__getitem__(index)._replace(label=int(self.labels[index]))

    def __repr__(self) -> str:
        names = digest(["\n".join(self.classes)])
        return f"ClassSubset({self.source!r}, {len(self.classes)} classes {names})"


class ClassCut(ClassSubset):
    """A half of a dataset's classes; its sources know the images that the cut has left out."""

    @property
    def whole(self) -> Dataset:
        """The dataset with all classes."""
        return self._dataset

    def source(self, domain: str, split: str) -> ClassSubsetSource:
        part = super().source(domain, split)
        labels = np.asarray(part.source.labels, np.int32)
        left_out = np.setdiff1d(np.arange(len(labels)), part.rows)
        part.uncut = Uncut(labels, self._dataset.classes, left_out, part.rows)
        return part
