"""Single Parquet files: which there are, their columns, and images by row group."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import pathlib
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.readers.parquet_columns import (
    Column,
    check_column,
    coded,
    declared_names,
    explained,
    features_of,
    image_column,
    imageless_rows,
    label_column,
    named_domains,
    parts_of,
)
from clipjax.data.splits import SPLITS, split_of
from clipjax.errors import ChangedError, DataError
from clipjax.io.texts import nfc, shown

KEPT_BYTES = 64 << 20  # of row groups that were read last
GLANCE = 100  # entries of a folder, to see what it holds
KEPT_FILES = 64  # that stay open
NO_DOMAIN = ("data", "default")  # folders that are no domain


class Shard(NamedTuple):
    """One file, and what its name and folders say."""

    path: pathlib.Path
    split: str
    domain: str  # "" where nothing says one
    size: int
    changed: int  # ns


class Images(NamedTuple):
    """The image column of a file: where it is, and its row groups."""

    path: pathlib.Path
    name: str  # below the root
    leaves: list[str]  # columns to read
    groups: list[int]  # rows per row group
    size: int
    changed: int


class Rows(NamedTuple):
    """The columns that are read of a file when a dataset is opened."""

    label: Column
    domain: Column
    imageless: np.ndarray  # bool [rows]
    images: Images

    def __len__(self) -> int:
        return len(self.imageless)


def find_shards(root: pathlib.Path) -> list[Shard]:
    """The Parquet files below a folder: train first, then by path.

    Raises:
      DataError: none there.
    """
    paths = [p for p in root.rglob("*.parquet") if p.is_file()]
    paths = [p for p in paths if not any(x.startswith(".") for x in p.relative_to(root).parts)]
    if not paths:
        raise DataError(
            f"{shown(root)} is not a Parquet dataset: it needs files like train.parquet or "
            "data/train-00000-of-00001.parquet."
        )
    shards = [_shard(path, path.relative_to(root)) for path in paths]
    return sorted(shards, key=lambda s: (SPLITS.index(s.split), str(s.path.relative_to(root))))


def begins_parquet(root: pathlib.Path) -> bool:
    """Whether Parquet files are seen at a root, by a look that is short where images are many.

    It reaches `x.parquet`, `domain/x.parquet` and `domain/test/x.parquet`.
    """
    if any(root.glob("*.parquet")) or any(root.glob("*/*.parquet")):
        return True
    inner = (f for f in root.glob("*/*") if split_of(f.name) or f.name.lower() in NO_DOMAIN)
    return any(_first_is_parquet(folder) for folder in inner if folder.is_dir())


def _first_is_parquet(folder: pathlib.Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(e.name.endswith(".parquet") for e in itertools.islice(entries, GLANCE))
    except OSError as error:
        raise DataError(
            f"{shown(folder)} cannot be listed ({error.strerror}); give it the right to be read, "
            "or remove it."
        ) from None


def _shard(path: pathlib.Path, below: pathlib.Path) -> Shard:
    above = below.parts[:-1]
    words = [re.split(r"[-._]", below.stem)[0], *above]
    splits = [split for word in words if (split := split_of(word))]
    folders = [f for f in above if not split_of(f) and f.lower() not in NO_DOMAIN]
    if not folders and not splits and (m := re.fullmatch(r"(.+)-\d+-of-\d+", below.stem)):
        folders = [m[1]]
    stat = path.stat()
    domain = nfc(shown(folders[0])) if folders else ""
    return Shard(path, splits[0] if splits else "train", domain, stat.st_size, stat.st_mtime_ns)


def read_shard(shard: Shard, root: pathlib.Path, wanted: dict[str, str]) -> Rows:
    """Labels and domains of a file, and where its images are; no image is read.

    Args:
      shard: the file.
      root: of the dataset; for names in messages.
      wanted: names of the "image", "label" and "domain" columns; "" where they are to be found.
    """
    with _opened(shard.path) as file:
        schema, features = file.schema_arrow, features_of(file.schema_arrow)
        image = image_column(shard.path, schema, features, wanted["image"])
        label = label_column(shard.path, schema, features, wanted["label"])
        domain = wanted["domain"] or ("domain" if "domain" in schema.names else "")
        check_column(shard.path, schema, domain)
        table = file.read(columns=[label, domain] if domain else [label])
        leaves, imageless = imageless_rows(file, schema, image)
        groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        labels = coded(shard.path, label, table[label], declared_names(shard.path, features, label))
        domains = Column(np.zeros(len(table), np.int64), [shard.domain], False)
        if domain:
            names, column = declared_names(shard.path, features, domain), table[domain]
            column = column.cast("string") if str(column.type) == "bool" else column
            domains = coded(shard.path, domain, column, names)
            domains = named_domains(shard.path, domain, domains)
    name = shown(shard.path.relative_to(root))
    where = Images(shard.path, name, leaves, groups, shard.size, shard.changed)
    return Rows(labels, domains, imageless, where)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """The file as a pyarrow ParquetFile; what goes wrong with it is a DataError."""
    with explained(path):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            yield file


class ImageColumn:
    """The images of all files by row number. Picklable, safe in threads.

    A row group is read as a whole, and the last ones are kept: in order this costs nothing, at
    random it pays to write small ones (`datasets` writes 100 rows).
    """

    def __init__(self, files: Sequence[Images]):
        self._files = list(files)
        groups = [(f, g, n) for f, file in enumerate(files) for g, n in enumerate(file.groups)]
        self._groups = [(f, g) for f, g, _ in groups]
        self._starts = np.concatenate([[0], np.cumsum([n for _, _, n in groups])]).astype(np.int64)
        self._file_starts = np.cumsum([0, *(sum(file.groups) for file in files)])
        self.stamps = [(file.name, file.size, file.changed) for file in files]
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[int, Any] = {}
        self._kept: collections.OrderedDict[int, tuple] = collections.OrderedDict()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_opened", "_kept")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_empty()

    def names(self, rows: np.ndarray) -> list[str]:
        """File and number of rows int64 [N]: known without reading, different for all."""
        files = np.searchsorted(self._file_starts, rows, side="right") - 1
        numbers = rows - self._file_starts[files]
        pairs = zip(files.tolist(), numbers.tolist(), strict=True)
        return [f"{self._files[file].name}:{number}" for file, number in pairs]

    def read(self, row: int) -> tuple[bytes, str]:
        """The encoded image of a row, and its name: file and path, or number, of the image."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        file = self._files[self._groups[group][0]]
        with explained(file.path):
            data, paths = self._group(group)
            at = row - int(self._starts[group])
            path = paths[at].as_py() if paths is not None else None
            name = f"{file.name}:{path}" if path else self.names(np.array([row]))[0]
            return data[at].as_py(), name

    def _group(self, group: int) -> tuple:
        """Bytes and paths of a row group."""
        with self._lock:  # a ParquetFile is not made for threads
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group][0]
            number, part = self._groups[group]
            table = self._file(number).read_row_group(part, columns=self._files[number].leaves)
            self._kept[group] = (parts_of(table), table.nbytes)
            sizes = [n for _, n in self._kept.values()]
            least = 1 if max(sizes) > KEPT_BYTES else 2
            while len(sizes) > least and sum(sizes) > KEPT_BYTES:
                self._kept.popitem(last=False)
                del sizes[0]
            return self._kept[group][0]

    def _file(self, number: int) -> Any:
        """An open file, the one that the dataset was opened with."""
        if number not in self._opened:
            import pyarrow.parquet as pq

            file = self._files[number]
            stat = file.path.stat()
            if (stat.st_size, stat.st_mtime_ns) != (file.size, file.changed):
                path = shown(file.path)
                raise ChangedError(f"{path} changed while it was in use; start again.")
            if len(self._opened) >= KEPT_FILES:
                self._opened.pop(next(iter(self._opened))).close()
            self._opened[number] = pq.ParquetFile(file.path)
        return self._opened[number]
