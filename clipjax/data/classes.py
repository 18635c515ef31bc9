"""Classes of source, target and evaluation domains, matched by name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from clipjax.data.dataset import Dataset, Example, Source, check_domain
from clipjax.errors import ConfigError
from clipjax.io.texts import nfc, some

HOW = ("closed", "intersection")
REMEDY = "Set data.classes=intersection to use the classes that source and target share"


def match_classes(
    dataset: Dataset, source: str, target: str, domains: Iterable[str], how: str = "closed"
) -> tuple[Dataset, list[str]]:
    """The dataset with the classes that a run trains and evaluates on.

    Where nothing has to go, this is `dataset` itself, so that nothing cached under its sources'
    names is lost.

    Args:
      dataset: what was opened; its domains may declare different classes.
      source: labelled domain.
      target: domain that training adapts to.
      domains: what is evaluated.
      how: "closed" wants the same classes in source and target, and none in `domains` that the
        source lacks; "intersection" keeps what source and target share.

    Returns:
      A dataset, and sentences on what differs, to be shown to the user.

    Raises:
      ConfigError: classes that differ under "closed", fewer than two shared ones, an unknown
        domain or `how`.
    """
    if how not in HOW:
        raise ConfigError(f"data.classes is {how!r}; known: {', '.join(HOW)}.")
    source, target = nfc(source), nfc(target)
    domains = tuple(dict.fromkeys((source, target, *map(nfc, domains))))
    for domain in domains:
        check_domain(dataset, domain)
    declared = {domain: set(dataset.classes_of(domain)) for domain in domains}
    if how == "closed":
        _refuse_differences(dataset, source, target, declared)
    shared = declared[source] & declared[target]
    kept = tuple(name for name in dataset.classes if name in shared)
    if len(kept) < 2:
        raise ConfigError(
            f"{source!r} and {target!r} share {len(kept)} of their classes by name; at least two "
            f"are needed.{_spelling(declared[source], declared[target])}"
        )
    for domain in domains:
        if not declared[domain] & shared:
            raise ConfigError(
                f"domain {domain!r} has none of the {len(kept)} classes that {source!r} and "
                f"{target!r} share; leave it out of the evaluation."
            )
    notes = _notes(dataset, kept, declared)
    return (dataset if kept == tuple(dataset.classes) else ClassSubset(dataset, kept)), notes


def _refuse_differences(
    dataset: Dataset, source: str, target: str, declared: dict[str, set[str]]
) -> None:
    """Raises ConfigError where the classes of a closed set differ."""
    ordered = lambda names: [name for name in dataset.classes if name in names]  # noqa: E731
    for domain, names in declared.items():
        extra, lacking = names - declared[source], declared[source] - names
        if domain != target:
            lacking = set()  # an evaluation domain may lack classes
        if not extra and not lacking:
            continue
        parts = [
            f"{len(only)} only in {where!r} ({some(ordered(only))})"
            for where, only in ((source, lacking), (domain, extra))
            if only
        ]
        raise ConfigError(
            f"the classes of {source!r} and {domain!r} differ: {'; '.join(parts)}."
            f"{_spelling(lacking or declared[source], extra)} {REMEDY}."
        )


def _notes(dataset: Dataset, kept: Sequence[str], declared: dict[str, set[str]]) -> list[str]:
    """What is left out, and which domains lack what is kept."""
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


def _spelling(one: set[str], other: set[str]) -> str:
    """A hint at names that would match but for case, spaces, hyphens and underscores."""
    plain = lambda name: re.sub(r"[\W_]+", "", name).lower()  # noqa: E731
    ours = {plain(name): name for name in sorted(one)}
    pairs = [(ours[plain(n)], n) for n in sorted(other) if ours.get(plain(n), n) != n]
    if not pairs:
        return ""
    shown = some([f"{a!r} and {b!r}" for a, b in pairs], 3)
    return f" But for their spelling, {shown} would match: rename one of each."


class ClassSubset:
    """A dataset of which only some classes are used, numbered anew in the order of `classes`."""

    def __init__(self, dataset: Dataset, classes: Sequence[str]):
        self._dataset, self.classes = dataset, tuple(classes)
        self.name, self.domains, self.skipped = dataset.name, dataset.domains, dataset.skipped

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """The kept classes that this domain declares."""
        declared = set(self._dataset.classes_of(domain))
        return tuple(name for name in self.classes if name in declared)

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split."""
        return self._dataset.has_split(split)

    def source(self, domain: str, split: str) -> ClassSubsetSource:
        """The examples of a domain and split whose class is kept."""
        return ClassSubsetSource(self._dataset.source(domain, split), self.classes)


class ClassSubsetSource:
    """The examples of a source that are of `classes`, relabelled 0 .. K - 1 in that order."""

    def __init__(self, source: Source, classes: Sequence[str]):
        number = {name: k for k, name in enumerate(classes)}
        renumbered = np.array([number.get(name, -1) for name in source.classes], np.int32)
        labels = renumbered[np.asarray(source.labels)]
        self._source, self._rows = source, np.flatnonzero(labels >= 0)
        self.labels, self.classes = labels[self._rows], tuple(classes)
        self.domain, self.split = source.domain, source.split
        if (groups := getattr(source, "groups", None)) is not None:  # `clipjax.data.joined`
            self.groups = groups[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        example = self._source[int(self._rows[index])]
        return example._replace(label=int(self.labels[index]))

    def __repr__(self) -> str:
        names = "\n".join(self.classes).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(names).hexdigest()[:16]
        return f"ClassSubset({self._source!r}, {len(self.classes)} classes {digest})"
