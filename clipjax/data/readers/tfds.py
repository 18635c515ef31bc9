"""Datasets that TensorFlow Datasets prepared, read without TensorFlow.

Only folders on disk are looked at: nothing is downloaded, and a builder's code is not needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Example, Skipped, check_domain
from clipjax.data.readers.tfds_dirs import find_builders
from clipjax.data.readers.tfds_io import Builder, Records, read_builder, read_labels
from clipjax.data.splits import SPLITS
from clipjax.io.texts import nfc


class TfdsDataset:
    """Prepared builders with an image and a label, each a domain.

    Args:
      name: with or without `tfds:` in front: `domainnet`, or any builder, whose configs are the
        domains where several are prepared; `builder/config`; several builders,
        `mnist+svhn_cropped`; or the path of a folder that holds `dataset_info.json`, or of one
        with such folders.
      data_dir: where builders are; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      fractions: shares of train, val and test; splits that a builder lacks are dealt out of its
        train by a hash of the example's number.

    Raises:
      ConfigError: an unknown builder.
      DataError: one that is not prepared, not as ArrayRecord, or has no image and label.
    """

    def __init__(
        self, name: str, data_dir: str = "", fractions: Sequence[float] = splits.FRACTIONS
    ):
        name = name.removeprefix("tfds:")
        self.name, self.fractions = f"tfds:{name}", splits.check_fractions(fractions)
        found = find_builders(name, data_dir)
        self._builders = {nfc(domain): read_builder(str(f)) for domain, f in found.items()}
        self.domains = tuple(self._builders)
        names = [name for builder in self._builders.values() for name in builder.classes]
        self.classes = tuple(dict.fromkeys(names))
        self.skipped: tuple[Skipped, ...] = ()

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """The classes that this domain declares."""
        domain = check_domain(self, domain)
        return self._builders[domain].classes

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split: always, as one is dealt out of train otherwise."""
        return split in SPLITS

    def source(self, domain: str, split: str) -> TfdsSource:
        """The examples of a domain and split; the first time, the labels of all are read.

        Raises:
          DataError: a damaged file, labels that are no class, or a class with a single example
            where all splits are made by hash.
        """
        domain = check_domain(self, domain)
        builder = self._builders[domain]
        base, _ = splits.origin(split, builder.splits)
        records = Records(builder, builder.splits[base])
        labels, rows = read_labels(records, builder), np.arange(builder.counts[base])
        names = builder.classes
        splits.check_single(split, builder.splits, labels, names, domain, self.fractions)
        if splits.is_shared(split, builder.splits):
            where = splits.positions(f"{builder.name}/{base}/{row}" for row in rows)
            rows = rows[splits.members(split, builder.splits, where, labels, self.fractions)]
        return TfdsSource(records, rows, labels[rows], self.classes, domain, split)


class TfdsSource:
    """Records of a prepared split. Picklable: files are opened again when first read."""

    def __init__(
        self,
        records: Records,
        rows: np.ndarray,
        labels: np.ndarray,  # as the builder numbers them
        classes: tuple[str, ...],
        domain: str,
        split: str,
    ):
        self.classes, self.domain, self.split = classes, domain, split
        builder: Builder = records.builder
        self._builder, self._given, self._rows = builder, records.split, rows
        self._records: Records | None = records
        number = np.array([classes.index(name) for name in builder.classes], np.int32)
        self.labels = number[labels]
        text = "\n".join((records.stamp, *classes))
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        digest.update(rows.tobytes() + self.labels.tobytes())
        self._digest = digest.hexdigest()[:16]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_records": None}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self._rows[index])
        if (records := self._records) is None:  # unpickled; that two threads open is harmless
            records = self._records = Records(self._builder, self._given)
        name = f"{self._builder.name}/{self._given}:{row}"
        return Example(records.image(row), int(self.labels[index]), name)

    def __repr__(self) -> str:
        return (
            f"Tfds({self._builder.name}, {self.domain}/{self.split}, n={len(self)}, {self._digest})"
        )
