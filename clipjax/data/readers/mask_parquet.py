"""Parquet files with two columns of images: pictures and their masks."""

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import check_root, digest
from clipjax.data.masks import MaskDataset, MaskExample, check_split
from clipjax.data.readers import parquet_columns as columns
from clipjax.data.readers.mask_files import StoredMasks, masked
from clipjax.data.readers.mask_labels import read_table
from clipjax.data.readers.parquet_columns import reading
from clipjax.data.readers.parquet_io import ImageColumn, Images, Shard, find_shards
from clipjax.data.splits import SPLITS
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown, some

MASK_NAMES = ("annotation", "semantic_segmentation", "mask", "masks", "segmentation", "label")
MASK_NAMES += ("labels", "annotations", "label_mask")


@dataclasses.dataclass(repr=False, eq=False, kw_only=True)
class MaskRows(StoredMasks):
    """Rows of Parquet files, read when asked for."""

    images: ImageColumn
    masks: ImageColumn
    rows: np.ndarray  # int64 [N], in both

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> MaskExample:
        row = int(self.rows[range(len(self))[index]])
        (image, name), (mask, _) = self.images.read(row), self.masks.read(row)
        return masked(image, mask, self.table, name, f"the mask of {name}")

    def name_of(self, index: int) -> str:
        return self.images.name(int(self.rows[index]))

    @functools.cached_property
    def _digest(self) -> str:
        told = [*self.images.described(self.classes), str(sorted(self.table.numbers.items()))]
        return digest(["\n".join(told), self.rows.tobytes()])


class MaskParquet(MaskDataset):
    """Parquet files as `datasets` writes them, with a column of images and one of masks.

    Splits and domains are as of `ParquetDataset`. The column of masks is called annotation,
    semantic_segmentation, mask, label or the like; the classes stand in `classes.txt` or
    `classes.json` beside the files (`clipjax.data.readers.mask_labels.read_table`).

    DataError for no table, columns that are not there, or a domain without masks.
    """

    def __init__(self, root: str | os.PathLike, fractions: Sequence[float] = splits.FRACTIONS):
        self.root = check_root(root, "the folder of Parquet files")
        self.fractions = splits.check_fractions(fractions)
        self.name = nfc(shown(self.root.resolve().name))
        shards, self.table = find_shards(self.root), read_table(self.root)
        self.classes = self.table.classes
        read = [_read(shard, self.name) for shard in shards]
        self._images, self._masks = (ImageColumn([r[k] for r in read]) for k in (0, 1))
        self._domain = np.concatenate([r[2] for r in read])
        self._split = np.repeat([s.split for s in shards], [len(r[2]) for r in read])
        self._whole = np.concatenate([r[3] for r in read])
        self.domains = tuple(dict.fromkeys(self._domain.tolist()))
        if bare := [d for d in self.domains if not self._whole[self._domain == d].any()]:
            told = f"no row of domain {bare[0]!r} in {shown(self.root)} has an image and a mask"
            raise DataError(f"{told}; embed both as bytes.")

    def _of(self, domain: str) -> dict[str, np.ndarray]:
        """Return split -> rows of a domain, as the files have them."""
        mine = self._domain == domain
        parts = {split: np.flatnonzero(mine & (self._split == split)) for split in SPLITS}
        return {split: rows for split, rows in parts.items() if self._whole[rows].any()}

    def source(self, domain: str, split: str) -> MaskRows:
        domain = check_split(self, domain, split)
        parts = self._of(domain)
        part, _ = splits.origin(split, tuple(parts))
        held = parts[part]
        rows, bare = held[self._whole[held]], held[~self._whole[held]]
        where = lambda: splits.positions(self._images.names(rows))
        alike = np.zeros(len(rows), np.int32)
        rows = rows[splits.deal(split, tuple(parts), where, alike, self.fractions)]
        missing = tuple(self._images.names(bare)) if split == part else ()
        stored = {"images": self._images, "masks": self._masks, "rows": rows}
        return MaskRows(self.table, domain, split, missing, **stored)


def mask_column(schema: columns.Schema) -> str:
    """Return the column of masks, "" if there is none: images beside those of the pictures."""
    image = schema.image("")
    for name in MASK_NAMES:
        if name in schema.names and name != image:
            if columns.holds_images(schema.schema.field(name).type):
                return name
    return ""


def _read(shard: Shard, name: str) -> tuple[Images, Images, np.ndarray, np.ndarray]:
    """Return a file's columns of images and masks, and of its rows domain and completeness."""
    import pyarrow.parquet as pq

    with reading(shard.path), pq.ParquetFile(shard.path) as file:
        schema = columns.Schema(shard.path, file.schema_arrow)
        image, mask = schema.image(""), mask_column(schema)
        if not mask:
            told = f"{shown(shard.path)} has no column of masks ({', '.join(MASK_NAMES[:4])}, ...)"
            raise DataError(f"{told}; columns: {some(schema.names, 20)}.")
        count = file.metadata.num_rows
        domain = np.full(count, shard.domain or name, object)
        if "domain" in schema.names:
            given = file.read(columns=["domain"])["domain"].to_pylist()
            if None in given:
                told = f"{shown(shard.path)} has no domain in row {given.index(None)}"
                raise DataError(f"{told}; give each row one, or none a column of them.")
            domain = np.array([nfc(str(x)) for x in given], object)
        groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        found, whole = [], np.ones(count, bool)
        for column in (image, mask):
            leaves, lost = columns.imageless_rows(file, file.schema_arrow, column)
            found.append(Images(shard, leaves, groups))
            whole &= ~lost
    return *found, domain, whole
