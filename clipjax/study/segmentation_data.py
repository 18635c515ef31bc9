"""The images with masks of a segmentation run, opened: what is trained on, what is tested."""

from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import check_domain
from clipjax.data.masks import MaskDataset, MaskSource, MixedMasks, mixed
from clipjax.data.open_masks import open_masks
from clipjax.data.scenes import SceneDataset
from clipjax.errors import ConfigError
from clipjax.study.mask_data import SCENES, MaskData


class Masked(NamedTuple):
    """What a run trains on and tests."""

    classes: tuple[str, ...]
    train: MixedMasks
    tests: dict[str, MaskSource]  # domain -> its test images, the source first

    @property
    def source(self) -> str:
        """The domain that is trained on and tested; of several sources the first."""
        return next(iter(self.tests))

    @property
    def targets(self) -> tuple[str, ...]:
        """The other domains that are tested."""
        return tuple(self.tests)[1:]


def open_data(data: MaskData) -> Masked:
    """Open the data of a config; ConfigError or DataError for what is not there."""
    dataset = _opened(data)
    for domain in (*data.sources, *data.targets):
        check_domain(dataset, domain)
    others = [d for d in dataset.domains if d not in data.sources]
    targets = data.targets or tuple(d for d in others if tested_split(dataset, d))
    train = [dataset.source(domain, "train") for domain in data.sources]
    total = data.train or (SCENES[0] if isinstance(dataset, SceneDataset) else 0)
    tests = {}
    for domain in (data.sources[0], *targets):
        split = tested_split(dataset, domain)
        if not split:
            told = f"domain {domain!r} of {dataset.name} has no val or test images with masks"
            raise ConfigError(f"{told}; take others.")
        found = dataset.source(domain, split)
        most = min(data.test or len(found), len(found))
        tests[domain] = mixed([found], total=most, seed=data.subset_seed)
    return Masked(dataset.classes, mixed(train, data.shares, total, data.subset_seed), tests)


def tested_split(dataset: MaskDataset, domain: str) -> str:
    """Return the split that a run tests: test, or val where test has no masks; "" for neither."""
    there = dataset.splits_of(domain)
    return next((split for split in ("test", "val") if split in there), "")


def _opened(data: MaskData) -> MaskDataset:
    if data.embedded:
        return SceneDataset(train=data.train or SCENES[0], test=data.test or SCENES[1])
    return open_masks(data.name, data.root, fractions=data.fractions)


def class_shares(source: MaskSource) -> np.ndarray:
    """Return the share of each class among the labelled pixels, float64 [K]."""
    counts = np.zeros(256, np.int64)
    for i in range(len(source)):
        counts += np.bincount(source[i].mask.ravel(), minlength=256)
    known = counts[: len(source.classes)]
    return known / max(known.sum(), 1)
