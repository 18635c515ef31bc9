"""What a study needs of its images: labels where they are read, and one that can be read at all."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from clipjax.adapt.gda import check_counts
from clipjax.data.dataset import Dataset, Skipped, Source, has_labels
from clipjax.data.images.decode import decode
from clipjax.errors import ChangedError, ConfigError, DataError
from clipjax.study.config import Study
from clipjax.study.epochs import planned_labels
from clipjax.study.methods import Method, build_methods


def with_labels(study: Study, dataset: Dataset) -> tuple[Study, list[str]]:
    """Leave out upper bounds by target labels where there are none, with a sentence on it.

    ConfigError where nothing is left, or a stage of a sweep is one in some of its settings.
    """
    needed = [each for each in study.trained if each.data.labels == "target"]
    bare = {name for name in {each.data.target for each in needed} if not _trainable(dataset, name)}
    lost = [each for each in needed if each.data.target in bare]
    if not lost:
        return study, []
    out = {each.stage for each in lost}
    kept = tuple(stage for stage in study.stages if stage not in out)
    reads = f"labels of {lost[0].data.target!r}, whose training images have none"
    if not kept or any(each.stage in out for each in study.trained if each not in lost):
        raise ConfigError(f"data.labels=target trains on {reads}; leave it out.")
    told = f"{', '.join(s for s in study.stages if s in out)} is left out: it trains on {reads}"
    return dataclasses.replace(study, stages=kept), [told]


def as_recorded(study: Study, names: Collection[str]) -> Study:
    """Leave out the stages that a finished run has left out: it trained these methods."""
    there = {each.stage for each in study.trained if each.name in names}
    kept = tuple(stage for stage in study.stages if stage in there)
    return study if kept == study.stages else dataclasses.replace(study, stages=kept)


def _trainable(dataset: Dataset, domain: str) -> bool:
    return "train" in dataset.splits_of(domain) and has_labels(dataset, domain, "train")


def check_selection(study: Study, dataset: Dataset) -> None:
    """Raise ConfigError for a rule that reads labels of a target where there are none."""
    if study.stages and study.training.selection == "oracle":
        for target in study.targets:
            if not has_labels(dataset, target, "val"):
                told = f"selection=oracle reads labels of {target!r}, whose validation images have"
                raise ConfigError(f"{told} none; choose another rule, as label_free.")


def check_readable(source: Source) -> None:
    """Raise DataError if no image of a source can be read; the first that can ends the search."""
    first = ""
    for row in range(len(source)):
        try:
            image, _, name = source[row]
            if isinstance(image, bytes):
                decode(image, name)
            return
        except ChangedError:
            raise
        except DataError as error:
            first = first or str(error)
    if first:
        told = f"none of the {len(source)} images of {source.domain}/{source.split} can be read"
        raise DataError(f"{told}; the first: {first}")


def check_targets(study: Study, dataset: Dataset) -> None:
    """Raise ConfigError if a method reads training images of a target that has none."""
    bare = [t for t in study.targets if "train" not in dataset.splits_of(t)] if study.stages else ()
    for method in build_methods(study, tuple(dataset.classes)).values() if bare else ():
        if "target" in method.kind.reads and method.data.target in bare:
            told = f"{method.config.name} adapts to training images of {method.data.target!r}"
            has = ", ".join(dataset.splits_of(method.data.target))
            remedy = "take methods that read the source alone, or another target"
            raise ConfigError(f"{told}, which has {has} and no train split; {remedy}.")


def check_each_class(dataset: Dataset, methods: Iterable[Method]) -> None:
    """Raise ConfigError if a closed form needs an image of each class, and one has none."""
    names = tuple(dataset.classes)
    for method in methods:
        if what := getattr(method.kind, "each_class", ""):
            counts = np.bincount(planned_labels(method.data, dataset), minlength=len(names))
            try:
                check_counts(counts, names, what)
            except ValueError as error:
                raise ConfigError(f"methods.{method.config.stage}: {error}") from None


def check_unreadable(skipped: Sequence[Skipped], images: int, most: float) -> str:
    """Return a sentence on the images that are left out; "" if there are none.

    Raises DataError where they are more than a share of `most` of all, `images` being the others.
    """
    if not skipped:
        return ""
    images += len(skipped)
    first = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in skipped[:5])
    if len(skipped) > most * images:
        raise DataError(
            f"{len(skipped)} of {images} images cannot be read, more than data.max_unreadable="
            f"{most} allows: {first}. Replace them; `clipjax inspect` lists all."
        )
    return f"{len(skipped)} of {images} images cannot be read and are left out: {first}"
