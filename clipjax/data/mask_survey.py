"""Reads all masks of a source once: shares of classes, sizes, and what does not fit."""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.adapt.pixels import IGNORED
from clipjax.data.loading.workers import load_ahead
from clipjax.data.masks import LabelFault, MaskSource, MixedMasks, SizeFault
from clipjax.errors import ChangedError, DataError
from clipjax.io.texts import counted
from clipjax.log.bars import Bar

# Kinds of faults and what they are called; the first two end a run.
SIZE, LABEL, UNREADABLE = "size", "label", "unreadable"
KINDS = {SIZE: "masks of another size", LABEL: "labels beyond the table", UNREADABLE: "unreadable"}
_CHUNK = 8  # images that a thread takes at a time


class Fault(NamedTuple):
    """An image that cannot be used."""

    row: int
    kind: str  # of `KINDS`
    told: str  # a sentence


class Survey(NamedTuple):
    """What a source holds."""

    images: int  # with masks, or all if none has one
    # int64 [K + 1] of each class, those ignored last; without faulty images, 0 without masks.
    pixels: np.ndarray
    sizes: Mapping[tuple[int, int], int]  # height and width -> images
    faults: tuple[Fault, ...]
    missing: tuple[str, ...]  # images without a mask
    masked: bool = True  # whether it has masks; else images were read alone

    @property
    def shares(self) -> np.ndarray:
        """Return each class's share of the labelled pixels, float64 [K].

        ValueError: it has no masks.
        """
        if not self.masked:
            raise ValueError("images without masks have no shares of classes.")
        return self.pixels[:-1] / max(self.pixels[:-1].sum(), 1)

    @property
    def ignored(self) -> float:
        """Return the share of pixels that are ignored."""
        return float(self.pixels[-1] / max(self.pixels.sum(), 1))

    @property
    def without(self) -> int:
        """Return how many images have no mask."""
        return len(self.missing) + (0 if self.masked else self.images)

    @property
    def usable(self) -> np.ndarray:
        """Return which images can be used, bool [N]."""
        kept = np.ones(self.images, bool)
        kept[[fault.row for fault in self.faults]] = False
        return kept


def survey(source: MaskSource, *, workers: int = 0, say=None) -> Survey:
    """Read every image, and mask; files that change meanwhile end it with their ChangedError."""
    classes = len(source.classes)
    pixels, sizes, faults = np.zeros(IGNORED + 1, np.int64), collections.Counter(), []
    chunks = [range(i, min(i + _CHUNK, len(source))) for i in range(0, len(source), _CHUNK)]
    load = lambda chunk: [_looked(source, row) for row in chunk]
    what = "masks" if source.masked else "images"
    with Bar(len(source), f"read {what} of {source.domain}", "image", say=say) as bar:
        for looks in load_ahead(load, 0, len(chunks), workers=workers, prepare=chunks.__getitem__):
            for found in looks:
                if isinstance(found, Fault):
                    faults.append(found)
                else:
                    sizes[found[0]] += 1
                    pixels += found[1]
            bar.update(len(looks))
    counts = np.append(pixels[:classes], pixels[IGNORED])
    left_out = tuple(faults), tuple(source.missing)
    return Survey(len(source), counts, dict(sizes), *left_out, source.masked)


def _looked(source: MaskSource, row: int) -> Fault | tuple[tuple[int, int], np.ndarray | int]:
    try:
        mask = source[row].mask
    except ChangedError:
        raise
    except DataError as error:
        kinds = {SizeFault: SIZE, LabelFault: LABEL}
        return Fault(row, kinds.get(type(error), UNREADABLE), str(error))
    counts = np.bincount(mask.ravel(), minlength=IGNORED + 1) if source.masked else 0
    return mask.shape, counts


def check_surveys(found: Sequence[tuple[MixedMasks, Survey]], most: float) -> str:
    """Return a sentence on the images that are left out, "" for none.

    DataError: a mask of another size or with labels beyond the table, or a share above `most`
    (`data.max_unreadable`) of images that have no mask or cannot be read.
    """
    faults = [fault for _, each in found for fault in each.faults]
    for kind in (SIZE, LABEL):
        if wrong := [fault.told for fault in faults if fault.kind == kind]:
            more = (
                f" {counted(len(wrong) - 1, 'other image has', 'other images have')} such a mask."
            )
            raise DataError(f"{wrong[0]}{more if len(wrong) > 1 else ''}")
    sources = {repr(s): s for mixture, _ in found for s in mixture.sources}
    bare = [name for source in sources.values() for name in source.missing]
    lost = [fault.told.rstrip(".") for fault in faults]
    if not bare and not lost:
        return ""
    images = sum(map(len, sources.values())) + len(bare)
    told = [f"{counted(len(bare), 'image')} without a mask ({_first(bare)})"] * bool(bare)
    told += [f"{counted(len(lost), 'image')} that cannot be read ({_first(lost)})"] * bool(lost)
    if len(bare) + len(lost) > most * images:
        raise DataError(
            f"{len(bare) + len(lost)} of {images} images cannot be used, more than "
            f"data.max_unreadable={most} allows: {' and '.join(told)}. Complete or remove them."
        )
    return f"{len(bare) + len(lost)} of {images} images are left out: {' and '.join(told)}."


def _first(texts: Sequence[str]) -> str:
    """Join the first few, whole: what matters of a path stands at its end."""
    return "; ".join([*texts[:3], *["..."] * (len(texts) > 3)])
