"""What charts are drawn from: escaped text, ticks, axes, legends; all of it SVG text.

Colours are CSS classes (`c0` .. `c7`, `good`, `bad`, ...) that the page's style sheet defines for
light and dark; tooltips are <title> elements, which browsers show on hover and screen readers say.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COLOURS = 8  # of the style sheet; a ninth series starts over, with dashes
WIDTH = 360
# What XML forbids even escaped, and halves of surrogate pairs, as undecodable file names have.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Bar(NamedTuple):
    """One horizontal bar; `low` and `high` end its whisker, `note` is said on hover."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    colour: str = "c0"  # class of the style sheet


def escape(text: object) -> str:
    """Any text as XML content or attribute value.

    >>> escape('<a & "b">\\x00')
    '&lt;a &amp; &quot;b&quot;&gt;\ufffd'
    """
    return html.escape(_ILLEGAL.sub("\ufffd", str(text)))


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last an ellipsis where some are missing."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def width(text: str) -> float:
    """About how wide text is at the charts' 11 px, in a wide font: there is none to ask."""
    return sum(3.9 if c in "fijlrt.,:'()| " else 10.5 if c in "mwMW@%" else 7.2 for c in text)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) in [low, high].

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
    digits = max(0, 1 - math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number for people: four significant digits, no empty exponent.

    >>> [number(v) for v in (0.30000001, 1e-05, 20.0, 2500000.0)]
    ['0.3', '1e-5', '20', '2.5e6']
    """
    return re.sub(r"e([+-])0*(\d)", lambda m: "e" + m[1].strip("+") + m[2], f"{value:.4g}")


def colour(index: int) -> str:
    """The class of a series: a colour, and dashes once the colours are used up."""
    return f"c{index % COLOURS}" + (" dashed" if index // COLOURS % 2 else "")


def figure(title: str, height: float, body: str) -> str:
    """A drawing with its visible heading and the same words for screen readers."""
    name = escape(title)
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height:g}" aria-label="{name}">'
        f"<title>{name}</title>"
        f'<text class="heading" x="0" y="13">{escape(shorten(title, 54))}</text>{body}</svg>'
    )


def label(x: float, y: float, words: str, kind: str = "tick", anchor: str = "start") -> str:
    """Text at a point; `anchor` says which end of it is there."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def legend(names: Sequence[str], marks: Sequence[str], top: float) -> tuple[str, float]:
    """A row, or as many as it takes, of marks with names; and where the last row ends.

    `marks` are SVG drawn around (0, 0).
    """
    x, y, parts = 0.0, top, []
    for name, mark in zip(names, marks, strict=True):
        name = shorten(name, 40)
        room = 25 + width(name)
        if x and x + room > WIDTH:
            x, y = 0.0, y + 15
        parts.append(f'<g transform="translate({x + 6:g} {y - 4:g})">{mark}</g>')
        parts.append(label(x + 15, y, name, "key"))
        x += room
    return "".join(parts), y


class Axes(NamedTuple):
    """A rectangle of the drawing and the range of numbers it shows."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is drawn."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(self.left + across * (self.right - self.left), 1),
            round(self.bottom - up * (self.bottom - self.top), 1),
        )

    def grid(self, x_label: str, y_label: str) -> str:
        """Grid lines with their numbers, and what the axes are."""
        parts = []
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            parts.append(f'<path class="grid" d="M{self.left:g} {y:g}H{self.right:g}"/>')
            parts.append(label(self.left - 5, y + 4, number(value), anchor="end"))
        for value in ticks(*self.x, 6):
            if value == int(value) or self.x[1] - self.x[0] < 2:
                x, _ = self.at(value, self.y[0])
                parts.append(label(x, self.bottom + 14, number(value), anchor="middle"))
        parts.append(label(self.right, self.bottom + 27, x_label, anchor="end"))
        parts.append(label(0, self.top - 8, y_label))
        return "".join(parts)


def spread(values: Sequence[float], pad: float = 0.0) -> tuple[float, float]:
    """The range of the finite values, a little wider; never empty."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        # A flat line, or a single point: some room around it, so that axes have two ends.
        room = 0.5 * abs(low) or 0.5
        return low - room, high + room
    return low - pad * (high - low), high + pad * (high - low)
