"""Where images come from. Nothing else in the code knows.

A `Dataset` names its domains, classes and splits and opens one `Source` per domain and split. A
`Source` is a sequence of examples with labels known before any image is decoded.
"""

from __future__ import annotations

import collections
import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from clipjax.data.splits import SPLITS
from clipjax.errors import ConfigError, DataError, sentence
from clipjax.io import is_remote
from clipjax.io.texts import check_class_names, nfc, shown, some


class Example(NamedTuple):
    """One image, still encoded, and what is known of it."""

    image: bytes | np.ndarray  # encoded file, or uint8 [H, W, 3]
    label: int
    name: str  # for error messages and reports


class Skipped(NamedTuple):
    """A file that looked like an image and is not used."""

    name: str
    reason: str


def reasons(skipped: Iterable[Skipped]) -> str:
    """How many were skipped for which reason, the most frequent first; at most five reasons.

    >>> reasons([Skipped("a", "empty"), Skipped("b", "not read (.heic)"), Skipped("c", "empty")])
    '2 empty; 1 not read (.heic)'
    """
    counts = collections.Counter(entry.reason for entry in skipped).most_common()
    some = [f"{number:,} {reason}" for reason, number in counts[:5]]
    rest = sum(number for _, number in counts[5:])
    return "; ".join([*some, f"{rest:,} for other reasons"] if rest else some)


def check_root(root: str | os.PathLike, wanted: str) -> pathlib.Path:
    """The root of a dataset as a path, `~` replaced.

    Raises:
      DataError: it is no folder; give `wanted`, says the message.
    """
    _check_local(root, "root")
    path = pathlib.Path(root).expanduser()
    if not path.is_dir():
        fault = "is a file" if path.exists() else "does not exist"
        here = "" if path.is_absolute() else f" in {shown(path.cwd())}"
        raise DataError(f"data.root {shown(path)!r} {fault}{here}; give {wanted}.")
    return path


def _check_local(path: str | os.PathLike, field: str) -> None:
    if is_remote(path):
        raise DataError(
            f"data.{field} {os.fspath(path)!r} is in an object store, and data are read from a "
            "disk of this machine; copy or mount them."
        )


class Source(Protocol):
    """A sequence of examples of one domain and split. Picklable: worker processes read it."""

    domain: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray  # int32 [N]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __repr__(self) -> str:
        """Stable over processes: it keys the feature cache and grain's iterator state."""
        ...


class Dataset(Protocol):
    """Several domains over one list of classes."""

    name: str
    domains: tuple[str, ...]
    classes: tuple[str, ...]  # of all domains, numbered as labels are
    skipped: tuple[Skipped, ...]  # what was passed over before any image was decoded

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """The classes that this domain declares, a part of `classes`."""
        ...

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split."""
        ...

    def source(self, domain: str, split: str) -> Source: ...


class ArraySource:
    """A source over what is already in memory.

    >>> import numpy as np
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> source = ArraySource(images, [0, 1], classes=("cat", "dog"), domain="photo")
    >>> len(source), source[1].label
    (2, 1)
    """

    def __init__(
        self,
        images: Sequence[bytes] | np.ndarray,
        labels: Sequence[int],
        *,
        classes: Sequence[str],
        domain: str,
        split: str = "train",
        names: Sequence[str] | None = None,
    ):
        self.images, self.labels = images, np.asarray(labels, np.int32)
        self.classes = check_class_names(classes, f"the source {domain}/{split}")
        self.domain, self.split = nfc(domain), split
        self.names = names or [f"{domain}/{split}/{i}" for i in range(len(images))]
        if len(images) != len(self.labels):
            raise DataError(f"{len(images)} images but {len(self.labels)} labels; give one each.")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(classes):
            raise DataError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, but there are "
                f"{len(classes)} classes; labels must be 0 .. {len(classes) - 1}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]), self.names[index])

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        for image in self.images:
            if not isinstance(image, bytes):  # 2 x 6 pixels are not 3 x 4
                digest.update(f"{image.shape}{image.dtype}".encode())
            digest.update(image if isinstance(image, bytes) else image.tobytes())
        digest.update("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        return f"ArraySource({self.domain}/{self.split}, n={len(self)}, {digest.hexdigest()[:16]})"


class ArrayDataset:
    """Arrays, or any other sources, of several domains as one dataset.

    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> photos = ArraySource(images, [0, 1], classes=("cat", "dog"), domain="photo")
    >>> dataset = ArrayDataset({"photo": {"train": photos}})
    >>> dataset.domains, dataset.has_split("test"), len(dataset.source("photo", "train"))
    (('photo',), False, 2)

    Args:
      parts: domain -> split -> source; all with the same classes.
      name: what messages and results call it.

    Raises:
      DataError: no parts, or one whose classes, domain or split is another than its place says.
    """

    skipped: tuple[Skipped, ...] = ()

    def __init__(self, parts: Mapping[str, Mapping[str, Source]], name: str = "arrays"):
        parts = {nfc(domain): found for domain, found in parts.items()}
        self.name, self.domains = name, tuple(parts)
        self._parts = {(d, s): source for d, found in parts.items() for s, source in found.items()}
        if not self._parts:
            raise DataError("a dataset of arrays needs at least one domain with one split.")
        self.classes = tuple(next(iter(self._parts.values())).classes)
        for (domain, split), source in self._parts.items():
            if (source.domain, source.split) != (domain, split):
                raise DataError(
                    f"the source given as {domain}/{split} calls itself {source.domain}/"
                    f"{source.split}; make it with the same domain and split."
                )
            if tuple(source.classes) != self.classes:
                raise DataError(
                    f"{domain}/{split} has other classes than the sources before it; give all the "
                    "same classes in the same order."
                )

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """All classes: arrays share one numbering."""
        check_domain(self, domain)
        return self.classes

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split."""
        return all((domain, split) in self._parts for domain in self.domains)

    def source(self, domain: str, split: str) -> Source:
        """The source that was given for a domain and split."""
        domain = check_domain(self, domain)
        if (domain, split) not in self._parts:
            given = [s for d, s in self._parts if d == domain]
            raise DataError(
                f"domain {domain!r} of {self.name} has no {split} split; it has "
                f"{', '.join(given) or 'none'}."
            )
        return self._parts[domain, split]


def check_domain(dataset: Dataset, domain: str) -> str:
    """The name of a domain as the dataset has it, in NFC.

    Raises:
      ConfigError: there is none of this name; those there are.
    """
    if (name := nfc(domain)) not in dataset.domains:
        raise ConfigError(
            f"dataset {dataset.name!r} has no domain {domain!r}; domains: "
            f"{some(dataset.domains, 20)}."
        )
    return name


Part = tuple[str, str]  # (domain, split)


def open_parts(dataset: Dataset) -> tuple[dict[Part, Source], dict[Part, str]]:
    """Every split of every domain: those there are, and of the others why not."""
    found, closed = {}, {}
    for domain in dataset.domains:
        for split in SPLITS:
            try:
                source = dataset.source(domain, split)
                np.asarray(source.labels)  # a source may open its files only for these
                found[domain, split] = source
            except Exception as error:
                closed[domain, split] = sentence(error)
    return found, closed
