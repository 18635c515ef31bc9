"""The interfaces of datasets and sources of images, and those over arrays in memory."""

import collections
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from clipjax.data.splits import SPLITS
from clipjax.data.summary import summary
from clipjax.data.unlabelled import NO_LABEL, labelled
from clipjax.errors import ConfigError, DataError, sentence
from clipjax.io import is_remote
from clipjax.io.texts import check_class_names, nfc, shown, some


class Example(NamedTuple):
    """One image, still encoded."""

    image: bytes | np.ndarray  # encoded file, or uint8 [H, W, 3]
    label: int  # of a class, or NO_LABEL
    name: str  # for error messages and reports


class Skipped(NamedTuple):
    """A file that looks like an image and is not used."""

    name: str
    reason: str


def reasons(skipped: Iterable[Skipped]) -> str:
    """Count the skipped files by reason, the five most frequent reasons first.

    >>> reasons([Skipped("a", "empty"), Skipped("b", "not read (.heic)"), Skipped("c", "empty")])
    '2 empty; 1 not read (.heic)'
    """
    counts = collections.Counter(entry.reason for entry in skipped).most_common()
    rest = sum(number for _, number in counts[5:])
    listed = counts[:5] + [("for other reasons", rest)] * (rest > 0)
    return "; ".join(f"{number:,} {reason}" for reason, number in listed)


def check_root(root: str | os.PathLike, wanted: str) -> pathlib.Path:
    """Return the root with `~` expanded; raise DataError, asking for `wanted`, if not a folder."""
    check_local(root, "root")
    path = pathlib.Path(root).expanduser()
    if not path.is_dir():
        fault = "is a file" if path.exists() else "does not exist"
        here = "" if path.is_absolute() else f" in {shown(path.cwd())}"
        raise DataError(f"data.root {shown(path)!r} {fault}{here}; give {wanted}.")
    return path


def check_local(path: str | os.PathLike, field: str) -> None:
    """Raise DataError if the path in this field of the config is in an object store."""
    if is_remote(path):
        place = os.fspath(path)
        raise DataError(f"data.{field} {place!r} is in an object store; copy or mount it here.")


def check_labels(labels: np.ndarray, count: int, where: str) -> None:
    """Raise DataError unless labels number `count` classes."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        fault = f"run from {labels.min()} to {labels.max()}, but it has {count} classes"
        raise DataError(f"the labels of {where} {fault}; number them 0 .. {count - 1}.")


def digest(parts: Iterable[str | bytes], digits: int = 16) -> str:
    """Hash texts and bytes, one after the other, into hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part)
    return found.hexdigest()[:digits]


class Source(Protocol):
    """A picklable sequence of examples of one domain and split, with labels known before decoding.

    Its repr is stable over processes: it keys the feature cache and grain's iterator state.
    """

    domain: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray  # int32 [N], NO_LABEL where there is none
    groups: np.ndarray | None = None  # int32 [N], below 0 for none: the worst one is reported
    group_names: tuple[str, ...] = ()  # of groups 0, 1, ..., the same in all splits of a domain

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example: ...

    def name_of(self, index: int) -> str:
        """Return the name of an example; sources that know it without reading the image say so."""
        return self[index].name


class Dataset(Protocol):
    """Several domains over one list of classes.

    By default all declare all classes and have all splits, the missing dealt out of others.
    """

    name: str
    domains: tuple[str, ...]
    classes: tuple[str, ...]  # of all domains, numbered as labels are
    skipped: tuple[Skipped, ...] = ()  # files left out before decoding

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """Return the classes that this domain declares, a part of `classes`."""
        check_domain(self, domain)
        return self.classes

    def unlabelled(self, domain: str) -> bool:
        """Return whether some images of this domain have no label: they may be of any class."""
        check_domain(self, domain)
        return False

    @property
    def texts(self) -> Mapping[str, str]:
        """Class -> what prompts call it, where it is not its name; that of a dataset within."""
        within = getattr(self, "_dataset", None)
        return {} if within is None else within.texts

    def splits_of(self, domain: str) -> tuple[str, ...]:
        """Return the splits of this domain: fewer than all where its publisher gives fewer."""
        check_domain(self, domain)
        return SPLITS

    def source(self, domain: str, split: str) -> Source: ...

    def __repr__(self) -> str:
        return summary(self)


class ArraySource(Source):
    """A source over images in memory; `labels` int [N] may be NO_LABEL; None: all are.

    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> source = ArraySource(images, [0, 1], classes=("cat", "dog"), domain="photo")
    >>> len(source), source[1].label
    (2, 1)
    """

    def __init__(
        self,
        images: Sequence[bytes] | np.ndarray,
        labels: Sequence[int] | None,
        *,
        classes: Sequence[str],
        domain: str,
        split: str = "train",
        names: Sequence[str] | None = None,
        groups: Sequence[int] | None = None,
        group_names: Sequence[str] = (),
    ):
        labels = np.full(len(images), NO_LABEL) if labels is None else labels
        self.images, self.labels = images, np.asarray(labels, np.int32)
        self.classes = check_class_names(classes, f"the source {domain}/{split}")
        self.domain, self.split = nfc(domain), split
        self.names = names or [f"{domain}/{split}/{i}" for i in range(len(images))]
        if len(images) != len(self.labels):
            raise DataError(f"{len(images)} images but {len(self.labels)} labels; give one each.")
        if groups is not None:
            self.groups, self.group_names = np.asarray(groups, np.int32), tuple(group_names)
            if self.groups.shape != self.labels.shape:
                told = f"{len(images)} images but groups of shape {self.groups.shape}"
                raise DataError(f"{told}; give each image one number.")
        known = self.labels[labelled(self.labels)]
        check_labels(known, len(classes), f"the source {domain}/{split}")

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]), self.names[index])

    def name_of(self, index: int) -> str:
        return self.names[index]

    def __repr__(self) -> str:
        # Shapes tell 2 x 6 pixels from 3 x 4.
        plain = lambda x: f"{x.shape}{x.dtype}".encode() + x.tobytes()
        images = (x if isinstance(x, bytes) else plain(x) for x in self.images)
        key = digest(itertools.chain([self.labels.tobytes()], images, ["\n".join(self.classes)]))
        return f"ArraySource({self.domain}/{self.split}, n={len(self)}, {key})"


class ArrayDataset(Dataset):
    """Sources as one dataset: domain -> split -> source, all with the same classes.

    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> photos = ArraySource(images, [0, 1], classes=("cat", "dog"), domain="photo")
    >>> dataset = ArrayDataset({"photo": {"train": photos}})
    >>> dataset.domains, dataset.splits_of("photo"), len(dataset.source("photo", "train"))
    (('photo',), ('train',), 2)
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Source]], name: str = "arrays"):
        parts = {nfc(domain): found for domain, found in parts.items()}
        self.name, self.domains = name, tuple(parts)
        self._parts = {(d, s): source for d, found in parts.items() for s, source in found.items()}
        if not self._parts:
            raise DataError("a dataset of arrays needs at least one domain with one split.")
        self.classes = tuple(next(iter(self._parts.values())).classes)
        for (domain, split), source in self._parts.items():
            if (source.domain, source.split) != (domain, split):
                fault = f"calls itself {source.domain}/{source.split}; make it with the same names"
            elif tuple(source.classes) != self.classes:
                fault = "has other classes than the first; give all the same in the same order"
            else:
                continue
            raise DataError(f"the source given as {domain}/{split} {fault}.")

    def unlabelled(self, domain: str) -> bool:
        domain = check_domain(self, domain)
        sources = (source for (d, _), source in self._parts.items() if d == domain)
        return not all(labelled(source.labels).all() for source in sources)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        domain = check_domain(self, domain)
        return tuple(split for split in SPLITS if (domain, split) in self._parts)

    def source(self, domain: str, split: str) -> Source:
        domain = check_domain(self, domain)
        if (domain, split) not in self._parts:
            has = ", ".join(s for d, s in self._parts if d == domain) or "none"
            raise DataError(f"domain {domain!r} of {self.name} has no {split} split; it has {has}.")
        return self._parts[domain, split]


def check_domain(dataset: Dataset, domain: str) -> str:
    """Return the name of a domain in NFC; raise ConfigError if there is no such domain."""
    if (name := nfc(domain)) not in dataset.domains:
        known = some(dataset.domains, 20)
        raise ConfigError(f"dataset {dataset.name!r} has no domain {domain!r}; domains: {known}.")
    return name


def has_labels(dataset: Dataset, domain: str, *splits: str) -> bool:
    """Return whether an image of these splits of a domain, by default of any, has a label."""
    if not dataset.unlabelled(domain):
        return True
    sources = (dataset.source(domain, split) for split in splits or dataset.splits_of(domain))
    return any(labelled(source.labels).any() for source in sources)


Part = tuple[str, str]  # (domain, split)


def open_parts(dataset: Dataset, *domains: str) -> tuple[dict[Part, Source], dict[Part, str]]:
    """Open every split of these domains, by default all: sources, and errors of those that fail."""
    found, failed = {}, {}
    for domain, split in itertools.product(domains or dataset.domains, SPLITS):
        try:
            source = dataset.source(domain, split)
            np.asarray(source.labels)  # a source may open its files only for these
            found[domain, split] = source
        except Exception as error:
            failed[domain, split] = sentence(error)
    return found, failed
