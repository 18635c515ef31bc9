"""Contact sheets: some images of each class of a domain, as a picture and for a page."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.evaluate.report.tables import Card, Cards, Picture
from clipjax.evaluate.report.tsne import reduced, thumbnail
from clipjax.io.texts import counted
from clipjax.log import writable

PER_CLASS, CLASSES = 8, 20
_TILE, _GAP, _NAMES, _TITLE = 96, 6, 170, 34  # pixels; the widths of a tile and of the names


class Strip(NamedTuple):
    """A class on a sheet."""

    name: str
    count: int  # images it has where these were drawn from
    images: Sequence[np.ndarray]  # uint8 [H, W, 3]


def choose_classes(num_classes: int, seed: int, limit: int = CLASSES) -> list[int]:
    """Draw at most `limit` classes, ascending; the same for every domain, to compare sheets."""
    return sorted(np.random.default_rng(seed).permutation(num_classes)[:limit].tolist())


def choose_rows(labels: np.ndarray, label: int, seed: int, limit: int = PER_CLASS) -> list[int]:
    """Draw at most `limit` rows of a class, or NO_LABEL, in random order; `labels` is int [N]."""
    rows = np.flatnonzero(np.asarray(labels) == label)
    return np.random.default_rng([seed, label % 2**32]).permutation(rows)[:limit].tolist()


def sheet(title: str, strips: Sequence[Strip], folded: bool = False) -> Cards:
    """Make the sheet for a page: a card for each class, with its images as data URIs."""
    pictures = lambda strip: [Picture(thumbnail(image), strip.name) for image in strip.images]
    cards = [Card(s.name, counted(s.count, "image"), pictures(s)) for s in strips]
    return Cards(title, cards, folded)


def sheet_png(title: str, strips: Sequence[Strip]) -> bytes:
    """Draw the sheet as a PNG file: a line for each class, its name left of its images."""
    from PIL import Image, ImageDraw, ImageFont

    shown = [[reduced(image, _TILE) for image in strip.images] for strip in strips]
    sides = [side for line in shown for picture in line for side in picture.size]
    tile, columns = max([32, *sides]), max([1, *map(len, shown)])
    step = tile + _GAP
    width, height = _NAMES + columns * step + _GAP, _TITLE + len(strips) * step + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    draw.text((10, 8), _cut(title, large, width - 20), font=large, fill="black")
    for i, (strip, line) in enumerate(zip(strips, shown, strict=True)):
        top = _TITLE + i * step
        middle = top + tile // 2
        draw.line((10, top - _GAP // 2, width - 10, top - _GAP // 2), fill="#dddddd")
        draw.text((10, middle - 16), _cut(strip.name, small, _NAMES - 20), font=small, fill="black")
        draw.text((10, middle), counted(strip.count, "image"), font=small, fill="#666666")
        for k, picture in enumerate(line):
            x, y = ((tile - side) // 2 for side in picture.size)
            sheet.paste(picture, (_NAMES + k * step + x, top + y))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _cut(text: str, font, width: float) -> str:
    text = writable(" ".join(text.split()))
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
