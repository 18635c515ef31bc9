"""Datasets that TensorFlow Datasets prepared, read without TensorFlow.

Only folders on disk are read: nothing is downloaded, and a builder's code is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Dataset, Example, Skipped, Source, check_domain, digest
from clipjax.data.readers.tfds_dirs import find_builders
from clipjax.data.readers.tfds_io import Records, read_builder, read_labels
from clipjax.io.texts import nfc


class TfdsDataset(Dataset):
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

    skipped: tuple[Skipped, ...] = ()

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

    def classes_of(self, domain: str) -> tuple[str, ...]:
        return self._builders[check_domain(self, domain)].classes

    def source(self, domain: str, split: str) -> TfdsSource:
        """Return the examples of a domain and split; the first time, the labels of all are read.

        Raises:
          DataError: a damaged file, labels that are no class, or a class with a single example
            where all splits are made by hash.
        """
        domain = check_domain(self, domain)
        builder = self._builders[domain]
        base, _ = splits.origin(split, builder.splits)
        records = Records(builder, builder.splits[base])
        labels, count = read_labels(records), builder.counts[base]
        rows = splits.deal(
            split,
            builder.splits,
            lambda: splits.positions(f"{builder.name}/{base}/{row}" for row in range(count)),
            labels,
            builder.classes,
            domain,
            self.fractions,
        )
        return TfdsSource(records, rows, labels[rows], self.classes, domain, split)


class TfdsSource(Source):
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
        self._builder, self._given, self._rows = records.builder, records.split, rows
        self._records: Records | None = records
        number = np.array([classes.index(name) for name in records.builder.classes], np.int32)
        self.labels = number[labels]
        text = "\n".join((records.stamp, *classes))
        self._digest = digest([text, rows.tobytes(), self.labels.tobytes()])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_records": None}

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
