"""The images with masks of a segmentation run, opened: what is trained on, what is tested."""

from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import Part, check_domain
from clipjax.data.mask_survey import check_surveys, survey
from clipjax.data.masks import MaskDataset, MaskSource, MixedMasks, mixed
from clipjax.data.open_masks import open_masks
from clipjax.data.scenes import SceneDataset
from clipjax.errors import ConfigError
from clipjax.study.mask_data import SCENES, MaskData


class Masked(NamedTuple):
    """What a run trains on and tests."""

    dataset: MaskDataset
    train: MixedMasks
    tests: dict[str, MixedMasks]  # domain -> its test images, the source first
    note: str = ""  # on images that are left out

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of classes."""
        return self.dataset.classes

    @property
    def source(self) -> str:
        """The domain that is trained on and tested; of several sources the first."""
        return next(iter(self.tests))

    @property
    def targets(self) -> tuple[str, ...]:
        """The other domains that are tested."""
        return tuple(self.tests)[1:]


def open_data(data: MaskData) -> Masked:
    """Open the data of a config and, of files, read every mask that a run needs.

    ConfigError or DataError for what is not there, or does not fit.
    """
    dataset = open_dataset_of(data)
    parts = parts_of(data, dataset)
    sources = [dataset.source(*part) for part in parts]
    count, total = len(data.sources), data.train
    if data.embedded:
        total = total or SCENES[0]
    train, tests = mixed(sources[:count], data.shares, total, data.subset_seed), {}
    for (domain, _), found in zip(parts[count:], sources[count:], strict=True):
        most = min(data.test or len(found), len(found))
        tests[domain] = mixed([found], total=most, seed=data.subset_seed)
    if data.embedded:
        return Masked(dataset, train, tests)
    seen = [(x, survey(x, workers=data.workers)) for x in (train, *tests.values())]
    note = check_surveys(seen, data.max_unreadable)
    train, *rest = (source.only(found.usable) for source, found in seen)
    return Masked(dataset, train, dict(zip(tests, rest, strict=True)), note)


def open_dataset_of(data: MaskData) -> MaskDataset:
    """Open the dataset that a config names."""
    if data.embedded:
        return SceneDataset(train=data.train or SCENES[0], test=data.test or SCENES[1])
    return open_masks(data.name, data.root, fractions=data.fractions)


def parts_of(data: MaskData, dataset: MaskDataset) -> list[Part]:
    """Return what a run needs: train of each source, then what is tested, the source first.

    ConfigError for a domain that is not there, or has no such split with masks.
    """
    for domain in (*data.sources, *data.targets):
        check_domain(dataset, domain)
    others = [domain for domain in dataset.domains if domain not in data.sources]
    targets = data.targets or tuple(d for d in others if tested_split(dataset, d))
    found = [(domain, "train") for domain in data.sources]
    for domain in (data.sources[0], *targets):
        if not (split := tested_split(dataset, domain)):
            told = f"domain {domain!r} of {dataset.name} has no val or test images with masks"
            raise ConfigError(f"{told}; take others.")
        found.append((domain, split))
    return found


def tested_split(dataset: MaskDataset, domain: str) -> str:
    """Return the split that a run tests: test, or val where test has no masks; "" for neither."""
    there = dataset.splits_of(domain)
    return next((split for split in ("test", "val") if split in there), "")


def class_shares(source: MaskSource) -> np.ndarray:
    """Return the share of each class among the labelled pixels, float64 [K]."""
    return survey(source).shares
