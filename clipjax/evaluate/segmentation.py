"""Segmentation measured by one exact confusion matrix: IoU of classes, their mean, what is kept."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from clipjax.adapt.pixels import IGNORED
from clipjax.errors import DataError


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by true and predicted class, int64 [K, K]; those labelled `IGNORED` leave first.

    Args:
      labels: whole numbers [...], from 0 to K - 1 or `IGNORED`.
      predicted: whole numbers from 0 to K - 1, of the same shape.
      classes: K.

    Matrices of images add up to that of a split, exactly: float32, and int32 on Cityscapes' 6.2
    billion pixels, would not. DataError: shapes that differ, or a label beyond the classes.

    >>> confusion(np.array([0, 1, 1, 255]), np.array([0, 1, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    if labels.shape != predicted.shape:
        told = f"a mask of shape {labels.shape} and an answer of shape {predicted.shape}"
        raise DataError(f"{told} differ in size; resize the logits to the mask.")
    kept = labels != IGNORED
    truth, answer = labels[kept].astype(np.int64), predicted[kept].astype(np.int64)
    for what, found in (("label", truth), ("answer", answer)):
        if found.size and not 0 <= found.min() <= found.max() < classes:
            wrong = found.max() if found.max() >= classes else found.min()
            told = f"{what} {wrong} is beyond the table of {classes} classes"
            raise DataError(f"{told}; name it there, or map it to {IGNORED}, which is ignored.")
    return np.bincount(truth * classes + answer, minlength=classes**2).reshape(classes, classes)


class Overlap(NamedTuple):
    """What a confusion matrix says."""

    iou: np.ndarray  # float64 [K], NaN where a class is neither there nor answered
    miou: float  # mean of those that are not NaN
    foreground: float  # as `miou`, without class 0; NaN where there is no other
    accuracy: float  # share of right pixels


def overlap(matrix: np.ndarray) -> Overlap:
    """Compute intersection over union of a confusion matrix [K, K], as Cityscapes' and mmseg do.

    Classes that are neither in the labels nor in the answers are left out of the mean; a mean of
    images' own IoUs is another measure.

    >>> found = overlap(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]]))
    >>> found.iou.tolist(), found.miou, found.foreground
    ([0.5, 0.5, nan], 0.5, 0.5)
    """
    right = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - right
    iou = np.divide(right, union, out=np.full(len(matrix), np.nan), where=union > 0)
    mean = lambda values: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    total = matrix.sum()
    accuracy = float(right.sum() / total) if total else float("nan")
    return Overlap(iou, mean(iou), mean(iou[1:]), accuracy)


class Kept(NamedTuple):
    """How much of the source's mIoU a target keeps; the ratio never stands alone."""

    source: float
    target: float
    percent: float  # 100 * target / source


def kept(source: Overlap, target: Overlap) -> Kept:
    """Compute mIoU% of a target.

    >>> even = Overlap(np.array([0.5]), 0.5, 0.5, 0.5)
    >>> kept(even, even._replace(miou=0.2)).percent
    40.0
    """
    return Kept(source.miou, target.miou, 100 * target.miou / source.miou)


def windows(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Yield the upper left corners of windows that cover an image, the last pushed back inside.

    mmseg's grid. DataError for windows larger than the image, or strides that leave gaps.

    >>> list(windows((4, 7), (4, 4), (2, 2)))
    [(0, 0), (0, 2), (0, 3)]
    """
    for what, length, part, step in zip(("high", "wide"), size, window, stride, strict=True):
        if part > length:
            told = f"windows {part} pixels {what} are larger than an image of {length}"
            raise DataError(f"{told}; take smaller ones, or the whole image.")
        if not 0 < step <= part:
            raise DataError(f"a stride of {step} leaves gaps between windows of {part} pixels.")
    steps = [
        -(-(length - part) // step) + 1
        for length, part, step in zip(size, window, stride, strict=True)
    ]
    for row in range(steps[0]):
        for column in range(steps[1]):
            yield (
                min(row * stride[0], size[0] - window[0]),
                min(column * stride[1], size[1] - window[1]),
            )


def slide(
    answer: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch: int = 8,
) -> np.ndarray:
    """Average logits of windows where they overlap, [H, W, C] -> float32 [..., H, W, K].

    Args:
      answer: windows [batch, h, w, C] -> logits [..., batch, h, w, K].
      image: [H, W, C].
      window: height and width.
      stride: down and across.
      batch: windows answered at a time; the last are filled up with others.
    """
    places = list(windows(image.shape[:2], window, stride))
    total, count = None, np.zeros((*image.shape[:2], 1), np.float32)
    cut = lambda top, left: (slice(top, top + window[0]), slice(left, left + window[1]))
    for first in range(0, len(places), batch):
        part = places[first : first + batch]
        filled = part + part[:1] * (batch - len(part))  # one shape
        seen = np.asarray(answer(np.stack([image[cut(*place)] for place in filled])), np.float32)
        if total is None:
            total = np.zeros((*seen.shape[:-4], *image.shape[:2], seen.shape[-1]), np.float32)
        for number, place in enumerate(part):
            total[..., *cut(*place), :] += seen[..., number, :, :, :]
            count[cut(*place)] += 1
    return total / count


def enlarged(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize logits [..., h, w, K] bilinearly to a mask's size, half-pixel, borders clamped.

    As `clipjax.model.decoders.resize_map`, for sizes of which there are too many to compile.
    """
    down, across = map(_weights, logits.shape[-3:-1], size)
    return np.einsum("hi,...ijk,wj->...hwk", down, logits, across, optimize=True)


def _weights(length: int, wanted: int) -> np.ndarray:
    """Return the weights of linear interpolation, float32 [wanted, length]."""
    place = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
    low = np.minimum(place.astype(int), max(length - 2, 0))
    found, line = np.zeros((wanted, length), np.float32), np.arange(wanted)
    found[line, low] = 1 - (place - low)
    found[line, np.minimum(low + 1, length - 1)] += place - low
    return found
