"""How many examples and steps an epoch has, and which examples are trained on."""

import numpy as np

from clipjax.data.dataset import Dataset
from clipjax.data.derived import few_shot, fraction, uniform_fraction
from clipjax.data.few_shot import CoopSampler
from clipjax.data.loading import sampler
from clipjax.data.unlabelled import labelled
from clipjax.study.parts import Data


def training_rows(data: Data, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """Return which of the examples with these labels are trained on; None for all.

    ConfigError for classes that have fewer images than `data.shots`, or that lose all of them.
    """
    known = np.flatnonzero(labelled(labels))
    own = labels[known]
    if data.shots:
        rows = few_shot(own, data.shots, data.subset_seed, classes, data.shots_missing)
        if data.shots_rule == "coop":
            rows = np.sort(CoopSampler(data.subset_seed).draw(own, data.shots))
        return known[rows]
    if data.fraction != 1:
        how = {"stratified": fraction, "uniform": uniform_fraction}[data.fraction_how]
        return known[how(own, data.fraction, data.subset_seed, classes)]
    return known if len(known) < len(labels) else None


def planned_sizes(data: Data, dataset: Dataset) -> tuple[int, int]:
    """Return the number of training images of source and target, if all can be read."""
    source = dataset.source(data.labelled, "train")
    chosen = training_rows(data, source.labels, dataset.classes)
    trains = "train" in dataset.splits_of(data.target)
    target = len(dataset.source(data.target, "train")) if trains else 0
    return len(source) if chosen is None else len(chosen), target


def planned_epoch(data: Data, batch_size: int, dataset: Dataset) -> int:
    """Return the steps of an epoch, if every image can be read."""
    return sampler.steps_per_epoch(*planned_sizes(data, dataset), batch_size, data.epoch)
