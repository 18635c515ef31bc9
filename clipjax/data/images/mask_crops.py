"""Images and masks changed together, for training: scaled, cropped, mirrored."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clipjax.adapt.pixels import IGNORED

FILL = (124, 116, 104)  # ImageNet's mean: what a model's normalisation makes nearly 0
TRIES = 10  # crops drawn until one is varied enough
Pair = tuple[np.ndarray, np.ndarray]  # uint8 [H, W, 3] and [H, W]


@dataclasses.dataclass(frozen=True)
class Crops:
    """What may be changed; by default nothing is."""

    size: tuple[int, int] | None = None  # height and width of a crop; None for whole images
    scale: tuple[float, float] = (1.0, 1.0)  # range of the factor on both sides, drawn evenly
    mirror: bool = False  # left and right, of every second image
    # The most that one class may have of a crop's labelled pixels; others are drawn anew.
    cat_max_ratio: float = 1.0

    @property
    def changes(self) -> bool:
        """Return whether two draws may differ."""
        return self.size is not None or self.scale != (1.0, 1.0) or self.mirror


def crop_together(image: np.ndarray, mask: np.ndarray, crops: Crops, seed: Sequence[int]) -> Pair:
    """Scale, crop and mirror an image and its mask alike: a pure function of all arguments.

    Args:
      image: uint8 [H, W, 3].
      mask: uint8 [H, W].
      crops: what may be changed.
      seed: whole numbers, such as seed, step and place in the batch.

    Images are scaled bilinearly, with Pillow's filter that widens where it shrinks; masks take the
    nearest pixel. What lies beyond an image is `FILL`, and ignored in the mask. Crops are drawn up
    to ten times until no class has `cat_max_ratio` of what is labelled, as mmseg does.
    """
    rng = np.random.default_rng(tuple(seed))
    factor = rng.uniform(*crops.scale)
    if factor != 1:
        size = tuple(max(1, round(side * factor)) for side in mask.shape)
        image, mask = resized(image, size), resized(mask, size)
    if crops.size is not None:
        image, mask = _padded(image, mask, crops.size)
        top, left = _place(mask, crops, rng)
        part = slice(top, top + crops.size[0]), slice(left, left + crops.size[1])
        image, mask = image[part], mask[part]
    if crops.mirror and rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image [H, W, 3] bilinearly, or a mask [H, W] to its nearest pixels, both uint8."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    how = Image.Resampling.BILINEAR if pixels.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize(tuple(size)[::-1], how))


def _padded(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> Pair:
    """Widen to the right and below to at least a size."""
    more = [(0, max(0, wanted - side)) for wanted, side in zip(size, mask.shape, strict=True)]
    if not any(after for _, after in more):
        return image, mask
    wide = [np.pad(image[..., k], more, constant_values=FILL[k]) for k in range(3)]
    return np.stack(wide, axis=2), np.pad(mask, more, constant_values=IGNORED)


def _place(mask: np.ndarray, crops: Crops, rng: np.random.Generator) -> tuple[int, int]:
    """Draw the upper left corner of a crop."""
    height, width = crops.size
    for _ in range(TRIES if crops.cat_max_ratio < 1 else 1):
        top = int(rng.integers(mask.shape[0] - height + 1))
        left = int(rng.integers(mask.shape[1] - width + 1))
        if crops.cat_max_ratio < 1:
            part = mask[top : top + height, left : left + width]
            counts = np.bincount(part.ravel(), minlength=IGNORED + 1)[:IGNORED]
            if counts.max() < crops.cat_max_ratio * counts.sum():
                break
    return top, left
