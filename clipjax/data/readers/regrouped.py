"""Reads the second set of classes of the embedded pictures: the same images, other labels."""

import csv
import pathlib
from collections.abc import Mapping

import numpy as np

from clipjax.data.dataset import Dataset, Example, Source, digest
from clipjax.data.derived import Subset, Wrapped


class RegroupedDataset(Wrapped):
    """A dataset under other classes: images by their file's name, those of no class left out.

    Splits and domains are the dataset's own.

    Args:
      dataset: the images.
      folder: holds `classes.txt`, the class names in the order of labels, and `labels.csv`,
        columns `identity` (file name without folders and ending) and `class`.
      name: of the dataset that this makes.
    """

    def __init__(self, dataset: Dataset, folder: pathlib.Path, name: str):
        super().__init__(dataset)
        self.name = name
        self.classes = tuple((folder / "classes.txt").read_text("utf-8").splitlines())
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self._labels = {row["identity"]: self.classes.index(row["class"]) for row in rows}

    def classes_of(self, domain: str) -> tuple[str, ...]:
        self._dataset.classes_of(domain)  # an unknown domain is refused there
        return self.classes

    def source(self, domain: str, split: str) -> Source:
        return _Regrouped(self._dataset.source(domain, split), self._labels, self.classes)


class _Regrouped(Subset):
    """The examples of a source that have one of the labels, under it."""

    def __init__(self, source: Source, labels: Mapping[str, int], classes: tuple[str, ...]):
        stems = [pathlib.PurePosixPath(source.name_of(i)).stem for i in range(len(source))]
        found = np.array([labels.get(stem, -1) for stem in stems], np.int32)
        super().__init__(source, np.flatnonzero(found >= 0))
        self.labels, self.classes = found[self.rows], classes

    def __getitem__(self, index: int) -> Example:
        return super().__getitem__(index)._replace(label=int(self.labels[index]))

    def __repr__(self) -> str:
        key = digest([self.labels.astype("<i4").tobytes(), "\n".join(self.classes)])
        return f"Regrouped({super().__repr__()}, {key})"
