"""Drawings as 64 x 64 RGB images on white, framed alike in every domain, and what they cover."""

import io
from typing import NamedTuple

import numpy as np
import resvg_py
from PIL import Image

from .sources import (
    DOMAIN_PACKAGES,
    FONT_FILE,
    Archive,
    BuildError,
    FontGlyphs,
    IconifySet,
    WebpFolder,
    plain_code,
)

SIZE = 64  # pixels, both sides
FILL = 0.9  # the longer side of the drawing as a fraction of the canvas
PROBE = 256  # pixels, the render on which the drawing's extent is measured
ALPHA_MIN = 13  # of 255: fainter pixels (soft shadows' fringes) do not count as drawing
WEBP_QUALITY = 90  # for the 3D renders, whose gradients lossless coding stores badly


def _extent(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Bounding box (x0, y0, x1, y1, half open, pixels) of the visible part of an alpha plane."""
    rows = np.flatnonzero((alpha >= ALPHA_MIN).any(axis=1))
    cols = np.flatnonzero((alpha >= ALPHA_MIN).any(axis=0))
    if not len(rows):
        raise BuildError("a drawing is empty; the package does not hold what the tool expects.")
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def _square(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float]:
    """Left, top and side of the centred square in which the box's longer side fills ``FILL``."""
    side = max(x1 - x0, y1 - y0) / FILL
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side


class Drawing(NamedTuple):
    """A framed drawing."""

    image: Image.Image  # RGB, on white
    alpha: Image.Image  # L, how much of each pixel it covers


def _on_white(image: Image.Image) -> Drawing:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    image = image.convert("RGBA")
    return Drawing(Image.alpha_composite(white, image).convert("RGB"), image.getchannel("A"))


def _rasterise(body: str, view: tuple[float, float, float, float], width: int, height: int):
    """Render SVG elements through a view box (x, y, width, height) to an RGBA image."""
    box = " ".join(f"{value:.4f}" for value in view)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" '  # the name of a namespace, never fetched
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{width}" height="{height}">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def draw_svg(body: str, width: float, height: float) -> Drawing:
    """Render an SVG body of the given size, framed to its visible extent."""
    # The inner <svg> clips at the original view box, so that the re-framed view cannot show
    # parts that the artist left outside of it.
    inner = (
        f'<svg x="0" y="0" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" color="#000000">{body}</svg>'
    )
    scale = PROBE / max(width, height)
    probe = _rasterise(inner, (0, 0, width, height), round(width * scale), round(height * scale))
    box = [value / scale for value in _extent(np.asarray(probe)[..., 3])]
    left, top, side = _square(*box)
    return _on_white(_rasterise(inner, (left, top, side, side), SIZE, SIZE))


def draw_glyph(path: str, bounds: tuple[float, float, float, float]) -> Drawing:
    """Render a font outline (y axis up) in black, framed to its bounding box."""
    x0, y0, x1, y1 = bounds
    left, top, side = _square(x0, -y1, x1, -y0)
    body = f'<g transform="scale(1 -1)"><path d="{path}"/></g>'
    return _on_white(_rasterise(body, (left, top, side, side), SIZE, SIZE))


def draw_bitmap(data: bytes) -> Drawing:
    """Scale a stored transparent bitmap, framed to its visible extent."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    left, top, side = _square(*_extent(np.asarray(image)[..., 3]))
    # Composite before scaling: colours under transparent pixels must not bleed into the edge.
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
    opaque = Image.alpha_composite(canvas, image).convert("RGB")
    margin = image.width  # white around the picture, for boxes that reach beyond it
    size = (image.width + 2 * margin, image.height + 2 * margin)
    padded, covered = Image.new("RGB", size, "white"), Image.new("L", size)
    padded.paste(opaque, (margin, margin))
    covered.paste(image.getchannel("A"), (margin, margin))
    box = (left + margin, top + margin, left + margin + side, top + margin + side)
    framed = lambda x: x.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=box)
    return Drawing(framed(padded), framed(covered))


class Artist:
    """Draws any plain code in any of the six domains."""

    def __init__(self, archives: dict[str, Archive]):
        self._sources: dict[str, IconifySet | WebpFolder | FontGlyphs] = {}
        for domain, package in DOMAIN_PACKAGES.items():
            archive = archives[package.name]
            if domain == "render":
                self._sources[domain] = WebpFolder(archive)
            elif domain == "sketch":
                self._sources[domain] = FontGlyphs(archive.read(FONT_FILE))
            else:
                self._sources[domain] = IconifySet(archive)

    def has(self, hexcode: str) -> bool:
        """Whether all six domains draw the emoji."""
        code = plain_code(hexcode)
        return all(
            source.has(code) if isinstance(source, FontGlyphs) else code in source.codes()
            for source in self._sources.values()
        )

    def draw(self, domain: str, hexcode: str) -> Drawing:
        """The framed 64 x 64 drawing of an emoji in one domain."""
        source, code = self._sources[domain], plain_code(hexcode)
        try:
            if isinstance(source, WebpFolder):
                return draw_bitmap(source.webp(code))
            if isinstance(source, FontGlyphs):
                return draw_glyph(*source.path(code))
            return draw_svg(*source.svg(code))
        except (BuildError, ValueError) as error:
            raise BuildError(f"{domain} drawing of {hexcode}: {error}") from error


def encode(image: Image.Image, domain: str) -> bytes:
    """The WebP file of a drawing: lossless, but for the renders at quality 90."""
    out = io.BytesIO()
    if domain == "render":
        image.save(out, "WEBP", quality=WEBP_QUALITY, method=6)
    else:
        # Effort 100 would take fifteen times as long and save 3 % of the bytes.
        image.save(out, "WEBP", lossless=True, quality=80, method=6)
    return out.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Pixels of a WebP file: uint8 array [64, 64, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def contact_sheet(rows: list[dict], images: dict[tuple[str, str], bytes]) -> Image.Image:
    """Forty evenly spaced identities, two blocks of twenty rows, one column per domain."""
    count, gap, per_column = 40, 4, 20
    cell, width = SIZE + gap, (SIZE + gap) * len(DOMAIN_PACKAGES) + 24
    picks = [rows[i * len(rows) // count] for i in range(count)]
    sheet = Image.new("RGB", (2 * width, per_column * cell), "#d0d0d0")
    for k, row in enumerate(picks):
        left, top = k // per_column * width, k % per_column * cell
        for column, domain in enumerate(DOMAIN_PACKAGES):
            tile = Image.fromarray(decode(images[domain, row["identity"]]))
            sheet.paste(tile, (left + column * cell, top))
    return sheet
