"""What a run has too little of: parts and domains without a class, few images, short epochs."""

import inspect
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from clipjax.data.dataset import Dataset, Part
from clipjax.data.loading.sampler import steps_per_epoch
from clipjax.errors import ConfigError
from clipjax.io.texts import counted, some
from clipjax.study.methods import Method
from clipjax.study.parts import Data

FEWEST_IMAGES = 5  # of a class in a part: below, one image is over 20 points of its accuracy
FEWEST_STEPS = 10  # of an epoch


def thin_classes(labels: Mapping[Part, np.ndarray], classes: Sequence[str]) -> list[str]:
    """Return sentences on parts that lack a class or have few images of one, at most two.

    `labels` are int [N], below 0 where an image has none; parts without any label say nothing.

    >>> thin_classes({("photo", "val"): np.array([0, 0, 0, 0, 0, 1])}, ("ant", "bee", "cat"))[0]
    'no image of 1 of 3 classes (cat) in photo/val: nothing is known of them there.'
    """
    lacking: dict[str, list[str]] = {}
    few: dict[str, list[str]] = {}
    for part, found in labels.items():
        if not len(found := found[found >= 0]):
            continue
        counts = np.bincount(found, minlength=len(classes))
        of = lambda chosen: f"of {len(chosen)} of {len(classes)} classes"
        if len(gone := np.flatnonzero(counts == 0)):
            told = f"{of(gone)} ({some((classes[k] for k in gone), 3)})"
            lacking.setdefault(told, []).append("/".join(part))
        if len(rare := np.flatnonzero((counts > 0) & (counts < FEWEST_IMAGES))):
            least = rare[counts[rare].argmin()]
            told = f"{of(rare)} (of {classes[least]} {counts[least]})"
            few.setdefault(told, []).append("/".join(part))
    said = [f"no image {_places(lacking)}: nothing is known of them there."] if lacking else []
    if few:
        said.append(
            f"fewer than {FEWEST_IMAGES} images {_places(few)}: single images decide about these "
            "classes; more images, or another division (data.fractions), help."
        )
    return said


def _places(found: Mapping[str, Sequence[str]]) -> str:
    """Join what is said of parts, that of most parts first."""
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    told = [f"{words} in {some(parts, 3)}" for words, parts in ordered]
    more = sum(len(parts) for _, parts in ordered[3:])
    return "; ".join([*told[:3], *[f"and in {counted(more, 'more part')}"] * (more > 0)])


def short_epochs(methods: Iterable[Method], sizes: Mapping[Data, tuple[int, int]]) -> list[str]:
    """Return a sentence for each kind of epoch with few steps.

    `sizes` has the training images of source and target of each method's data.
    """
    found: dict[tuple[int, int, int, int], list[str]] = {}
    for method in methods:
        if method.trains and not method.config.episodes:
            size, (source, target) = method.config.batch_size, sizes[method.data]
            steps = steps_per_epoch(source, target, size, method.data.epoch)
            if steps < FEWEST_STEPS:
                found.setdefault((steps, source, target, size), []).append(method.config.name)
    return [
        f"an epoch of {some(names, 5)} has {counted(steps, 'step')} ({source:,} labelled and "
        f"{target:,} target images, batches of {size}), fewer than {FEWEST_STEPS}: a smaller "
        "batch_size gives more of them, more epochs a longer run."
        for (steps, source, target, size), names in found.items()
    ]


def few_for_covariances(dataset: Dataset, methods: Iterable[Method], width: int) -> list[str]:
    """Return a sentence on targets with fewer training images than features, if one matters.

    That is where CORAL maps onto the target's covariance, of `width` features.
    """
    found: dict[tuple[str, int], list[str]] = {}
    for method in methods:
        usual = inspect.signature(method.make).parameters.get("match")
        kinds = [
            phase.options.get("match", usual.default) for phase in method.config.phases if usual
        ]
        if "coral" in (method.config.align, *kinds):
            target = method.data.target
            count = len(dataset.source(target, "train"))
            if 0 < count <= width:
                found.setdefault((target, count), []).append(method.config.name)
    return [
        f"{target} has {counted(count, 'training image')}, no more than the {width} features: "
        f"its covariance is regularised ({some(names, 3)})."
        for (target, count), names in found.items()
    ]


def scored_among(data: Data, dataset: Dataset, domains: Sequence[str]) -> list[str]:
    """Say which domains are scored among their own classes (`data.score_among`).

    Images without a label may be of any class: their domain is scored among all. ConfigError for
    "all" where every domain has all classes, so that the field has no effect.
    """
    counts = {d: len(dataset.classes_of(d)) for d in domains if not dataset.unlabelled(d)}
    few = {domain: n for domain, n in counts.items() if n < len(dataset.classes)}
    if data.score_among == "present":
        return [f"{domain} is scored among its own {n} classes" for domain, n in few.items()]
    if not few:
        told = "data.score_among=all has no effect: every domain evaluated has all classes"
        raise ConfigError(f"{told}; leave it out.")
    return []
