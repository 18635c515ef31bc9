"""What reports say: chapters of sentences, tables, lists, charts, images; in short as text.

Plain data. `page` shows all of it, each item with the macro of its `kind` in assets/report; a
terminal gets tables and lists, long ones in short. An item without content is false and is shown
nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Aligned columns; the first one names the lines."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    title: str = ""
    head: int = 30  # how many lines a terminal shows from the beginning ...
    tail: int = 0  # ... and from the end
    mark: int = -1  # the column that stands out on a page
    folded: bool | None = None  # on a page; None: where it is long
    kind = "table"

    def __bool__(self) -> bool:
        return bool(self.lines)


class Listing(NamedTuple):
    """Lines of text."""

    title: str
    lines: Sequence[str]
    head: int = 20  # how many a terminal shows
    folded: bool = False
    kind = "listing"

    def __bool__(self) -> bool:
        return bool(self.lines)


class Note(NamedTuple):
    """A sentence between other items of a page."""

    text: str
    kind = "note"

    def __bool__(self) -> bool:
        return bool(self.text)


class Grid(NamedTuple):
    """Charts side by side, as many as the window has room for; SVG each."""

    charts: Sequence[str]
    kind = "grid"

    def __bool__(self) -> bool:
        return any(self.charts)


class Picture(NamedTuple):
    """An image of a card; `src` is a data URI."""

    src: str
    alt: str
    caption: str = ""


class Card(NamedTuple):
    """A class: its name, what is said beside and below it, some of its images."""

    name: str
    aside: str
    pictures: Sequence[Picture]
    note: str = ""


class Cards(NamedTuple):
    """Cards side by side, under a title that folds them away."""

    title: str
    cards: Sequence[Card]
    folded: bool = False
    kind = "cards"

    def __bool__(self) -> bool:
        return bool(self.cards)


class Link(NamedTuple):
    """A way to another page."""

    words: str
    href: str
    kind = "link"

    def __bool__(self) -> bool:
        return bool(self.href)


Item = Table | Listing | Note | Grid | Cards | Link


class Chapter(NamedTuple):
    """A part of what is said, false if that is nothing."""

    name: str  # anchor
    heading: str
    notes: Sequence[str] = ()  # sentences, before the items
    items: Sequence[Item] = ()

    def __bool__(self) -> bool:
        return bool(self.notes) or any(self.items)


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
    items = [item for item in chapter.items if item and isinstance(item, Table | Listing)]
    parts = list(map(_item_text, items))
    if not parts and not chapter.notes:
        return ""
    return "\n".join([f"\n== {chapter.heading}", *chapter.notes, *parts])


def _item_text(item: Table | Listing) -> str:
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
