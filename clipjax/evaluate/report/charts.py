"""The charts of a report page: curves with bands, clouds of points, horizontal bars, as SVG text.

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

from clipjax.log import writable

COLOURS = 8  # of the style sheet; a ninth series starts over, with dashes
WIDTH = 360
_POINTS = 80  # of a curve; more of them are neither seen nor hovered
_CLOUD = 280  # height of a map
_GUTTER = 118  # left of bars, for their labels
# What XML forbids even escaped.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


class Bar(NamedTuple):
    """One horizontal bar; `low` and `high` end its whisker, `note` is said on hover."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    colour: str = "c0"  # class of the style sheet


def line_chart(
    title: str,
    series: dict[str, Sequence],
    x_label: str,
    y_label: str,
    *,
    colours: dict[str, str] | None = None,
    y_range: tuple[float | None, float | None] = (None, None),
    guide: tuple[float, str] | None = None,
) -> str:
    """Curves over a common x, as SVG text; "" when there is nothing to draw.

    Args:
      title: heading.
      series: name -> (xs [N], ys [N]) or (xs, ys, low [N], high [N]) with a band around the curve;
        points that are not finite are left out.
      x_label, y_label: what the axes are.
      colours: name -> class of the style sheet; by default in the order of `series`.
      y_range: ends of the vertical axis; None follows the data.
      guide: (y, words), a dashed horizontal line to compare with.
    """
    kept = {name: kept for name, values in series.items() if (kept := _finite(values)) is not None}
    if not kept:
        return ""
    colours = colours or {name: colour(i) for i, name in enumerate(series)}
    key, bottom = _legend(list(kept), [_stroke(colours[name]) for name in kept], 32)
    ys = np.concatenate([v[1:].ravel() for v in kept.values()])
    low, high = spread([*ys, *([guide[0]] if guide else [])], 0.06)
    y = (low if y_range[0] is None else y_range[0], high if y_range[1] is None else y_range[1])
    top = bottom + 26
    x = spread(np.concatenate([v[0] for v in kept.values()]))
    axes = Axes(40, top, WIDTH - 8, top + 140, x, y if y[0] < y[1] else (y[0], y[0] + 1))
    body = key + axes.grid(x_label, y_label)
    body += "".join(_band(axes, v, colours[n]) for n, v in kept.items())
    body += _guide(axes, *guide) if guide else ""
    body += "".join(_curve(axes, n, v, colours[n]) for n, v in kept.items())
    return _figure(title, top + 172, body)


def _finite(values: Sequence) -> np.ndarray | None:
    """(x, y, low, high) [4, N] without gaps, thinned; None if nothing is left."""
    columns = [np.asarray(column, float) for column in values]
    columns = np.stack(columns if len(columns) == 4 else [*columns, columns[1], columns[1]])
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    n = columns.shape[1]
    return columns[:, np.unique(np.linspace(0, n - 1, min(n, _POINTS)).astype(int))] if n else None


def _guide(axes: Axes, y: float, words: str) -> str:
    _, at = axes.at(axes.x[0], y)
    line = f'<path class="guide" d="M{axes.left} {at}H{axes.right}"/>'
    return line + _label(axes.right, at - 4, words, "tick words", "end")


def _stroke(kind: str) -> str:
    return f'<path class="line {kind}" d="M-6 0H6"/>'


def _band(axes: Axes, values: np.ndarray, kind: str) -> str:
    x, _, low, high = values
    if np.array_equal(low, high) or len(x) < 2:
        return ""
    edge = [
        axes.at(*p) for p in [*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)]
    ]
    return f'<path class="band {kind}" d="M{_path(edge)}Z"/>'


def _curve(axes: Axes, name: str, values: np.ndarray, kind: str) -> str:
    places = [axes.at(x, y) for x, y in values[:2].T]
    dots = []
    for (cx, cy), (x, y, low, high) in zip(places, values.T, strict=True):
        words = f"{name}, {number(x)}: {number(y)}"
        words += f" ({number(low)} to {number(high)})" if low < high else ""
        dots.append(f'<circle cx="{cx}" cy="{cy}" r="5"><title>{escape(words)}</title></circle>')
    alone = " alone" if len(places) == 1 else ""
    line = f'<path class="line {kind}" d="M{_path(places)}"/>' if not alone else ""
    return f'{line}<g class="dots {kind}{alone}">{"".join(dots)}</g>'


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:g} {y:g}" for x, y in places)


def scatter(
    title: str,
    points: Sequence,
    groups: Sequence[int],
    names: Sequence[str],
    *,
    shapes: Sequence[int] | None = None,
    shape_names: Sequence[str] = (),
    notes: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
) -> str:
    """A cloud of points without axes (a map whose distances alone mean something); "" of none.

    Args:
      title: heading.
      points: float [N, 2].
      groups: int [N], which of `names` a point belongs to; -1 is drawn faintly, unnamed.
      names: of the groups, for the legend.
      shapes: 0 (disc) or 1 (ring) for each point.
      shape_names: of the two shapes, for the legend.
      notes: what is said on hover, for each point.
      colours: classes of the style sheet for the groups.
    """
    points, groups = np.asarray(points, float).reshape(-1, 2), np.asarray(groups, int)
    if not len(points):
        return ""
    shapes = np.zeros(len(points), int) if shapes is None else np.asarray(shapes, int)
    kinds = list(colours or (colour(i) for i in range(len(names))))
    marks = [_mark(0, 0, f'class="{kind}"') for kind in kinds]
    for shape, _ in enumerate(shape_names):
        marks.append(_mark(0, 0, f'class="other {"ring" if shape else ""}"'))
    key, bottom = _legend([*names, *shape_names], marks, 32)
    top, size = bottom + 12, np.array([WIDTH, _CLOUD])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = ((size - 16) / np.maximum(high - low, 1e-9)).min()
    places = (points - (low + high) / 2) * (scale, -scale) + size / 2 + (0, top)
    body = [key, f'<rect class="frame" y="{top:g}" width="{WIDTH}" height="{_CLOUD}" rx="4"/>']
    for group in (-1, *range(len(names))):  # the faint ones first, below the others
        for shape in (0, 1):
            rows = np.flatnonzero((groups == group) & (shapes == shape))
            kind = f"{kinds[group] if group >= 0 else 'other'}{' ring' if shape else ''}"
            inner = "".join(_mark(*places[i], note=notes[i] if notes else "") for i in rows)
            body.append(f'<g class="cloud {kind}">{inner}</g>' if inner else "")
    return _figure(title, top + _CLOUD + 1, "".join(body))


def _mark(x: float, y: float, more: str = "", note: str = "") -> str:
    inside = f"<title>{escape(note)}</title>" if note else ""
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="3"'
    return f"<circle {place} {more}>{inside}</circle>" if inside or more else f"<circle {place}/>"


def bars(
    title: str, rows: Sequence[Bar], *, unit: str = "", signed: bool = False, digits: int = 1
) -> str:
    """Horizontal bars from zero, in the order given; "" of none.

    Args:
      title: heading.
      rows: what to draw; values that are not finite are left out.
      unit: follows the numbers, as in " %".
      signed: write a plus before positive values, as changes need.
      digits: behind the point.
    """
    rows = [row for row in rows if np.isfinite(row.value)]
    if not rows:
        return ""
    ends = [v for r in rows for v in (r.value, r.low, r.high) if v is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    if low == high:
        high = 1.0
    # Room for the numbers, which stand outside of the bars.
    left = _GUTTER + (42 if low < 0 else 4)
    axes = Axes(left, 26, WIDTH - 46, 26 + 17 * len(rows), (low, high), (0, len(rows)))
    zero, _ = axes.at(0, 0)
    body = [f'<path class="axis" d="M{zero} {axes.top}V{axes.bottom}"/>']
    write = f"{'+' if signed else ''}.{digits}f"
    body += [_bar(axes, i, row, write, unit) for i, row in enumerate(rows)]
    return _figure(title, axes.bottom + 6, "".join(body))


def _bar(axes: Axes, index: int, row: Bar, write: str, unit: str) -> str:
    zero, _ = axes.at(0, 0)
    end, _ = axes.at(row.value, 0)
    y = axes.top + 17 * index
    value = f"{row.value:{write}}".replace("-", "−") if row.value else "0"
    words = f"{row.label}: {value}{unit}" + (f", {row.note}" if row.note else "")
    x, width = min(zero, end), max(abs(end - zero), 0.8)
    body = _label(_GUTTER - 2, y + 12, _shorten(row.label, 19), "name", "end")
    body += f'<rect class="{row.colour}" x="{x:g}" y="{y + 3}" width="{width:.1f}" height="11"/>'
    tip = end
    if row.low is not None and row.high is not None and row.low < row.high:
        one, two = axes.at(row.low, 0)[0], axes.at(row.high, 0)[0]
        body += f'<path class="whisker" d="M{one} {y + 8.5}H{two}"/>'
        tip = two if row.value >= 0 else one
    side = "start" if row.value >= 0 else "end"
    body += _label(tip + (4 if side == "start" else -4), y + 12, value, "tick", side)
    return f"<g><title>{escape(words)}</title>{body}</g>"


def legal(text: str) -> str:
    """The text with what no page can hold as what one can: halves of pairs, control characters.

    >>> legal("photo-\\udcff\\x00")
    'photo-\\\\udcff\ufffd'
    """
    return _ILLEGAL.sub("\ufffd", writable(text))


def escape(text: object) -> str:
    """Any text as XML content or attribute value.

    >>> escape('<a & "b">\\x00')
    '&lt;a &amp; &quot;b&quot;&gt;\ufffd'
    """
    return html.escape(legal(str(text)))


def _shorten(text: str, length: int) -> str:
    """At most `length` characters, the last an ellipsis where some are missing."""
    text = legal(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _width(text: str) -> float:
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


def _figure(title: str, height: float, body: str) -> str:
    """A drawing with its visible heading and the same words for screen readers."""
    name = escape(title)
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height:g}" aria-label="{name}">'
        f"<title>{name}</title>"
        f'<text class="heading" x="0" y="13">{escape(_shorten(title, 54))}</text>{body}</svg>'
    )


def _label(x: float, y: float, words: str, kind: str = "tick", anchor: str = "start") -> str:
    """Text at a point; `anchor` says which end of it is there."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _legend(names: Sequence[str], marks: Sequence[str], top: float) -> tuple[str, float]:
    """A row, or as many as it takes, of marks with names; and where the last row ends.

    `marks` are SVG drawn around (0, 0).
    """
    x, y, parts = 0.0, top, []
    for name, mark in zip(names, marks, strict=True):
        name = _shorten(name, 40)
        room = 25 + _width(name)
        if x and x + room > WIDTH:
            x, y = 0.0, y + 15
        parts.append(f'<g transform="translate({x + 6:g} {y - 4:g})">{mark}</g>')
        parts.append(_label(x + 15, y, name, "key"))
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
            parts.append(_label(self.left - 5, y + 4, number(value), anchor="end"))
        for value in ticks(*self.x, 6):
            if value == int(value) or self.x[1] - self.x[0] < 2:
                x, _ = self.at(value, self.y[0])
                parts.append(_label(x, self.bottom + 14, number(value), anchor="middle"))
        parts.append(_label(self.right, self.bottom + 27, x_label, anchor="end"))
        parts.append(_label(0, self.top - 8, y_label))
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
