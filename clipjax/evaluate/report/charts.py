"""The charts of a report page as SVG text, coloured by classes of the page's style sheet."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.log import writable

COLOURS = 8  # of the style sheet; a ninth series starts over, with dashes
WIDTH = 360
_POINTS = 80  # of a curve; more of them are neither seen nor hovered
_GUTTER = 118  # left of bars, for their labels
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # in XML, even escaped


class Scale(NamedTuple):
    """Numbers from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


class Bar(NamedTuple):
    """A horizontal bar; `low` and `high` end its whisker, `note` is shown on hover."""

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
    x_names: Sequence[str] = (),
    height: int = 140,
    dots: bool = False,
) -> str:
    """Draw curves over a common x; "" when there is nothing to draw.

    Args:
      series: name -> (xs [N], ys [N]) or (xs, ys, low [N], high [N]) with a band around the curve;
        points that are not finite are left out.
      colours: name -> class of the style sheet; by default in the order of `series`.
      y_range: ends of the vertical axis; None follows the data.
      guide: (y, label) of a dashed horizontal line to compare with.
      x_names: of x = 0, 1, 2, ..., in place of numbers.
      height: of the area of the curves, in the figure's pixels.
      dots: whether points are seen, not only when hovered.
    """
    kept = {name: kept for name, values in series.items() if (kept := _finite(values)) is not None}
    if not kept:
        return ""
    colours = colours or {name: colour(i) for i, name in enumerate(series)}
    marks = [f'<path class="line {colours[name]}" d="M-6 0H6"/>' for name in kept]
    body, bottom = legend(zip(kept, marks, strict=True))
    top, points = bottom + 26, np.concatenate(list(kept.values()), axis=1)
    ends = spread([*points[1:].ravel(), *([guide[0]] if guide else [])], 0.06)
    low, high = (end if fixed is None else fixed for fixed, end in zip(y_range, ends, strict=True))
    x = Scale(*spread(points[0]), 40, WIDTH - 8)
    y = Scale(low, high if low < high else low + 1, top + height, top)
    body += grid(x, y, x_label, y_label, x_names)
    body += "".join(_band(x, y, v, colours[n]) for n, v in kept.items())
    if guide:
        at = y.at(guide[0])
        body += f'<path class="guide" d="M{x.start} {at}H{x.end}"/>'
        body += label(x.end, at - 4, guide[1], "tick words", "end")
    for n, values in kept.items():
        body += _curve(x, y, n, values, colours[n], x_names, dots)
    return figure(title, top + height + 32, body)


def _finite(values: Sequence) -> np.ndarray | None:
    """Return (x, y, low, high) [4, N] without gaps, thinned; None if nothing is left."""
    columns = [np.asarray(column, float) for column in values]
    columns = np.stack(columns if len(columns) == 4 else [*columns, columns[1], columns[1]])
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    n = columns.shape[1]
    return columns[:, np.unique(np.linspace(0, n - 1, min(n, _POINTS)).astype(int))] if n else None


def _band(x: Scale, y: Scale, values: np.ndarray, kind: str) -> str:
    xs, _, low, high = values
    if np.array_equal(low, high) or len(xs) < 2:
        return ""
    there, back = _path(x, y, xs, high), _path(x, y, xs[::-1], low[::-1])
    return f'<path class="band {kind}" d="M{there}L{back}Z"/>'


def _curve(
    x: Scale, y: Scale, name: str, values: np.ndarray, kind: str, x_names=(), seen: bool = False
) -> str:
    dots, size = "", 3 if seen else 5
    for across, up, low, high in values.T:
        where = x_names[int(across)] if x_names else number(across)
        words = f"{name}, {where}: {number(up)}"
        words += f" ({number(low)} to {number(high)})" if low < high else ""
        place = f'cx="{x.at(across)}" cy="{y.at(up)}"'
        dots += f'<circle {place} r="{size}"><title>{escape(words)}</title></circle>'
    shown = " alone" if seen or values.shape[1] == 1 else ""
    drawn = f'<g class="dots {kind}{shown}">{dots}</g>'
    if values.shape[1] == 1:
        return drawn
    return f'<path class="line {kind}" d="M{_path(x, y, *values[:2])}"/>{drawn}'


def _path(x: Scale, y: Scale, xs: np.ndarray, ys: np.ndarray) -> str:
    return "L".join(f"{x.at(a):g} {y.at(b):g}" for a, b in zip(xs, ys, strict=True))


def bars(
    title: str, rows: Sequence[Bar], *, unit: str = "", signed: bool = False, digits: int = 1
) -> str:
    """Draw horizontal bars from zero, those of finite values, in the order given; "" of none.

    Numbers have `digits` behind the point, a plus if positive and `signed`, and `unit` (" %").
    """
    rows = [row for row in rows if np.isfinite(row.value)]
    if not rows:
        return ""
    ends = [v for r in rows for v in (r.value, r.low, r.high) if v is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    # Room for the numbers, which stand outside of the bars.
    left, bottom = _GUTTER + (42 if low < 0 else 4), 26 + 17 * len(rows)
    x = Scale(low, high if low < high else 1.0, left, WIDTH - 46)
    body = f'<path class="axis" d="M{x.at(0)} 26V{bottom}"/>'
    write = f"{'+' if signed else ''}.{digits}f"
    body += "".join(_bar(x, 26 + 17 * i, row, write, unit) for i, row in enumerate(rows))
    return figure(title, bottom + 6, body)


def _bar(x: Scale, y: float, row: Bar, write: str, unit: str) -> str:
    zero, tip = x.at(0), x.at(row.value)
    value = f"{row.value:{write}}".replace("-", "−") if row.value else "0"
    words = f"{row.label}: {value}{unit}" + (f", {row.note}" if row.note else "")
    left, width = min(zero, tip), max(abs(tip - zero), 0.8)
    body = label(_GUTTER - 2, y + 12, shorten(row.label, 19), "name", "end")
    body += f'<rect class="{row.colour}" x="{left:g}" y="{y + 3}" width="{width:.1f}" height="11"/>'
    if row.low is not None and row.high is not None and row.low < row.high:
        one, two = x.at(row.low), x.at(row.high)
        body += f'<path class="whisker" d="M{one} {y + 8.5}H{two}"/>'
        tip = two if row.value >= 0 else one
    room, anchor = (4, "start") if row.value >= 0 else (-4, "end")
    body += label(tip + room, y + 12, value, "tick", anchor)
    return f"<g><title>{escape(words)}</title>{body}</g>"


def legal(text: str) -> str:
    """Replace what no page can hold: lone surrogates by escapes, control characters by U+FFFD.

    >>> legal("photo-\\udcff\\x00")
    'photo-\\\\udcff\ufffd'
    """
    return _ILLEGAL.sub("\ufffd", writable(text))


def escape(text: object) -> str:
    """Escape any text for XML content or an attribute value.

    >>> escape('<a & "b">\\x00')
    '&lt;a &amp; &quot;b&quot;&gt;\ufffd'
    """
    return html.escape(legal(str(text)))


def shorten(text: str, length: int) -> str:
    """Cut a text that is longer, with an ellipsis."""
    text = legal(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten) in [low, high].

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
    """Write a number with four significant digits and a short exponent.

    >>> [number(v) for v in (0.30000001, 1e-05, 20.0, 2500000.0)]
    ['0.3', '1e-5', '20', '2.5e6']
    """
    return re.sub(r"e([+-])0*(\d)", lambda m: "e" + m[1].strip("+") + m[2], f"{value:.4g}")


def colour(index: int) -> str:
    """Return the class of a series: a colour, and dashes once the colours are used up."""
    return f"c{index % COLOURS}" + (" dashed" if index // COLOURS % 2 else "")


def figure(title: str, height: float, body: str, width: float = WIDTH) -> str:
    """Frame a drawing; a wider one than others is shown larger, and scrolls on a small screen."""
    name, wide = escape(title), int(width)
    style = f' style="max-width:{wide}px;min-width:{wide * 4 // 5}px"' if width > WIDTH else ""
    heading = escape(shorten(title, int(54 * width / WIDTH)))
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" aria-label="{name}"{style}>'
        f"<title>{name}</title>"
        f'<text class="heading" x="0" y="13">{heading}</text>{body}</svg>'
    )


def label(x: float, y: float, words: str, kind: str = "tick", anchor: str = "start") -> str:
    """Write words at a place."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def legend(entries: Iterable[tuple[str, str]]) -> tuple[str, float]:
    """Draw rows of names with marks (SVG around the origin); return the y of the last row too."""
    x, y, text = 0.0, 32, ""
    for name, mark in entries:
        name = shorten(name, 40)
        # An estimate of the width at 11 px, in a wide font.
        wide = [3.9 if c in "fijlrt.,:'()| " else 10.5 if c in "mwMW@%" else 7.2 for c in name]
        room = 25 + sum(wide)
        if x and x + room > WIDTH:
            x, y = 0.0, y + 15
        text += f'<g transform="translate({x + 6:g} {y - 4:g})">{mark}</g>'
        text += label(x + 15, y, name, "key")
        x += room
    return text, y


def grid(x: Scale, y: Scale, x_label: str, y_label: str, x_names: Sequence[str] = ()) -> str:
    """Draw the lines, numbers and names of two axes; `x_names` are of x = 0, 1, 2, ..."""
    text = ""
    for value in ticks(y.low, y.high):
        at = y.at(value)
        text += f'<path class="grid" d="M{x.start:g} {at:g}H{x.end:g}"/>'
        text += label(x.start - 5, at + 4, number(value), anchor="end")
    for place, name in enumerate(x_names):
        text += label(x.at(place), y.start + 14, name, anchor="middle")
    for value in [] if x_names else ticks(x.low, x.high, 6):
        if value == int(value) or x.high - x.low < 2:
            text += label(x.at(value), y.start + 14, number(value), anchor="middle")
    text += label(x.end, y.start + 27, x_label, anchor="end")
    return text + label(0, y.end - 8, y_label)


def spread(values: Sequence[float], pad: float = 0.0) -> tuple[float, float]:
    """Return the range of the finite values, a little wider; never empty."""
    finite = [value for value in map(float, values) if math.isfinite(value)]
    low, high = min(finite), max(finite)
    room = pad * (high - low)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # flat, or a single point
        room = 0.5 * abs(low) or 0.5
    return low - room, high + room
