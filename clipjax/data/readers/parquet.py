"""Datasets in Parquet files, as Hugging Face `datasets` writes them.

Labels and domains are read when a dataset is opened; images when asked for, unless all files
together are small.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import (
    ArraySource,
    Dataset,
    Example,
    Skipped,
    Source,
    check_domain,
    check_root,
    digest,
)
from clipjax.data.readers.labels import is_missing, is_number
from clipjax.data.readers.list_files import CLASSES, class_names
from clipjax.data.readers.parquet_columns import Column, by_names
from clipjax.data.readers.parquet_io import ImageColumn, Rows, Shard, find_shards, read_shard
from clipjax.data.splits import SPLITS
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown

SMALL = 256 << 20  # bytes of files that are held in memory as a whole


class ParquetDataset(Dataset):
    """Parquet files with an image column and a label column; the embedded dataset is one.

    Files lie in `root`, `root/data` or a folder per domain. The first word of a file's name, or a
    folder, names its split (`train-00000-of-00002.parquet`, `validation.parquet`,
    `test/0.parquet`); other files are train. Splits that no file has are dealt out of train by a
    hash of file name and row. The domain is a `domain` column, else the folder (or the file's first
    word, in `sketch-00000-of-00001.parquet`), else there is one domain, named after `root`.

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
        wanted = {"image": image, "label": label, "domain": domain}
        files = [read_shard(shard, wanted) for shard in find_shards(self.root)]
        self._images = ImageColumn(files)
        given = [SPLITS.index(file.shard.split) for file in files]
        self._splits = np.repeat(given, [len(file) for file in files])
        self._number_domains([file.domain for file in files])
        self._number_classes(files)
        self._leave_out(np.concatenate([file.imageless for file in files]))
        self._small = sum(file.shard.size for file in files) <= SMALL

    def _number_domains(self, columns: Sequence[Column]) -> None:
        """Number domains in the order in which rows name them."""
        codes, names = _renumbered(columns)
        found, first = np.unique(codes, return_index=True)
        order = [code for code in found[np.argsort(first)].tolist() if code >= 0]
        self.domains = tuple(names[code] or self.name for code in order)
        self._domains = np.full(len(codes), -1)
        for number, code in enumerate(order):
            self._domains[codes == code] = number

    def _number_classes(self, files: Sequence[Rows]) -> None:
        """Number classes as classes.txt or the files' metadata do, else those found, sorted."""
        shards, columns = [file.shard for file in files], [file.label for file in files]
        listed = list(class_names(self.root))
        if listed:
            columns = [_as_listed(file.shard, file.label, listed) for file in files]
        else:
            columns = _with_names(shards, columns)
        for shard, column in zip(shards, columns, strict=True):
            if len(column.codes) and column.codes.max() >= 0 and not column.names:
                raise DataError(_nameless(shard, "numbers"))
            column.check_range(f"the labels of {shown(shard.path)}")
        self._labels, names = _renumbered(columns, sort=any(column.found for column in columns))
        self.classes = tuple(names)
        self._declared = self._declared_by_domain(columns, bool(listed))

    def _declared_by_domain(self, columns: Sequence[Column], listed: bool) -> list[set[str]]:
        """Find the classes of each domain: all listed ones, else those of its files or rows."""
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
        """Fill `skipped`, and note which rows are left."""
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
        domain = check_domain(self, domain)
        declared = self._declared[self.domains.index(domain)]
        return tuple(name for name in self.classes if name in declared)

    def has_split(self, split: str) -> bool:
        """Return whether every domain has this split, with a usable row.

        A split that no file gives is dealt out of train; a test file without labels is none.
        """
        return split in SPLITS and all(
            self._usable[self._part(d, split)].any() for d in self.domains
        )

    def _given(self, domain: str) -> list[str]:
        """Return the splits of a domain's files."""
        numbers = np.unique(self._splits[self._domains == self.domains.index(domain)])
        return [SPLITS[number] for number in numbers]

    def _part(self, domain: str, split: str) -> np.ndarray:
        """Return the rows, usable or not, of the files that hold a split, int64 [N]."""
        base, _ = splits.origin(split, self._given(domain))
        mine = self._domains == self.domains.index(domain)
        return np.flatnonzero(mine & (self._splits == SPLITS.index(base)))

    def source(self, domain: str, split: str) -> ArraySource | ParquetSource:
        """Return the examples of a domain and split.

        Raises:
          ConfigError: an unknown domain.
          DataError: no usable rows, or a class with a single one where all splits are made by hash.
        """
        domain = check_domain(self, domain)
        part = self._part(domain, split)
        rows = part[self._usable[part]]
        if not len(rows):
            counts = {reason: int(mask[part].sum()) for reason, mask in self._reasons.items()}
            why = ", ".join(f"{reason} in {count}" for reason, count in counts.items() if count)
            raise DataError(
                f"no usable row in domain {domain!r}, {split}, of {shown(self.root)} ({why}); take "
                "out the files without, and the split is dealt out of train."
            )
        described = {"classes": self.classes, "domain": domain, "split": split}
        kept = splits.deal(
            given=self._given(domain),
            where=lambda: splits.positions(self._images.names(rows)),
            labels=self._labels[rows],
            fractions=self.fractions,
            **described,
        )
        rows, labels = rows[kept], self._labels[rows[kept]]
        if not self._small:
            return ParquetSource(self._images, rows, labels, **described)
        read = [self._images.read(row) for row in rows.tolist()]
        images, names = [data for data, _ in read], [name for _, name in read]
        return ArraySource(images, labels, names=names, **described)


class ParquetSource(Source):
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

    def __getitem__(self, index: int) -> Example:
        data, name = self._images.read(int(self._rows[index]))
        return Example(data, int(self.labels[index]), name)

    @functools.cached_property
    def _digest(self) -> str:
        # Name, size and time of change of the files: hashing them would read every image.
        text = "\n".join((*self.classes, *map(str, self._images.stamps)))
        return digest([text, self._rows.tobytes(), self.labels.tobytes()])

    def __repr__(self) -> str:
        return f"Parquet({self.domain}/{self.split}, n={len(self)}, {self._digest})"


def _renumbered(columns: Sequence[Column], sort: bool = False) -> tuple[np.ndarray, list[str]]:
    """Join columns: codes int32 [rows] over one list of names, in their order or sorted."""
    names = list(dict.fromkeys(name for column in columns for name in column.names))
    names = sorted(names) if sort else names
    number = {name: k for k, name in enumerate(names)}
    return np.concatenate([column.over(number) for column in columns]), names


def _as_listed(shard: Shard, column: Column, listed: Sequence[str]) -> Column:
    """Number a column as `classes.txt` does.

    Raises:
      DataError: the file's own names have other numbers, or a label has no name.
    """
    if column.found or not column.names:
        return by_names(column, listed, f"the labels of {shown(shard.path)}", CLASSES)
    number = {name: k for k, name in enumerate(listed)}
    for k, name in enumerate(column.names):
        if number.get(name, k) != k:
            raise DataError(
                f"{shown(shard.path)} numbers class {name!r} {k}, and {CLASSES} numbers it "
                f"{number[name]}; correct or remove {CLASSES}."
            )
    return column._replace(names=list(listed))


def _with_names(shards: Sequence[Shard], columns: Sequence[Column]) -> list[Column]:
    """Take missing values out of columns of texts.

    Raises:
      DataError: all texts are numbers, which name no class without a `classes.txt`.
    """
    texts = {n for c in columns if c.found for n in c.names if not is_missing(n)}
    if texts and all(map(is_number, texts)):
        shard = next(s for s, c in zip(shards, columns, strict=True) if c.found and c.names)
        raise DataError(_nameless(shard, f"numbers in strings, like {min(texts)!r},"))
    kept = []
    for column in columns:
        names = [n for n in column.names if not is_missing(n)]
        over = {name: k for k, name in enumerate(names)}
        kept.append(Column(column.over(over), names, True) if column.found else column)
    return kept


def _nameless(shard: Shard, what: str) -> str:
    return (
        f"the labels of {shown(shard.path)} are {what} without names; put {CLASSES}, one name a "
        "line, beside the files."
    )
