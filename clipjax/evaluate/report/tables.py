"""Tables and lists that are said twice: in short on a terminal, whole on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clipjax.evaluate.report import sections
from clipjax.evaluate.report.drawing import escape
from clipjax.evaluate.report.page import Section

_OPEN = 20  # lines of a table that a page shows at once; longer ones unfold


class Table(NamedTuple):
    """Aligned columns; the first one names the lines."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    title: str = ""
    head: int = 30  # how many lines a terminal shows from the beginning ...
    tail: int = 0  # ... and from the end


class Listing(NamedTuple):
    """Lines of text."""

    title: str
    lines: Sequence[str]
    head: int = 20  # how many a terminal shows


class Chapter(NamedTuple):
    """A part of what is said; one without notes, items and HTML is left out."""

    name: str  # anchor
    heading: str
    notes: Sequence[str] = ()  # sentences
    items: Sequence[Table | Listing] = ()
    html: str = ""  # on the page only


def writable(text: str, encoding: str | None = "utf-8") -> str:
    """The text with what an encoding lacks as backslash escapes.

    Names of files that are no UTF-8 come as lone surrogates, which nothing can print or write; on a
    page `escape` would make them all alike.

    >>> writable("photo-\\udcff.png"), writable("caf\\u00e9", "ascii")
    ('photo-\\\\udcff.png', 'caf\\\\xe9')
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other, the first to the left, the others to the right.

    >>> aligned(["a", "n"], [["cat", "10"]])
    ['a     n', 'cat  10']
    """
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *lines]
    ]


def as_text(chapter: Chapter) -> str:
    """A chapter for a terminal, long items in short; "" of an empty one."""
    parts = [part for part in map(_item_text, chapter.items) if part]
    if not parts and not chapter.notes:
        return ""
    return "\n".join([f"\n== {chapter.heading}", *chapter.notes, *parts])


def _item_text(item: Table | Listing) -> str:
    if not item.lines:
        return ""
    title = [item.title] if item.title else []
    if isinstance(item, Table):
        head, *lines = aligned(item.header, item.lines)
        lines = _shortened(lines, item.head, item.tail)
        return "\n".join([*title, *(f"  {line}" for line in [head, *lines])])
    return "\n".join([*title, *(f"  {line}" for line in _shortened(item.lines, item.head, 0))])


def _shortened(lines: Sequence[str], head: int, tail: int) -> list[str]:
    hidden = len(lines) - head - tail
    if hidden <= 1:  # leaving one out saves nothing
        return list(lines)
    return [*lines[:head], f"... {hidden:,} more, all on the page", *lines[len(lines) - tail :]]


def as_section(chapter: Chapter) -> Section:
    """A chapter for a page, whole."""
    notes = "".join(sections.paragraph(writable(note), "note") for note in chapter.notes)
    items = "".join(_item_html(item) for item in chapter.items if item.lines)
    return Section(chapter.name, chapter.heading, notes + items + chapter.html)


def _item_html(item: Table | Listing) -> str:
    title = escape(writable(item.title.rstrip(":")))
    if isinstance(item, Listing):
        body = f"<pre>{escape(writable(chr(10).join(item.lines)))}</pre>"
        return f"<details open><summary>{title}</summary>{body}</details>"
    body = sections.table(item.header, [list(map(writable, line)) for line in item.lines])
    if len(item.lines) <= _OPEN:
        return f"<h3>{title}</h3>{body}" if title else body
    return f"<details><summary>{title or len(item.lines)}</summary>{body}</details>"
