"""How many examples and steps an epoch has, and which examples are trained on."""

import numpy as np

from clipjax.data.dataset import Dataset
from clipjax.data.derived import few_shot, fraction
from clipjax.data.loading import sampler
from clipjax.data.unlabelled import labelled
from clipjax.study.parts import Data


def training_rows(data: Data, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """Return which of the examples with these labels are trained on; None for all."""
    known = np.flatnonzero(labelled(labels))
    own = labels[known]
    if data.shots:
        return known[few_shot(own, data.shots, data.subset_seed, classes)]
    if data.fraction != 1:
        return known[fraction(own, data.fraction, data.subset_seed)]
    return known if len(known) < len(labels) else None


def planned_sizes(data: Data, dataset: Dataset) -> tuple[int, int]:
    """Return the number of training images of source and target, if all can be read."""
    source, target = (dataset.source(domain, "train") for domain in (data.labelled, data.target))
    chosen = training_rows(data, source.labels, dataset.classes)
    return len(source) if chosen is None else len(chosen), len(target)


def planned_epoch(data: Data, batch_size: int, dataset: Dataset) -> int:
    """Return the steps of an epoch, if every image can be read."""
    return sampler.steps_per_epoch(*planned_sizes(data, dataset), batch_size, data.epoch)
