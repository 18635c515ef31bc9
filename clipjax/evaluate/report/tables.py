"""The content of reports as plain data; `page` renders items by the macros of their `kind`."""

from collections.abc import Sequence
from typing import NamedTuple

from clipjax.evaluate.report.axis import Axis


class Table(NamedTuple):
    """Aligned columns; the first one names the lines."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    title: str = ""
    head: int = 30  # lines that a terminal shows from the beginning ...
    tail: int = 0  # ... and from the end
    mark: int = -1  # column that a page highlights
    folded: bool | None = None  # on a page; None: if it is long
    words: int = -1  # column of texts: to the left, in several lines
    kind = "table"
    __bool__ = lambda self: bool(self.lines)


class Listing(NamedTuple):
    """Lines of text."""

    title: str
    lines: Sequence[str]
    head: int = 20  # lines that a terminal shows
    folded: bool = False
    kind = "listing"
    __bool__ = lambda self: bool(self.lines)


class Note(NamedTuple):
    """A sentence between other items of a page."""

    text: str
    kind = "note"
    __bool__ = lambda self: bool(self.text)


class Grid(NamedTuple):
    """Charts (SVG) side by side; under a title, folded."""

    charts: Sequence[str]
    title: str = ""
    big: bool = False  # charts that are wider than others
    kind = "grid"
    __bool__ = lambda self: any(self.charts)


class Picture(NamedTuple):
    """An image of a card; `src` is a data URI."""

    src: str
    alt: str
    caption: str = ""


class Card(NamedTuple):
    """A class: its name, what stands beside and below it, some of its images."""

    name: str
    aside: str
    pictures: Sequence[Picture]
    note: str = ""


class Cards(NamedTuple):
    """Cards side by side, under a title that folds them."""

    title: str
    cards: Sequence[Card]
    folded: bool = False
    kind = "cards"
    __bool__ = lambda self: bool(self.cards)


class Plates(NamedTuple):
    """Wide pictures with captions, and what their colours mean."""

    pictures: Sequence[Picture]
    colours: Sequence[tuple[str, str]] = ()  # (name, "#rrggbb")
    kind = "plates"
    __bool__ = lambda self: bool(self.pictures)


class Words(NamedTuple):
    """What counts: a sentence in large, then others, then warnings."""

    lead: str
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    kind = "words"
    __bool__ = lambda self: bool(self.lead or self.notes or self.warnings)


class Next(NamedTuple):
    """What to do, and what to type."""

    words: str
    code: str = ""
    kind = "next"
    __bool__ = lambda self: bool(self.words)


class Tile(NamedTuple):
    """A number in large, what it is, and its uncertainty."""

    value: str
    words: str
    below: str
    tone: str = "plain"  # plain, good, bad


class Tiles(NamedTuple):
    """Numbers side by side."""

    tiles: Sequence[Tile]
    kind = "tiles"
    __bool__ = lambda self: bool(self.tiles)


class Sheet(NamedTuple):
    """The images of the dots of maps, folded; the page's script shows them one by one."""

    title: str
    src: str  # data URI
    tile: int  # side of an image, in pixels
    columns: int
    kind = "sheet"
    __bool__ = lambda self: bool(self.src)


class Facts(NamedTuple):
    """(name, words) pairs."""

    facts: Sequence[tuple[str, str]]
    kind = "facts"
    __bool__ = lambda self: bool(self.facts)


class Link(NamedTuple):
    """A link to another page."""

    words: str
    href: str
    kind = "link"
    __bool__ = lambda self: bool(self.href)


Item = Table | Listing | Note | Grid | Cards | Link | Axis | Words | Next | Tiles | Sheet | Facts


class Chapter(NamedTuple):
    """A section of a page; false if it is empty."""

    name: str  # anchor
    heading: str
    notes: Sequence[str] = ()  # sentences, before the items
    items: Sequence[Item] = ()
    __bool__ = lambda self: bool(self.notes) or any(self.items)


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad columns to equal widths, the first to the left, the others to the right.

    >>> aligned(["a", "n"], [["cat", "10"]])
    ['a     n', 'cat  10']
    """
    rows = [header, *lines]
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows
    ]


def as_text(chapter: Chapter) -> str:
    """Format the notes, tables and lists of a chapter for a terminal, long ones in short."""
    items = [item for item in chapter.items if item and isinstance(item, Table | Listing)]
    lines = [*chapter.notes, *(line for item in items for line in _shown(item))]
    return "\n".join([f"\n== {chapter.heading}", *lines]) if lines else ""


def _shown(item: Table | Listing) -> list[str]:
    """Return title and lines of an item without the middle of a long one."""
    is_table = isinstance(item, Table)
    lines = aligned(item.header, item.lines) if is_table else [*item.lines]
    head, tail = (item.head + 1, item.tail) if is_table else (item.head, 0)  # 1 is the header
    hidden = len(lines) - head - tail
    if hidden > 1:  # leaving one out saves nothing
        lines[head : head + hidden] = [f"... {hidden:,} more, all on the page"]
    return [*filter(None, [item.title]), *(f"  {line}" for line in lines)]
