"""Single Parquet files: finds them, reads their columns, and images by row group."""

import collections
import itertools
import os
import pathlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.dataset import check_labels
from clipjax.data.readers import parquet_columns as columns
from clipjax.data.readers.files import check_unchanged, glimpse, subfolders
from clipjax.data.readers.parquet_columns import Column, parts_of, reading
from clipjax.data.splits import SPLITS, split_of
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown

KEPT_BYTES = 64 << 20  # of row groups that were read last
KEPT_FILES = 64  # that stay open
NO_DOMAIN = ("data", "default")  # folders that are no domain


class Shard(NamedTuple):
    """One file, and what its name and folders say."""

    path: pathlib.Path
    name: str  # below the root, for messages
    split: str
    domain: str  # "" where nothing says one
    size: int
    changed: int  # ns


class Images(NamedTuple):
    """Where the images of a file are."""

    shard: Shard
    leaves: list[str]  # columns of images and their paths
    groups: list[int]  # rows per row group


class Rows(NamedTuple):
    """The columns of a file that are read when a dataset is opened."""

    label: Column
    domain: Column
    imageless: np.ndarray  # bool [rows]
    images: Images
    columns: list[str]  # all names


def find_shards(root: pathlib.Path) -> list[Shard]:
    """Find the Parquet files below a folder, train first, then by path; there must be some."""
    found = ((path, path.relative_to(root)) for path in root.rglob("*.parquet") if path.is_file())
    visible = {p: below for p, below in found if not any(x.startswith(".") for x in below.parts)}
    if not visible:
        needs = "it needs files like train.parquet or data/train-00000-of-00001.parquet"
        raise DataError(f"{shown(root)} is not a Parquet dataset: {needs}.")
    shards = itertools.starmap(_shard, visible.items())
    return sorted(shards, key=lambda s: (SPLITS.index(s.split), str(visible[s.path])))


def begins_parquet(root: pathlib.Path) -> bool:
    """Look for Parquet files at a root, down to `domain/test/x.parquet`; quick for many images."""
    domains = subfolders(root)
    names = itertools.chain.from_iterable(map(os.listdir, (root, *domains)))
    if any(name.endswith(".parquet") and not name.startswith(".") for name in names):
        return True
    inner = (f for domain in domains for f in subfolders(domain))
    inner = (f for f in inner if split_of(f.name) or f.name.lower() in NO_DOMAIN)
    return any(name.endswith(".parquet") for folder in inner for name in glimpse(folder))


def _shard(path: pathlib.Path, below: pathlib.Path) -> Shard:
    above = below.parts[:-1]
    words = [re.split(r"[-._]", below.stem)[0], *above]
    splits = [split for word in words if (split := split_of(word))]
    folders = [f for f in above if not split_of(f) and f.lower() not in NO_DOMAIN]
    if not folders and not splits and (m := re.fullmatch(r"(.+)-\d+-of-\d+", below.stem)):
        folders = [m[1]]
    stat = path.stat()
    split, domain = [*splits, "train"][0], nfc(shown([*folders, ""][0]))
    return Shard(path, shown(below), split, domain, stat.st_size, stat.st_mtime_ns)


def read_shard(shard: Shard, wanted: Mapping[str, str], listed: Sequence[str]) -> Rows:
    """Read a file's labels and domains, in the `wanted` columns or, where these are "", found."""
    import pyarrow.parquet as pq

    with reading(shard.path), pq.ParquetFile(shard.path) as file:
        schema = columns.Schema(shard.path, file.schema_arrow)
        image, label = schema.image(wanted["image"]), schema.label(wanted["label"])
        domain = wanted["domain"] or ("domain" if "domain" in schema.names else "")
        schema.check(domain)
        table = file.read(columns=list(filter(None, (label, domain))))
        place = shown(shard.path)
        where, names = lambda name: f"column {name!r} of {place}", schema.declared_names
        rows = file.metadata.num_rows
        labels = Column(np.full(rows, NO_LABEL), [], False)
        if label:
            labels = columns.labels_of(where(label), table[label], names(label), listed, place)
        domains = Column(np.zeros(rows, np.int64), [shard.domain], False)
        if domain:
            column = table[domain]
            column = column.cast("string") if str(column.type) == "bool" else column
            domains = columns.coded(where(domain), column, names(domain))
            domains = domains if domains.names else domains.as_texts()
            check_labels(domains.codes[domains.codes >= 0], len(domains.names), where(domain))
        leaves, imageless = columns.imageless_rows(file, file.schema_arrow, image)
        groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    return Rows(labels, domains, imageless, Images(shard, leaves, groups), schema.names)


class ImageColumn:
    """The images of all files by row number. Picklable, safe in threads.

    A row group is read as a whole, and the last ones are kept: reading in order costs nothing more,
    reading at random is faster with small groups (`datasets` writes 100 rows).
    """

    kind = "Parquet("  # begins a source's repr

    def __init__(self, files: Sequence[Images]):
        self._files = files
        groups = [(f, g, n) for f, file in enumerate(files) for g, n in enumerate(file.groups)]
        self._groups = [(f, g) for f, g, _ in groups]
        self._starts = np.cumsum([0, *(n for _, _, n in groups)], dtype=np.int64)
        self._file_starts = np.cumsum([0, *(sum(file.groups) for file in files)])
        self._lock = threading.Lock()
        self._opened: dict[int, Any] = {}
        self._kept: collections.OrderedDict[int, tuple] = collections.OrderedDict()

    def __reduce__(self) -> tuple:
        return ImageColumn, (self._files,)

    def described(self, classes: Sequence[str]) -> list[str]:
        shards = (file.shard for file in self._files)
        return [*classes, *(str((s.name, s.size, s.changed)) for s in shards)]

    def names(self, rows: np.ndarray) -> list[str]:
        """Return file and number of rows int64 [N]: known without reading, different for all."""
        files = np.searchsorted(self._file_starts, rows, side="right") - 1
        numbers = rows - self._file_starts[files]
        pairs = zip(files.tolist(), numbers.tolist(), strict=True)
        return [f"{self._files[file].shard.name}:{number}" for file, number in pairs]

    def name(self, row: int) -> str:
        """Return file and number of a row."""
        return self.names(np.array([row]))[0]

    def read(self, row: int) -> tuple[bytes, str]:
        """Return the encoded image of a row, and its name: file and path, or number, of it."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        shard = self._files[self._groups[group][0]].shard
        with reading(shard.path):
            data, paths = self._group(group)
            at = row - int(self._starts[group])
            path = paths[at].as_py() if paths is not None else None
            name = f"{shard.name}:{path}" if path else self.name(row)
            return data[at].as_py(), name

    def _group(self, group: int) -> tuple:
        """Return bytes and paths of a row group."""
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
        """Open a file, if it is still the one that the dataset was opened with."""
        if number not in self._opened:
            import pyarrow.parquet as pq

            shard = self._files[number].shard
            check_unchanged(shard.path, shard.path.stat(), shard.size, shard.changed)
            if len(self._opened) >= KEPT_FILES:
                self._opened.pop(next(iter(self._opened))).close()
            self._opened[number] = pq.ParquetFile(shard.path)
        return self._opened[number]
