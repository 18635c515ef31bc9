"""Pictures of segmentations for pages: images, masks and answers below each other."""

import base64
import io
from collections.abc import Sequence

import numpy as np

# Colours of classes, the first of the background; they are told apart by most colour-blind people
# (Wong 2011, doi 10.1038/nmeth.1618).
COLOURS = np.array(
    [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
     (213, 94, 0), (204, 121, 167)], np.uint8,
)  # fmt: skip
GAP = 2  # pixels


def painted(mask: np.ndarray) -> np.ndarray:
    """Paint a mask of classes, whole numbers [H, W] -> uint8 [H, W, 3]; 255 is grey.

    >>> painted(np.array([[0, 255]])).tolist()
    [[[0, 0, 0], [128, 128, 128]]]
    """
    known = COLOURS[np.where(mask == 255, 0, mask) % len(COLOURS)]
    return np.where((mask == 255)[..., None], np.uint8(128), known)


def strip(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], answers: Sequence[np.ndarray]
) -> str:
    """Draw a picture with a column for each image: it, its mask, its answer; a data URI of WebP."""
    from PIL import Image

    columns = [
        np.concatenate([_framed(x) for x in (image, painted(mask), painted(answer))])
        for image, mask, answer in zip(images, masks, answers, strict=True)
    ]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(columns, axis=1)).save(out, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def _framed(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
