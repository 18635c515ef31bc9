"""What `Adapter.fit` is given, as a dataset with a source and a target."""

import glob
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.dataset import ArrayDataset, Dataset, check_domain
from clipjax.data.derived import JoinedDataset, Subset
from clipjax.data.given import Extended, GivenSource, Image, listed
from clipjax.data.open import open_dataset
from clipjax.data.splits import FRACTIONS, SPLITS, WHOLE, deal, positions
from clipjax.data.unlabelled import NO_LABEL, labelled
from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import check_class_names, class_name, nfc, some

TARGET, SOURCE = "target", "source"  # domains of images that come without a name for theirs


class Pair(NamedTuple):
    """A dataset, and what of it a model is adapted from and to."""

    dataset: Dataset
    source: str | tuple[str, ...]
    target: str
    domains: tuple[str, ...]  # measured: these, or all where it is empty


def _is_dataset(given: Any) -> bool:
    return hasattr(given, "domains") and hasattr(given, "source")


def open_pair(
    X: Any,
    y: Sequence | None,
    source: str | Sequence[str] | None,
    target: Any,
    sample_domain: Sequence[int] | None,
    classes: Sequence[str] | None,
) -> Pair:
    """Open what `clipjax.Adapter.fit` is given; see there.

    ConfigError or DataError: what is missing, or does not go together.
    """
    if _is_dataset(X) or (isinstance(X, (str, os.PathLike)) and y is None):
        images = {"y": y, "sample_domain": sample_domain, "classes": classes}
        if extra := [key for key, value in images.items() if value is not None]:
            raise ConfigError(f"{extra[0]} is for images; of a dataset name source and target.")
        dataset = X if _is_dataset(X) else open_dataset(root=os.fspath(X))
    else:
        if source is not None:
            raise ConfigError("source names a domain of a dataset; for images give sample_domain.")
        dataset = _from_images(X, y, sample_domain, classes, target is None)
        source = tuple(d for d in dataset.domains if d != TARGET)
        target = TARGET if target is None and TARGET in dataset.domains else target
    if source is None:
        raise ConfigError(f"name the labelled domain, source=...: {some(dataset.domains)}.")
    sources = (source,) if isinstance(source, str) else tuple(source)
    sources = tuple(check_domain(dataset, each) for each in sources)
    dataset, target = _with_target(dataset, sources, target)
    return Pair(dataset, sources, target, (*sources, target))


def _with_target(dataset: Dataset, sources: tuple[str, ...], target: Any) -> tuple[Dataset, str]:
    """Return a dataset that has the target, and the target's name."""
    if target is None:  # of a head on the source alone: its own held-out images are looked at
        name = f"{'+'.join(sources)} again"
        return JoinedDataset(dataset, sources, name), name
    if isinstance(target, str) and nfc(target) in dataset.domains:
        return dataset, nfc(target)
    place = os.path.expanduser(target) if isinstance(target, (str, os.PathLike)) else ""
    if place and not os.path.exists(place) and not glob.has_magic(place):
        known = some(dataset.domains)
        raise ConfigError(f"target {target!r} is no domain ({known}), no folder and no pattern.")
    return Extended(dataset, TARGET, target), TARGET


def _from_images(
    X: Sequence[Image],
    y: Sequence | None,
    sample_domain: Sequence[int] | None,
    classes: Sequence[str] | None,
    alone: bool,
) -> Dataset:
    """Return images as a dataset: a domain for each number of `sample_domain`.

    `alone`: no other target is given, so masked images may be the target's.
    """
    X = list(listed(X))
    if y is None or len(y) != len(X):
        count = 0 if y is None else len(y)
        raise DataError(f"{len(X)} images but {count} labels; give y, one each (-1: masked).")
    names, labels = _labels(y, classes)
    if sample_domain is None:
        sample_domain = np.where(labelled(labels), 1, -1) if alone else np.ones(len(X), int)
    numbers = np.asarray(sample_domain)
    if numbers.shape != (len(X),) or not np.issubdtype(numbers.dtype, np.integer):
        given = f"{numbers.dtype} of shape {numbers.shape}"
        raise DataError(f"sample_domain is {given}; give a whole number for each image.")
    if (numbers == 0).any():
        raise DataError("sample_domain has a 0; give numbers above 0 (source) or below (target).")
    if not (numbers > 0).any():
        raise DataError("no image is of the source; give some a sample_domain above 0.")
    if masked := int((~labelled(labels[numbers > 0])).sum()):
        raise DataError(f"{masked} source images have no label; give y for each of the source.")
    sources = sorted(set(numbers[numbers > 0].tolist()))
    called = {n: SOURCE if len(sources) == 1 else f"{SOURCE} {n}" for n in sources}
    rows = {called[n]: np.flatnonzero(numbers == n) for n in sources}
    if (numbers < 0).any():
        rows[TARGET] = np.flatnonzero(numbers < 0)
    pick = lambda at: ([X[i] for i in at], labels[at])
    return ArrayDataset({d: _dealt(*pick(at), names, d) for d, at in rows.items()}, "images")


def _dealt(
    images: list[Image], labels: np.ndarray, classes: tuple[str, ...], domain: str
) -> dict[str, Any]:
    """Deal a domain's images to splits, class by class; all of them to each if none has a label."""
    about = {"classes": classes, "domain": domain}
    make = lambda split: GivenSource(images, labels, split=split, **about)
    found = {split: make(split) for split in SPLITS}
    if not labelled(labels).any():  # no label is there to leak
        return found
    where = positions(map(found["train"].name_of, range(len(labels))))
    rows = lambda split: deal(split, (WHOLE,), lambda: where, labels, FRACTIONS)
    return {split: Subset(source, rows(split)) for split, source in found.items()}


def _labels(y: Sequence, classes: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the classes, and labels int32 [N], NO_LABEL where they are masked."""
    # NaN, pandas' way to say that there is none, is not above 0 either.
    masked = lambda x: x is None or (not isinstance(x, str) and not x >= 0)
    known = [label for label in y if not masked(label)]
    if not known:
        raise DataError("no image has a label; give y for those of the source.")
    named = all(isinstance(label, str) for label in known)
    if not named and classes is None:
        raise DataError("y holds numbers; give classes, their names, or names in y.")
    if not named and (wrong := [x for x in known if isinstance(x, str) or x % 1]):
        fault = f"y holds {wrong[0]!r} among numbers of classes"
        raise DataError(f"{fault}; give names for all, or whole numbers for all.")
    if not named and not all(int(label) < len(classes) for label in known):
        largest = max(map(int, known))
        raise DataError(f"y holds {largest}, and classes has {len(classes)} names from 0 on.")
    found = sorted(set(map(class_name, known))) if classes is None else classes
    names = check_class_names(found, "y" if classes is None else "the list classes")
    number = {name: k for k, name in enumerate(names)}
    if named and (unknown := sorted({class_name(label) for label in known} - set(names))):
        raise DataError(f"y has classes that are not in classes: {some(unknown)}.")
    mean = lambda label: number[class_name(label)] if named else int(label)
    return names, np.array([NO_LABEL if masked(x) else mean(x) for x in y], np.int32)
