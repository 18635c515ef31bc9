"""Datasets in Parquet files, as Hugging Face `datasets` writes them."""

import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import ArraySource, Dataset, Part, Skipped, check_domain, check_root
from clipjax.data.readers.files import RowSource
from clipjax.data.readers.labels import is_number
from clipjax.data.readers.list_files import class_names
from clipjax.data.readers.parquet_columns import LABEL_NAMES, Column, nameless
from clipjax.data.readers.parquet_io import ImageColumn, find_shards, read_shard
from clipjax.data.splits import SPLITS
from clipjax.data.unlabelled import labelled
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown, some

SMALL = 256 << 20  # bytes of files that are held in memory as a whole


class ParquetDataset(Dataset):
    """Parquet files with a column of images and one of labels; the embedded dataset is one.

    Files lie in `root`, `root/data` or a folder per domain. The first word of a file's name, or a
    folder, names its split (`train-00000-of-00002.parquet`, `validation.parquet`,
    `test/0.parquet`); other files are train. Splits that no file has are dealt out of train by a
    hash of file name and row. The domain is a `domain` column, else the folder (or the file's first
    word, in `sketch-00000-of-00001.parquet`), else there is one domain, named after `root`.

    Labels are class names, or numbers whose names `classes.txt` in `root` has one a line, or the
    `ClassLabel` in the files' metadata. Rows without a label (null, NaN, -1), and files without a
    column of labels, are images without labels; rows without an image are in `skipped`.

    Args:
      root, name: folder of the dataset, and its name; the folder's by default.
      image: column of encoded images, bytes or struct<bytes, path>; found by default.
      label, domain: columns; found by default.
      fractions: shares of train, val and test where files give none.

    DataError for no files, damaged ones, columns that are not there, labels of no class.
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
        shards, listed = find_shards(self.root), class_names(self.root)
        files = [read_shard(shard, wanted, listed) for shard in shards]
        self._images = ImageColumn([file.images for file in files])
        given = [SPLITS.index(shard.split) for shard in shards]
        self._splits = np.repeat(given, [len(file.imageless) for file in files])
        self._number_domains([file.domain for file in files])
        self._number_classes([shown(s.path) for s in shards], [file.label for file in files])
        if not self.classes:
            fault = f"no row of {shown(self.root)} has a label"
            columns = some(dict.fromkeys(name for file in files for name in file.columns), 20)
            remedy = f"call the column of labels {' or '.join(LABEL_NAMES)}"
            raise DataError(f"{fault}; columns: {columns}; {remedy}.")
        if listed:
            self._declared = [set(listed)] * len(self.domains)
        self._leave_out(np.concatenate([file.imageless for file in files]))
        self._small = sum(shard.size for shard in shards) <= SMALL
        self._read: dict[Part, ArraySource] = {}  # of a small dataset

    def _number_domains(self, columns: Sequence[Column]) -> None:
        """Number domains in the order in which rows name them."""
        codes, names = _joined(columns)
        order = list(dict.fromkeys(codes[codes >= 0].tolist()))
        self.domains = tuple(names[code] or self.name for code in order)
        numbers = np.full(len(names) + 1, -1)
        numbers[order] = range(len(order))
        self._domains = numbers[codes]

    def _number_classes(self, files: Sequence[str], columns: Sequence[Column]) -> None:
        """Number classes in the order of declared names, else sorted; note what domains declare."""
        texts = {name for column in columns if column.found for name in column.names}
        for file, column in zip(files, columns, strict=True):
            if column.found and column.names and all(map(is_number, texts)):
                raise nameless(file, f"numbers in strings, like {min(texts)!r},")
        self._labels, names = _joined(
            columns, sort=any(column.found and column.names for column in columns)
        )
        self.classes = tuple(names)
        self._declared: list[set[str]] = [set() for _ in self.domains]
        end = 0
        for column in columns:
            rows = slice(end, end := end + len(column.codes))
            domains, labels = self._domains[rows], self._labels[rows]
            for number in set(domains.tolist()) - {-1}:
                seen = np.unique(labels[domains == number])
                found = {self.classes[k] for k in seen if k >= 0}
                self._declared[number] |= found if column.found else set(column.names)

    def _leave_out(self, imageless: np.ndarray) -> None:
        """Fill `skipped`, and note which rows are left."""
        reasons = {"no domain": self._domains < 0, "no image": imageless}
        unusable = np.logical_or.reduce(list(reasons.values()))
        if unusable.all():
            what = max(reasons, key=lambda reason: reasons[reason].sum())
            why = f"{what} in {int(reasons[what].sum())} of {len(unusable)}"
            fault = f"no row of {shown(self.root)} can be used ({why})"
            raise DataError(f"{fault}; embed images as bytes.")
        rows = np.flatnonzero(unusable)
        self.skipped = tuple(
            Skipped(name, next(r for r, mask in reasons.items() if mask[row]))
            for name, row in zip(self._images.names(rows), rows, strict=True)
        )
        self._reasons, self._usable = reasons, ~unusable

    def unlabelled(self, domain: str) -> bool:
        mine = self._domains == self.domains.index(check_domain(self, domain))
        return not labelled(self._labels[mine & self._usable]).all()

    def classes_of(self, domain: str) -> tuple[str, ...]:
        domain = check_domain(self, domain)
        declared = self._declared[self.domains.index(domain)]
        return tuple(name for name in self.classes if name in declared)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        """Return the splits of which a file of this domain holds a usable row."""
        domain = check_domain(self, domain)
        usable = lambda split: self._usable[self._part(domain, split)[1]].any()
        return tuple(filter(usable, SPLITS))

    def _part(self, domain: str, split: str) -> tuple[list[str], np.ndarray]:
        """Return the splits of a domain's files, and the rows of those that hold a split."""
        mine = self._domains == self.domains.index(domain)
        given = [SPLITS[number] for number in np.unique(self._splits[mine])]
        base, _ = splits.origin(split, given)
        return given, np.flatnonzero(mine & (self._splits == SPLITS.index(base)))

    def source(self, domain: str, split: str) -> ArraySource | RowSource:
        """Return the examples of a domain and split; there must be usable rows."""
        domain = check_domain(self, domain)
        if (domain, split) in self._read:  # a run asks for each part a hundred times
            return self._read[domain, split]
        given, part = self._part(domain, split)
        rows = part[self._usable[part]]
        if not len(rows):
            counts = ((reason, int(mask[part].sum())) for reason, mask in self._reasons.items())
            why = ", ".join(f"{reason} in {count}" for reason, count in counts if count)
            place = f"domain {domain!r}, {split}, of {shown(self.root)}"
            raise DataError(f"no usable row in {place} ({why}); complete or take out its files.")
        labels, where = self._labels[rows], lambda: splits.positions(self._images.names(rows))
        kept = splits.deal(split, given, where, labels, self.fractions)
        rows, labels = rows[kept], labels[kept]
        if not self._small:
            return RowSource(self._images, rows, labels, self.classes, domain, split)
        read = [self._images.read(row) for row in rows.tolist()]
        images, names = ([pair[k] for pair in read] for k in (0, 1))
        described = {"classes": self.classes, "domain": domain, "split": split}
        self._read[domain, split] = ArraySource(images, labels, names=names, **described)
        return self._read[domain, split]


def _joined(columns: Sequence[Column], sort: bool = False) -> tuple[np.ndarray, list[str]]:
    """Join columns: codes int32 [rows] over one list of names, in their order or sorted."""
    names = list(dict.fromkeys(name for column in columns for name in column.names))
    names = sorted(names) if sort else names
    return np.concatenate([column.only(names).codes for column in columns]), names
