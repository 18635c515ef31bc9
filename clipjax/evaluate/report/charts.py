"""The charts of a report page: curves with bands, clouds of points, horizontal bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.evaluate.report.drawing import (
    WIDTH,
    Axes,
    Bar,
    colour,
    escape,
    figure,
    label,
    legend,
    number,
    shorten,
    spread,
)

_POINTS = 80  # of a curve; more of them are neither seen nor hovered
_CLOUD = 280  # height of a map
_GUTTER = 118  # left of bars, for their labels


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
    key, bottom = legend(list(kept), [_stroke(colours[name]) for name in kept], 32)
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
    return figure(title, top + 172, body)


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
    return line + label(axes.right, at - 4, words, "tick words", "end")


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
    key, bottom = legend([*names, *shape_names], marks, 32)
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
    return figure(title, top + _CLOUD + 1, "".join(body))


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
    return figure(title, axes.bottom + 6, "".join(body))


def _bar(axes: Axes, index: int, row: Bar, write: str, unit: str) -> str:
    zero, _ = axes.at(0, 0)
    end, _ = axes.at(row.value, 0)
    y = axes.top + 17 * index
    value = f"{row.value:{write}}".replace("-", "−") if row.value else "0"
    words = f"{row.label}: {value}{unit}" + (f", {row.note}" if row.note else "")
    x, width = min(zero, end), max(abs(end - zero), 0.8)
    body = label(_GUTTER - 2, y + 12, shorten(row.label, 19), "name", "end")
    body += f'<rect class="{row.colour}" x="{x:g}" y="{y + 3}" width="{width:.1f}" height="11"/>'
    tip = end
    if row.low is not None and row.high is not None and row.low < row.high:
        one, two = axes.at(row.low, 0)[0], axes.at(row.high, 0)[0]
        body += f'<path class="whisker" d="M{one} {y + 8.5}H{two}"/>'
        tip = two if row.value >= 0 else one
    side = "start" if row.value >= 0 else "end"
    body += label(tip + (4 if side == "start" else -4), y + 12, value, "tick", side)
    return f"<g><title>{escape(words)}</title>{body}</g>"
