"""The images with masks of a segmentation run, opened: what is trained on, what is tested."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import Part, check_domain
from clipjax.data.images.mask_crops import Crops
from clipjax.data.mask_survey import Survey, check_surveys, survey
from clipjax.data.masks import NO_MASKS, MaskDataset, MixedMasks, mixed
from clipjax.data.open_masks import open_masks, recognise_masks
from clipjax.data.scenes import SIZE, SceneDataset
from clipjax.data.sized_masks import SizedMasks
from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import some
from clipjax.study.mask_data import SCENES, MaskData

Size = tuple[int, int]  # height and width


class Masked(NamedTuple):
    """What a run trains on and tests."""

    dataset: MaskDataset
    train: MixedMasks
    tests: dict[str, MixedMasks]  # domain -> its test images, the source first
    crops: Crops  # of training images
    trained: Size  # height and width of what is encoded in training
    tested: Size  # and in tests: of windows, or of whole images
    notes: tuple[str, ...] = ()  # what is read, and images that are left out
    surveys: Mapping[str, Survey] = {}  # repr of a source -> what it holds, where that was read

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

    @property
    def measured(self) -> tuple[str, ...]:
        """The tested domains whose images have masks; the others are answered alone."""
        return tuple(domain for domain, source in self.tests.items() if source.masked)

    def shares(self, source: MixedMasks) -> np.ndarray:
        """Return the share of each class among a source's labelled pixels, float64 [K]."""
        return (self.surveys.get(repr(source)) or survey(source)).shares


def open_data(data: MaskData, reads: str = "the run") -> Masked:
    """Open the data of a config and, of files, read every mask that a run needs.

    `reads` is what trains on masks, in words; "": nothing does, and training images are read alone.
    ConfigError or DataError for what is not there, or does not fit.
    """
    dataset = open_dataset_of(data)
    parts = parts_of(data, dataset, reads)
    sources = [dataset.source(*part) for part in parts]
    count, total = len(data.sources), data.train
    if not reads:
        sources[:count] = [source.alone() for source in sources[:count]]
    if data.embedded:
        total = total or SCENES[0]
    train, tests = mixed(sources[:count], data.shares, total, data.subset_seed), {}
    for (domain, _), found in zip(parts[count:], sources[count:], strict=True):
        most = min(data.test or len(found), len(found))
        tests[domain] = mixed([found], total=most, seed=data.subset_seed)
    crops = Crops(data.crop or None, tuple(data.scale), data.mirror, data.cat_max_ratio)
    if data.embedded:
        sizes = [{data.resize or (SIZE, SIZE)}] * (1 + len(tests))
        return Masked(dataset, train, tests, crops, *encoded_sizes(data, sizes))
    seen = [(x, survey(x, workers=data.workers)) for x in (train, *tests.values())]
    left_out = check_surveys(seen, data.max_unreadable)
    found = recognise_masks(data.root).why if data.name == "auto" else ""
    notes = tuple(filter(None, (found, left_out, told_of_bare(seen[0][0], tests))))
    train, *rest = (source.only(found.usable) for source, found in seen)
    if lost := [source.domain for source in (train, *rest) if not len(source)]:
        raise DataError(f"no image of {lost[0]!r} can be used; {left_out}")
    sizes = [{data.resize} if data.resize else set(found.sizes) for _, found in seen]
    tests = dict(zip(tests, rest, strict=True))
    surveys = {repr(s): found for s, (_, found) in zip((train, *rest), seen, strict=True)}
    return Masked(dataset, train, tests, crops, *encoded_sizes(data, sizes), notes, surveys)


def encoded_sizes(data: MaskData, sizes: Sequence[set[Size]]) -> tuple[Size, Size]:
    """Return the sizes of what is encoded in training and in tests.

    `sizes` are those of images, of the training set and then of each that is tested. ConfigError:
    images that cannot be put side by side, or windows that are larger than an image.
    """
    trained, *tested = sizes
    every = set.union(*tested)
    whole = trained | every if not (data.crop or data.window) else every
    if len(trained) > 1 and not data.crop:
        told = f"training images have {told_sizes(trained)}"
        raise ConfigError(f"{told}; give data.resize one, or data.crop a part.")
    if len(whole) > 1 and not data.window:
        told = f"images have {told_sizes(whole)}"
        raise ConfigError(f"{told}; give data.resize one, or data.window a part.")
    if data.window:
        for size in sorted(every):
            if data.window[0] > size[0] or data.window[1] > size[1]:
                told = f"data.window={data.window} is larger than an image of {size[0]} x {size[1]}"
                raise ConfigError(f"{told} pixels; take a smaller one, or none.")
    first = lambda found: next(iter(found))
    return data.crop or first(trained), data.window or first(every)


def told_sizes(sizes: set[Size]) -> str:
    """Say how many sizes, and the first."""
    shown = some((f"{height} x {width}" for height, width in sorted(sizes)), 3)
    return f"{len(sizes)} sizes ({shown})"


def open_dataset_of(data: MaskData) -> MaskDataset:
    """Open the dataset that a config names."""
    if data.embedded:
        found = SceneDataset(
            data.train or SCENES[0], val=data.test or SCENES[2], test=data.test or SCENES[1]
        )
    else:
        found = open_masks(data.name, data.root, fractions=data.fractions)
    return SizedMasks(found, data.resize) if data.resize else found


def told_of_bare(train: MixedMasks, tests: Mapping[str, MixedMasks]) -> str:
    """Say which images have no masks; "" if all have some."""
    told = ["no mask of a training image is read"] * (not train.masked)
    if bare := [domain for domain, source in tests.items() if not source.masked]:
        told.append(f"{NO_MASKS} of the tested images of {some(bare)}: not measured")
    return "; ".join(told)


def parts_of(data: MaskData, dataset: MaskDataset, reads: str = "the run") -> list[Part]:
    """Return what a run needs: train of each source, then what is tested, the source first.

    With `evaluate="val"` that is the first source's val split alone. ConfigError for a domain that
    is not there, or has no such split, or no masks that `reads` (of `open_data`) trains on.
    """
    for domain in (*data.sources, *data.targets):
        check_domain(dataset, domain)
    for domain in data.sources if reads else ():
        there = dataset.splits_of(domain)
        if "train" in there and not dataset.source(domain, "train").masked:
            told = f"{reads} trains on masks, and the training images of {domain!r} have none"
            raise ConfigError(f"{told}; add them, or train on labels=teacher alone, as MaskCLIP+.")
    if data.evaluate == "val":
        domain = check_domain(dataset, data.sources[0])
        there = dataset.splits_of(domain)
        if missing := {"val", "test"}.difference(_masked(dataset, domain, there)):
            told = f"data.evaluate=val needs val and test images with masks, and domain {domain!r}"
            more = "; val is what a run tests there" if missing == {"test"} else ""
            told = f"{told} of {dataset.name} has no {' and no '.join(sorted(missing))}"
            raise ConfigError(f"{told}{more}; leave data.evaluate out.")
        return [*((domain, "train") for domain in data.sources), (domain, "val")]
    found = [(domain, "train") for domain in data.sources]
    for domain in (data.sources[0], *targets_of(data, dataset)):
        if not (split := tested_split(dataset, domain)):
            told = f"domain {domain!r} of {dataset.name} has no val or test images with masks"
            raise ConfigError(f"{told}; take others.")
        found.append((domain, split))
    return found


def targets_of(data: MaskData, dataset: MaskDataset) -> tuple[str, ...]:
    """Return the targets that a run with `evaluate="test"` tests."""
    others = [domain for domain in dataset.domains if domain not in data.sources]
    return data.targets or tuple(d for d in others if tested_split(dataset, d))


def tested_split(dataset: MaskDataset, domain: str) -> str:
    """Return the split that a run tests: test, or val where test has no masks; "" for neither.

    Where neither has masks it is the first that is there: answered, and not measured.
    """
    there = [split for split in ("test", "val") if split in dataset.splits_of(domain)]
    return next(iter(_masked(dataset, domain, there) or there), "")


def _masked(dataset: MaskDataset, domain: str, splits: Sequence[str]) -> list[str]:
    """Return those of a domain's splits whose images have masks."""
    return [split for split in splits if dataset.source(domain, split).masked]
