"""Where images come from. Nothing else in the code knows.

A `Dataset` names its domains, classes and splits and opens one `Source` per domain and split. A
`Source` is a sequence of examples with labels known before any image is decoded.
"""

from __future__ import annotations

import collections
import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from clipjax.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
EMOJI = pathlib.Path(__file__).parent.parent / "assets" / "emoji"


class Example(NamedTuple):
    """One image, still encoded, and what is known of it."""

    image: bytes | np.ndarray  # encoded file, or uint8 [H, W, 3]
    label: int
    name: str  # for error messages and reports


class Skipped(NamedTuple):
    """A file that looked like an image and is not used."""

    name: str
    reason: str


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
        self.classes, self.domain, self.split = tuple(classes), domain, split
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
            digest.update(image if isinstance(image, bytes) else image.tobytes())
        digest.update("\n".join(self.classes).encode())
        return f"ArraySource({self.domain}/{self.split}, n={len(self)}, {digest.hexdigest()[:16]})"


class _FileSource:
    """Images in files, read when asked for."""

    def __init__(self, files, labels, classes, domain, split):
        self.files, self.labels = files, np.asarray(labels, np.int32)
        self.classes, self.domain, self.split = classes, domain, split

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        path = self.files[index]
        try:
            return Example(path.read_bytes(), int(self.labels[index]), str(path))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); restore it.") from None

    def __repr__(self) -> str:
        # Path, size and time of change of every file: reading all bytes would cost as much as
        # encoding them.
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for path, label in zip(self.files, self.labels, strict=True):
            stat = path.stat()
            digest.update(f"{path}|{label}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return f"Folder({self.domain}/{self.split}, n={len(self)}, {digest.hexdigest()[:16]})"


class FolderDataset:
    """`root/domain/class/image`, or `root/domain/{train,val,test}/class/image`.

    Without split folders each file goes to a split by a hash of its name, so the split is the same
    on every machine and adding files moves no others.

    Args:
      root: the folder of domains.
      fractions: shares of train, val and test where the folders give none.
    """

    def __init__(
        self, root: str | pathlib.Path, fractions: Sequence[float] = (0.6, 0.1, 0.3), name: str = ""
    ):
        self.root, self.fractions = pathlib.Path(root), tuple(fractions)
        self.name = name or self.root.name
        if not self.root.is_dir():
            raise DataError(f"data.root {str(root)!r} does not exist; give a folder of domains.")
        self.domains = tuple(_subfolders(self.root))
        if not self.domains:
            raise DataError(
                f"data.root {str(root)!r} is empty; it must hold domain/class/image folders."
            )
        found: dict[str, list[str]] = collections.defaultdict(list)
        for domain in self.domains:
            for folder in self._class_roots(domain).values():
                for name in _subfolders(folder):
                    found[name].append(domain)
        self.classes = tuple(sorted(found))
        for name, domains in found.items():
            if lacking := sorted(set(self.domains) - set(domains)):
                raise DataError(
                    f"class {name!r} has no folder in domain {lacking[0]!r} of {self.root}; every "
                    "domain needs the same classes."
                )
        if not self.classes:
            raise DataError(
                f"the domain folders of {self.root} hold no class folders; expected "
                "domain/class/image."
            )

    def _class_roots(self, domain: str) -> dict[str, pathlib.Path]:
        """Split -> folder of classes; the key is "" where a hash decides the split."""
        folder = self.root / domain
        given = {s: folder / s for s in SPLITS if (folder / s).is_dir()}
        return given or {"": folder}

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split, as a folder or by hash."""
        roots = [self._class_roots(domain) for domain in self.domains]
        return all("" in r or split in r for r in roots)

    def _split_of(self, path: pathlib.Path) -> str:
        digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
        where = int.from_bytes(digest[:8], "big") / 2**64 * sum(self.fractions)
        edges = np.cumsum(self.fractions)
        return SPLITS[min(int(np.searchsorted(edges, where, side="right")), len(SPLITS) - 1)]

    def source(self, domain: str, split: str) -> _FileSource:
        """The examples of a domain and split.

        Raises:
          DataError: a split folder that is missing, or a class without images.
        """
        check_domain(self, domain)
        roots = self._class_roots(domain)
        if "" not in roots and split not in roots:
            raise DataError(
                f"{self.root / domain} has no {split} folder beside {', '.join(roots)}."
            )
        folder = roots.get(split, roots.get(""))
        files, labels = [], []
        for label, name in enumerate(self.classes):
            images = _images(folder / name)
            if not images:
                raise DataError(
                    f"class folder {folder / name} has no images; add some or remove it."
                )
            if "" in roots:
                images = [path for path in images if self._split_of(path) == split]
            files += images
            labels += [label] * len(images)
        return _FileSource(files, labels, self.classes, domain, split)


def _subfolders(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def check_domain(dataset: Dataset, domain: str) -> None:
    """Raises ConfigError, listing the domains there are, unless `domain` is one of them."""
    if domain not in dataset.domains:
        raise ConfigError(
            f"dataset {dataset.name!r} has no domain {domain!r}; domains: "
            f"{', '.join(dataset.domains)}."
        )


def open_dataset(name: str = "emoji", root: str = "") -> Dataset:
    """Opens the embedded dataset ("emoji"), or a folder ("folder") or Parquet ("parquet") at root.

    With a root and no other name, what lies there decides.

    Raises:
      ConfigError: an unknown name, or one that needs a root.
      DataError: nothing readable at the root.
    """
    from clipjax.data.parquet import ParquetDataset

    if not root:
        if name == "emoji":
            return ParquetDataset(EMOJI, "emoji")
        if name in ("folder", "parquet"):
            raise ConfigError(f"data.name={name!r} needs --config.data.root=/path.")
        raise ConfigError(f"unknown data.name {name!r}; known: emoji, folder, parquet.")
    path = pathlib.Path(root)
    if name == "parquet" or (name != "folder" and (path / "classes.txt").exists()):
        return ParquetDataset(path)
    return FolderDataset(path)
