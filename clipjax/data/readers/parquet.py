"""Datasets in Parquet files, as Hugging Face `datasets` writes them.

Labels and domains are read when a dataset is opened; images stay in the files until asked for,
unless all files together are small.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import ArraySource, Example, Skipped, check_domain, check_root
from clipjax.data.readers.labels import is_missing, is_number
from clipjax.data.readers.list_files import CLASSES, class_names
from clipjax.data.readers.parquet_columns import Column, by_names
from clipjax.data.readers.parquet_io import ImageColumn, Shard, find_shards, read_shard
from clipjax.data.splits import SPLITS
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown

SMALL = 256 << 20  # bytes of files that are held in memory as a whole


class ParquetDataset:
    """Parquet files with an image column and a label column; the embedded dataset is one.

    Files lie in `root`, `root/data` or a folder per domain. The first word of a file's name, or a
    folder, says its split (`train-00000-of-00002.parquet`, `validation.parquet`, `test/0.parquet`);
    files that say none are train. Splits that no file has are dealt out of train by a hash of file
    name and row. The domain is a `domain` column, else the folder (or the file's first word, in
    `sketch-00000-of-00001.parquet`), else there is one domain, called as `root` is.

    Labels are class names, or numbers whose names `classes.txt` in `root` has one a line, or the
    `ClassLabel` in the files' metadata. Rows without image or label are in `skipped`.

    Args:
      root: folder.
      name: of the dataset; the folder's by default.
      image: column of encoded images, bytes or struct<bytes, path>; found by default.
      label: column; found by default.
      domain: column; "domain" by default, where there is one.
      fractions: shares of train, val and test where files give none.

    Raises:
      DataError: no files, missing or damaged ones, columns that are not there, labels that no
        class name belongs to.
    """

    def __init__(
        self,
        root: str | pathlib.Path,
        name: str = "",
        *,
        image: str = "",
        label: str = "",
        domain: str = "",
        fractions: Sequence[float] = splits.FRACTIONS,
    ):
        self.root = check_root(root, "the folder of Parquet files")
        self.fractions = splits.check_fractions(fractions)
        self.name = nfc(name or shown(self.root.resolve().name))
        self._shards = find_shards(self.root)
        wanted = {"image": image, "label": label, "domain": domain}
        read = [read_shard(shard, self.root, wanted) for shard in self._shards]
        self._images = ImageColumn([r.images for r in read])
        given = [SPLITS.index(shard.split) for shard in self._shards]
        self._splits = np.repeat(given, [len(r) for r in read])
        self._number_domains([r.domain for r in read])
        self._number_classes([r.label for r in read])
        self._leave_out(np.concatenate([r.imageless for r in read]))
        self._small = sum(shard.size for shard in self._shards) <= SMALL

    def _number_domains(self, columns: Sequence[Column]) -> None:
        """Domains in the order in which rows name them."""
        codes, names = _renumbered(columns)
        found, first = np.unique(codes, return_index=True)
        order = [code for code in found[np.argsort(first)].tolist() if code >= 0]
        self.domains = tuple(names[c] or self.name for c in order)
        self._domains = np.full(len(codes), -1)
        for number, code in enumerate(order):
            self._domains[codes == code] = number

    def _number_classes(self, columns: Sequence[Column]) -> None:
        """Classes as classes.txt or the files' metadata list them, else those found, sorted."""
        listed = list(class_names(self.root))
        if listed:
            pairs = zip(self._shards, columns, strict=True)
            columns = [_as_listed(shard, column, listed) for shard, column in pairs]
        else:
            columns = _with_names(self._shards, columns)
        for shard, column in zip(self._shards, columns, strict=True):
            _check_labels(shard, column)
        self._labels, names = _renumbered(columns)
        if any(column.found for column in columns):
            wanted = sorted(names)
            self._labels = np.array([*map(wanted.index, names), -1], np.int32)[self._labels]
            names = wanted
        self.classes = tuple(names)
        self._declared = self._declared_by_domain(columns, bool(listed))

    def _declared_by_domain(self, columns: Sequence[Column], listed: bool) -> list[set[str]]:
        """Per domain the classes it declares: all listed ones, else those of its files or rows."""
        if listed:
            return [set(self.classes)] * len(self.domains)
        declared: list[set[str]] = [set() for _ in self.domains]
        ends = np.cumsum([len(column.codes) for column in columns])
        for end, column in zip(ends, columns, strict=True):
            rows = slice(end - len(column.codes), end)
            for number in set(self._domains[rows].tolist()) - {-1}:
                seen = np.unique(self._labels[rows][self._domains[rows] == number])
                found = {self.classes[k] for k in seen if k >= 0}
                declared[number] |= found if column.found else set(column.names)
        return declared

    def _leave_out(self, imageless: np.ndarray) -> None:
        """Fills `skipped`, and says which rows are left."""
        reasons = {"no domain": self._domains < 0, "no label": self._labels < 0}
        reasons["no image"] = imageless
        unusable = np.logical_or.reduce(list(reasons.values()))
        if unusable.all():
            what = max(reasons, key=lambda reason: reasons[reason].sum())
            raise DataError(
                f"no row of {shown(self.root)} can be used ({what} in {int(reasons[what].sum())} "
                f"of {len(unusable)}); images must be embedded in the files as bytes."
            )
        rows = np.flatnonzero(unusable)
        self.skipped = tuple(
            Skipped(name, next(r for r, mask in reasons.items() if mask[row]))
            for name, row in zip(self._images.names(rows), rows, strict=True)
        )
        self._reasons, self._usable = reasons, ~unusable

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """The classes that this domain declares."""
        domain = check_domain(self, domain)
        declared = self._declared[self.domains.index(domain)]
        return tuple(name for name in self.classes if name in declared)

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split: one that no file gives is dealt out of train.

        One of which no row can be used (a test file without labels) is none.
        """
        return split in SPLITS and all(
            self._usable[self._part(d, split)].any() for d in self.domains
        )

    def _given(self, domain: str) -> list[str]:
        """The splits that the files of a domain are of."""
        numbers = np.unique(self._splits[self._domains == self.domains.index(domain)])
        return [SPLITS[number] for number in numbers]

    def _part(self, domain: str, split: str) -> np.ndarray:
        """The rows, usable or not, of the files that hold a split, int64 [N]."""
        base, _ = splits.origin(split, self._given(domain))
        mine = self._domains == self.domains.index(domain)
        return np.flatnonzero(mine & (self._splits == SPLITS.index(base)))

    def source(self, domain: str, split: str) -> ArraySource | ParquetSource:
        """The examples of a domain and split.

        Raises:
          ConfigError: an unknown domain.
          DataError: no usable rows, or a class with a single one where all splits are made by hash.
        """
        domain = check_domain(self, domain)
        given, part = self._given(domain), self._part(domain, split)
        rows = part[self._usable[part]]
        if not len(rows):
            raise DataError(self._why_none(domain, split, part))
        labels = self._labels[rows]
        splits.check_single(split, given, labels, self.classes, domain, self.fractions)
        if splits.is_shared(split, given):
            where = splits.positions(self._images.names(rows))
            rows = rows[splits.members(split, given, where, labels, self.fractions)]
        described = {"classes": self.classes, "domain": domain, "split": split}
        if not self._small:
            return ParquetSource(self._images, rows, self._labels[rows], **described)
        read = [self._images.read(row) for row in rows.tolist()]
        images, names = [data for data, _ in read], [name for _, name in read]
        return ArraySource(images, self._labels[rows], names=names, **described)

    def _why_none(self, domain: str, split: str, part: np.ndarray) -> str:
        """The sentence on a part without usable rows."""
        counts = {reason: int(mask[part].sum()) for reason, mask in self._reasons.items()}
        why = ", ".join(f"{reason} in {count}" for reason, count in counts.items() if count)
        return (
            f"no usable row in domain {domain!r}, {split}, of {shown(self.root)} ({why}); take out "
            "the files without, and the split is dealt out of train."
        )


class ParquetSource:
    """Rows of Parquet files; their images are read when asked for."""

    def __init__(
        self,
        images: ImageColumn,
        rows: np.ndarray,
        labels: np.ndarray,
        *,
        classes: tuple[str, ...],
        domain: str,
        split: str,
    ):
        self._images, self._rows, self.labels = images, rows, labels.astype(np.int32)
        self.classes, self.domain, self.split = classes, domain, split

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        data, name = self._images.read(int(self._rows[index]))
        return Example(data, int(self.labels[index]), name)

    @functools.cached_property
    def _digest(self) -> str:
        # Name, size and time of change of the files: hashing them would read every image.
        text = "\n".join((*self.classes, *map(str, self._images.stamps)))
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        digest.update(self._rows.tobytes() + self.labels.tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Parquet({self.domain}/{self.split}, n={len(self)}, {self._digest})"


def _renumbered(columns: Sequence[Column]) -> tuple[np.ndarray, list[str]]:
    """The codes of all columns over one list of names, which keeps the order of theirs."""
    names = list(dict.fromkeys(name for column in columns for name in column.names))
    number = {name: k for k, name in enumerate(names)}
    parts = [
        np.array([*(number[name] for name in column.names), -1], np.int32)[column.codes]
        for column in columns
    ]
    return np.concatenate(parts), names


def _as_listed(shard: Shard, column: Column, listed: Sequence[str]) -> Column:
    """A column by the names of `classes.txt`; refuses one that contradicts the file's own."""
    own, number = () if column.found else column.names, {n: k for k, n in enumerate(listed)}
    for k, name in enumerate(own):
        if number.get(name, k) != k:
            raise DataError(
                f"{shown(shard.path)} numbers class {name!r} {k}, and {CLASSES} numbers it "
                f"{number[name]}; correct or remove {CLASSES}."
            )
    if own:
        return column._replace(names=list(listed))
    return by_names(column, listed, f"the labels of {shown(shard.path)}", CLASSES)


def _with_names(shards: Sequence[Shard], columns: Sequence[Column]) -> list[Column]:
    """Columns without a `classes.txt`; refuses texts that are numbers, which name no class."""
    texts = {n for c in columns if c.found for n in c.names if not is_missing(n)}
    if texts and all(map(is_number, texts)):
        shard = next(s for s, c in zip(shards, columns, strict=True) if c.found and c.names)
        raise DataError(_nameless(shard, f"numbers in strings, like {min(texts)!r},"))
    kept = []
    for column in columns:
        gone = [k for k, n in enumerate(column.names) if column.found and is_missing(n)]
        names = [n for k, n in enumerate(column.names) if k not in gone]
        number = {n: k for k, n in enumerate(names)}
        places = np.array([*(number.get(n, -1) for n in column.names), -1])
        kept.append(Column(places[column.codes], names, True) if gone else column)
    return kept


def _nameless(shard: Shard, what: str) -> str:
    return (
        f"the labels of {shown(shard.path)} are {what} without names; put {CLASSES}, one name a "
        "line, beside the files."
    )


def _check_labels(shard: Shard, column: Column) -> None:
    """Raises DataError for numbers without names."""
    if not len(column.codes) or column.codes.max() < len(column.names):
        return
    if not column.names:
        raise DataError(_nameless(shard, "numbers"))
    raise DataError(
        f"labels of {shown(shard.path)} run to {column.codes.max()}, but there are "
        f"{len(column.names)} classes; labels must be 0 .. {len(column.names) - 1}."
    )
