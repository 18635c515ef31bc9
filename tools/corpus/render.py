"""From SVG or WebP to a framed 64 x 64 picture.

Framing is the embedded dataset's own rule: cropped to the content, longest side about 90 % of
the canvas, centred. SVGs are rendered twice, small to find the content and then at the final
size, because scaling a raster would blur thin lines.
"""

from __future__ import annotations

import functools
import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 64
CONTENT = 58  # pixels of the longest side: 90 % of 64
PROBE = 40  # size of the first rendering, which only finds the content: time goes by area
FAINT = 8  # alpha that still counts as empty
# A paint other than the icon's one colour: only then do the colours have to be looked at.
_OTHER_PAINT = re.compile(r"(?:fill|stroke|color)=\"(?!none|currentColor|#000\b)|style|<image|<use")


class Drawing(NamedTuple):
    """What is to be rendered: an SVG body with its view box, or a bitmap file's bytes."""

    body: str | bytes
    box: tuple[float, float, float, float] = (0, 0, 24, 24)  # left, top, width, height
    colour: bool = False  # keep the colours even where the drawing is black only


class Picture(NamedTuple):
    """A rendered drawing."""

    kind: str  # 'mask' or 'rgba'
    pixels: np.ndarray  # uint8 [64, 64] coverage or [64, 64, 4] straight RGBA


@functools.cache
def _resvg():
    try:
        import resvg_py
    except ImportError as error:
        raise RuntimeError(
            'The SVG renderer resvg-py is missing; run `pip install -e ".[tools]"`.'
        ) from error
    return resvg_py


def _rasterise(body: str, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """Straight RGBA uint8 [size, size, 4] of the square view box `box`."""
    left, top, width, height = box
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left:.4f} {top:.4f} {width:.4f} {height:.4f}" width="{size}" '
        f'height="{size}" color="#000">{body}</svg>'
    )
    png = _resvg().svg_to_bytes(svg_string=svg, skip_system_fonts=True, width=size, height=size)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


def content_box(alpha: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (exclusive) of what is visible, or None."""
    seen = alpha > FAINT
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _square(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Smallest square with the same centre as a box (left, top, width, height)."""
    left, top, width, height = box
    side = max(width, height)
    return left + (width - side) / 2, top + (height - side) / 2, side, side


def render_svg(body: str, box: tuple[float, float, float, float]) -> np.ndarray | None:
    """Framed RGBA uint8 [64, 64, 4] of an SVG body, or None where nothing is visible."""
    square = _square(box)
    found = content_box(_rasterise(body, square, PROBE)[..., 3])
    if found is None:
        return None
    unit = square[2] / PROBE
    x0, y0, x1, y1 = found
    tight = (square[0] + x0 * unit, square[1] + y0 * unit, (x1 - x0) * unit, (y1 - y0) * unit)
    left, top, side, _ = _square(tight)
    grown = side * SIZE / CONTENT
    margin = (grown - side) / 2
    return _rasterise(body, (left - margin, top - margin, grown, grown), SIZE)


def render_bitmap(data: bytes) -> np.ndarray | None:
    """Framed RGBA uint8 [64, 64, 4] of an image file, or None where nothing is visible."""
    with Image.open(io.BytesIO(data)) as image:
        image = image.convert("RGBA")
    found = content_box(np.asarray(image)[..., 3])
    if found is None:
        return None
    image = image.crop(found)
    scale = CONTENT / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # Resizing in premultiplied form keeps the colour of transparent pixels out of the edges.
    small = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    canvas.paste(small, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return np.asarray(canvas)


def _coverage(rgba: np.ndarray) -> np.ndarray | None:
    """Coverage [64, 64] of a drawing without colours, or None where it has colours.

    White parts of a black drawing (cut-outs painted white) count as not covered.
    """
    red, green, blue = (rgba[..., channel] for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    darkest = np.minimum(np.minimum(red, green), blue)
    if ((brightest - darkest)[rgba[..., 3] > 64] > 24).any():
        return None
    darkness = (255 - brightest).astype(np.uint16)
    cover = (rgba[..., 3].astype(np.uint16) * darkness + 127) // 255
    return cover.astype(np.uint8)


def draw(drawing: Drawing) -> Picture | None:
    """Renders one drawing; None where it is empty or cannot be rendered."""
    try:
        if isinstance(drawing.body, bytes):
            rgba = render_bitmap(drawing.body)
        else:
            rgba = render_svg(drawing.body, drawing.box)
    except ValueError:  # resvg's word for an SVG it cannot parse
        return None
    if rgba is None:
        return None
    kind, pixels = "rgba", rgba
    if not drawing.colour:
        plain = isinstance(drawing.body, str) and not _OTHER_PAINT.search(drawing.body)
        cover = rgba[..., 3] if plain else _coverage(rgba)
        if cover is not None:
            if cover.max() < 128 or (cover > 128).mean() < 0.004:
                return None
            kind, pixels = "mask", cover
    return Picture(kind, pixels)


def draw_many(drawings: list[Drawing]) -> list[Picture | None]:
    """Renders a chunk of drawings; the unit of work of a worker process."""
    return [draw(drawing) for drawing in drawings]
