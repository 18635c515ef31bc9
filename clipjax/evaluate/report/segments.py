"""Pictures of segmentations for pages: images, masks and answers below each other."""

import base64
import io
from collections.abc import Sequence

import numpy as np

from clipjax.data.images.mask_crops import resized

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


def legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and colour of classes.

    >>> legend(["background", "person"])
    [('background', '#000000'), ('person', '#e69f00')]
    """
    of = zip(classes, colours(len(classes)), strict=True)
    return [(name, "#" + bytes(colour).hex()) for name, colour in of]


def strip(images: Sequence[np.ndarray], *layers: Sequence[np.ndarray], most: int = 256) -> str:
    """Draw a picture with a column for each image: it, and its mask of each layer; a data URI.

    Each column has its image's shape, at most so many pixels a side.
    """
    columns = []
    for image, *painting in zip(images, *layers, strict=True):
        size = _within(image, most)
        parts = [image, *(painted(resized(x.astype(np.uint8), size)) for x in painting)]
        columns.append([resized(x, size) for x in parts])
    return _beside(columns)


def overlays(pairs: Sequence[tuple[np.ndarray, np.ndarray]], most: int = 256) -> str:
    """Draw a picture with a column for each image: it, and its mask over it; a data URI."""
    columns = []
    for image, mask in pairs:
        size = _within(image, most)
        image, mask = resized(image, size), painted(resized(mask, size))
        columns.append([image, image // 2 + mask // 2])
    return _beside(columns)


def _within(image: np.ndarray, most: int) -> tuple[int, int]:
    """Return height and width of an image, reduced to so many pixels a side."""
    shrink = min(1.0, most / max(image.shape[:2]))
    return tuple(max(1, round(side * shrink)) for side in image.shape[:2])


def _beside(columns: Sequence[Sequence[np.ndarray]]) -> str:
    """Put columns of pictures side by side, of any heights."""
    joined = [np.concatenate([_framed(x) for x in column]) for column in columns]
    high = max(map(len, joined))
    more = lambda column: ((0, high - len(column)), (0, 0), (0, 0))
    return uri(np.concatenate([np.pad(x, more(x), constant_values=255) for x in joined], axis=1))


def uri(pixels: np.ndarray) -> str:
    """Encode uint8 pixels [H, W, 3] as a data URI of WebP."""
    from PIL import Image

    picture, out = Image.fromarray(pixels), io.BytesIO()
    picture.save(out, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def _framed(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
