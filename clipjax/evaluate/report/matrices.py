"""Heat maps of a report page: methods by pairs, confusions, domains by domains."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.evaluate.report.charts import WIDTH, escape, figure, label, shorten

_GUTTER = 118  # left of the cells, for the names of rows
_CELL = 14  # side of a confusion's cell


class Group(NamedTuple):
    """Columns of a heat map under one heading."""

    name: str
    members: Sequence


def heat_map(title: str, rows: Sequence[str], columns: Sequence[Group], values: np.ndarray) -> str:
    """Draw values [rows, columns], those above zero in one colour and those below in another.

    Cells are as strong as their share of the largest magnitude, and say their value on hover.
    """
    most = float(np.abs(values).max(initial=0.0)) or 1.0
    width = min(24.0, (WIDTH - _GUTTER) / max(values.shape[1], 1))
    names = [name for group in columns for name in group.members]
    body, at = "", 0
    for group in columns:
        room = int(width * len(group.members) / 6)
        middle = _GUTTER + width * (at + len(group.members) / 2)
        body += label(middle, 32, shorten(group.name, max(room, 3)), anchor="middle")
        at += len(group.members)
    for i, (row, line) in enumerate(zip(rows, values, strict=True)):
        y = 38 + 14 * i
        body += label(_GUTTER - 4, y + 11, shorten(row, 19), "name", "end")
        for j, (column, value) in enumerate(zip(names, line, strict=True)):
            words = escape(f"{row}, {column}: {value:+.1f}".replace("-", "−"))
            kind, strength = "good" if value >= 0 else "bad", abs(value) / most
            x = _GUTTER + width * j
            body += (
                f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="14" '
                f'fill-opacity="{strength:.2f}"><title>{words}</title></rect>'
            )
    return figure(title, 42 + 14 * len(rows), body)


def pair_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, *, signed=False
) -> str:
    """Draw values [rows, columns] with their numbers, as of source by target; "" of none.

    Cells are as strong as their share of the largest magnitude; NaN is left empty.
    """
    if not np.isfinite(values).any():
        return ""
    most = float(np.nanmax(np.abs(values))) or 1.0
    gutter = min(_GUTTER, 12 + max(7 * len(shorten(name, 19)) for name in rows))
    step = min(58.0, max(34.0, (WIDTH - gutter) / len(columns)))
    width, body = max(WIDTH, gutter + step * len(columns)), ""
    for j, name in enumerate(columns):
        middle = gutter + step * (j + 0.5)
        body += label(middle, 32, shorten(name, int(step / 6)), anchor="middle")
    for i, (row, line) in enumerate(zip(rows, values, strict=True)):
        y = 38 + 24 * i
        body += label(gutter - 6, y + 16, shorten(row, 19), "name", "end")
        for j, value in enumerate(map(float, line)):
            if not np.isfinite(value):
                continue
            number = (f"{value:+.1f}" if signed else f"{value:.1f}").replace("-", "−")
            words = escape(f"{row} to {columns[j]}: {number}")
            kind, x = "good" if value >= 0 else "bad", gutter + step * j
            strength = 0.08 + 0.62 * abs(value) / most  # the number stays readable
            body += (
                f'<g><title>{words}</title><rect class="{kind}" x="{x + 1:.1f}" y="{y}" '
                f'width="{step - 2:.1f}" height="22" rx="3" fill-opacity="{strength:.2f}"/>'
            )
            body += label(x + step / 2, y + 15, number, "number", "middle") + "</g>"
    return figure(title, 42 + 24 * len(rows), body, width)


def confusion_map(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw counts [K, K + 1] of labels by answers, the last column of all other answers.

    Cells are as strong as their share of the row: in one colour on the diagonal, in another beside
    it. "" of no counts.
    """
    if not len(names):
        return ""
    counts = np.asarray(counts)
    others = bool(counts[:, -1].any())
    columns = [*names, *["others"] * others]
    width = max(WIDTH, _GUTTER + _CELL * len(columns) + 50)
    top, body = 104, label(_GUTTER - 6, 98, "is ↓   answered →", "tick", "end")
    for j, name in enumerate(columns):
        x = _GUTTER + _CELL * (j + 0.5) + 3
        words = label(0, 0, shorten(name, 14), "name")
        body += f'<g transform="translate({x:g} {top - 6}) rotate(-60)">{words}</g>'
    for i, (name, line) in enumerate(zip(names, counts, strict=True)):
        y, n = top + _CELL * i, line.sum()
        body += label(_GUTTER - 6, y + 11, shorten(name, 17), "name", "end")
        body += f'<path class="grid" d="M{_GUTTER} {y + _CELL}h{_CELL * len(columns)}"/>'
        for j in np.flatnonzero(line):
            right, x = i == j, _GUTTER + _CELL * j
            took = "right" if right else f"taken for {columns[j]}"
            share = line[j] / n
            words = escape(f"{name}, {took}: {100 * share:.0f} % ({line[j]} of {n})")
            body += (
                f'<rect class="{"good" if right else "bad"}" x="{x}" y="{y}" width="{_CELL - 1}" '
                f'height="{_CELL - 1}" fill-opacity="{0.12 + 0.88 * share:.2f}">'
                f"<title>{words}</title></rect>"
            )
    return figure(title, top + _CELL * len(names) + 4, body, width)
