"""How many examples and steps an epoch has, and which examples are trained on."""

import dataclasses

import numpy as np

from clipjax.data.dataset import Dataset
from clipjax.data.derived import Uncut, few_shot, fraction, uniform_fraction
from clipjax.data.few_shot import CoopSampler
from clipjax.data.loading import sampler
from clipjax.data.unlabelled import labelled
from clipjax.study.parts import Data


def training_rows(
    data: Data, labels: np.ndarray, classes: tuple[str, ...], uncut: Uncut | None = None
) -> np.ndarray | None:
    """Return which of the examples with these labels are trained on; None for all.

    Where a half of the classes is cut away (`uncut`), shots and shares are drawn before the cut, as
    CoOp's code does: a run of base classes has the images that one of all classes has of them.
    ConfigError for classes that have fewer images than `data.shots`, or that lose all of them.
    """
    known = np.flatnonzero(labelled(labels))
    if not data.shots and data.fraction == 1:
        return known if len(known) < len(labels) else None
    own = labels[known]
    if uncut is None:
        return known[_drawn(data, own, classes)]
    if data.shots and data.shots_missing != "all":
        few_shot(own, data.shots, data.subset_seed, classes)  # refuses
    pool = np.sort(np.concatenate([uncut.rows[known], uncut.left_out]))
    whole = dataclasses.replace(data, shots_missing="all")
    needed = np.unique(uncut.labels[uncut.rows[known]])
    drawn = pool[_drawn(whole, uncut.labels[pool], uncut.classes, needed)]
    return np.flatnonzero(np.isin(uncut.rows, drawn))


def _drawn(
    data: Data, labels: np.ndarray, classes: tuple[str, ...], needed: np.ndarray | None = None
) -> np.ndarray:
    """Return the rows that shots or a share take of labels, all known, ascending."""
    if data.shots:
        rows = few_shot(labels, data.shots, data.subset_seed, classes, data.shots_missing)
        if data.shots_rule == "coop":
            rows = np.sort(CoopSampler(data.subset_seed).draw(labels, data.shots))
        return rows
    if data.fraction_how == "uniform":
        return uniform_fraction(labels, data.fraction, data.subset_seed, classes, needed)
    return fraction(labels, data.fraction, data.subset_seed, classes)


def planned_labels(data: Data, dataset: Dataset) -> np.ndarray:
    """Return the labels int [N] of the source's training images, if all can be read."""
    source = dataset.source(data.labelled, "train")
    labels, cut = np.asarray(source.labels), getattr(source, "uncut", None)
    chosen = training_rows(data, source.labels, dataset.classes, cut)
    return labels if chosen is None else labels[chosen]


def planned_sizes(data: Data, dataset: Dataset) -> tuple[int, int]:
    """Return the number of training images of source and target, if all can be read."""
    trains = "train" in dataset.splits_of(data.target)
    target = len(dataset.source(data.target, "train")) if trains else 0
    return len(planned_labels(data, dataset)), target


def planned_epoch(data: Data, batch_size: int, dataset: Dataset) -> int:
    """Return the steps of an epoch, if every image can be read."""
    return sampler.steps_per_epoch(*planned_sizes(data, dataset), batch_size, data.epoch)
