"""CoOp's few-shot subsets, to the example: drawn by Python's own generator, class by class."""

import random
from collections.abc import Sequence

import numpy as np

from clipjax.data.dataset import Dataset, Source
from clipjax.data.derived import Subset, Wrapped
from clipjax.data.unlabelled import labelled

VAL_SHOTS = 4  # of validation images at most


class CoopSampler:
    """The stream of CoOp's draws (Zhou et al. 2022, arXiv 2109.01134; Dassl's DatasetBase).

    `random.seed(seed)`; then for every class, in the order in which classes first appear in the
    split's list, `random.sample` of its images in the order of the list. A class with too few
    gives all it has, and nothing is drawn. Training images first, then, of the same stream, at
    most `VAL_SHOTS` validation images a class. Rows are int64, in the order drawn.

    Where CoOp lists a folder unsorted (ImageNet) its subsets follow the file system, and nothing
    can reproduce them; lists here are sorted.

    >>> sampler = CoopSampler(1)
    >>> labels = np.arange(30) // 10
    >>> sampler.draw(labels, 2).tolist()
    [2, 1, 14, 11, 27, 29]
    """

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def draw(self, labels: Sequence[int] | np.ndarray, shots: int) -> np.ndarray:
        rows: dict[int, list[int]] = {}
        for row, label in enumerate(np.asarray(labels).tolist()):
            rows.setdefault(label, []).append(row)
        few = lambda own: own if len(own) < shots else self._random.sample(own, shots)
        return np.array([row for own in rows.values() for row in few(own)], np.int64)


class CoopValidation(Wrapped):
    """A dataset whose validation images of one domain are CoOp's few, which follow its shots."""

    def __init__(self, dataset: Dataset, domain: str, shots: int, seed: int):
        super().__init__(dataset)
        self._domain, self._shots, self._seed = domain, shots, seed

    def source(self, domain: str, split: str) -> Source:
        source = self._dataset.source(domain, split)
        if (domain, split) != (self._domain, "val"):
            return source
        sampler, train = CoopSampler(self._seed), self._dataset.source(domain, "train").labels
        sampler.draw(train[labelled(train)], self._shots)
        known = np.flatnonzero(labelled(source.labels))
        drawn = sampler.draw(source.labels[known], min(self._shots, VAL_SHOTS))
        return Subset(source, np.sort(known[drawn]))
