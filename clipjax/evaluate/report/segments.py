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


def colours(count: int) -> np.ndarray:
    """Return a colour for each of so many classes, uint8 [N, 3]: `COLOURS`, then turned hues.

    >>> len({tuple(colour) for colour in colours(150).tolist()})
    150
    """
    turns = np.arange(max(count - len(COLOURS), 0))
    hue, level = (turns * 0.618034) % 1, 0.55 + 0.45 * ((turns * 0.7548777) % 1)
    wave = np.clip(np.abs((6 * hue[:, None] + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    more = np.rint(255 * level[:, None] * (0.35 + 0.65 * wave)).astype(np.uint8)
    return np.concatenate([COLOURS, more])[:count]


def painted(mask: np.ndarray) -> np.ndarray:
    """Paint a mask of classes, whole numbers [H, W] -> uint8 [H, W, 3]; 255 is grey.

    >>> painted(np.array([[0, 255]])).tolist()
    [[[0, 0, 0], [128, 128, 128]]]
    """
    known = colours(int(mask[mask != 255].max(initial=0)) + 1)[np.where(mask == 255, 0, mask)]
    return np.where((mask == 255)[..., None], np.uint8(128), known)


def blended(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay a painted mask over an image, both uint8 [H, W, ...], half and half."""
    return (image // 2 + painted(mask) // 2).astype(np.uint8)


def legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and colour of classes.

    >>> legend(["background", "person"])
    [('background', '#000000'), ('person', '#e69f00')]
    """
    hexed = ["#" + bytes(colour).hex() for colour in COLOURS]
    return [(name, hexed[i % len(hexed)]) for i, name in enumerate(classes)]


def strip(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], answers: Sequence[np.ndarray]
) -> str:
    """Draw a picture with a column for each image: it, its mask, its answer; a data URI of WebP."""
    columns = [
        np.concatenate([_framed(x) for x in (image, painted(mask), painted(answer))])
        for image, mask, answer in zip(images, masks, answers, strict=True)
    ]
    return uri(np.concatenate(columns, axis=1))


def uri(pixels: np.ndarray, most: int = 0) -> str:
    """Encode uint8 pixels [H, W, 3] as a data URI of WebP, at most so many pixels a side."""
    from PIL import Image

    picture, out = Image.fromarray(pixels), io.BytesIO()
    if most:
        picture.thumbnail((most, most))
    picture.save(out, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def _framed(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
