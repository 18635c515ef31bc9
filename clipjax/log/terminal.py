"""Lines and tables for people: on a terminal in colour, elsewhere plain; at most 120 columns."""

import io
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence

WIDTH = 120
_NUMBER = re.compile(r" *([+-]?[\d.,e-]+( ± *[\d.]+)?\*?|–\*?|) *")
_BETWEEN = 2  # columns of space


def width() -> int:
    """Return how wide lines may be: the terminal's width, at most `WIDTH`."""
    return min(WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else WIDTH


def coloured() -> bool:
    """Return whether lines may have colours: on a terminal, unless NO_COLOR or CI is set."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("CI", "").lower() == "true"
    return sys.stdout.isatty() and not refused


def wrapped(line: str, indent: str = "  ", columns: int = WIDTH) -> str:
    """Break a long line at spaces; what follows is indented.

    >>> wrapped("one two three", columns=9)
    'one two\\n  three'
    """
    if "\x1b" in line or len(line) <= columns:  # what has colours was broken before
        return line
    begin = line[: len(line) - len(line.lstrip(" "))]
    options = {"break_long_words": False, "break_on_hyphens": False}
    given = {"initial_indent": begin, "subsequent_indent": begin + indent, **options}
    found = textwrap.wrap(line.strip(" "), columns, **given)
    return "\n".join(found) or line


def continued(command: str, indent: str = "    ", columns: int = WIDTH) -> str:
    """Indent a command for a shell, a long one broken by backslashes.

    >>> continued("clipjax export --out=adapted", "  ", columns=22).split("\\n")
    ['  clipjax export \\\\', '    --out=adapted']
    """
    if len(indent) + len(command) <= columns:
        return indent + command
    lines: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):  # a break within quotes would be kept
        if lines and len(lines[-1]) + len(word) + 3 <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent}{'  ' * bool(lines)}{word}")
    return " \\\n".join(lines)


def styled(line: str, style: str) -> str:
    """Return a line in a style of rich's, as "bold green", on a terminal."""
    if not coloured():
        return line
    from rich.text import Text

    return rendered(Text(line, style), columns=len(line) + 1)


def rendered(thing, columns: int = WIDTH) -> str:
    """Render what rich can, without spaces at the ends of lines."""
    from rich.console import Console

    out = io.StringIO()
    colours = {"force_terminal": True} if coloured() else {"no_color": True}
    plain = {"legacy_windows": False, "force_jupyter": False}  # a notebook would show it at once
    Console(file=out, width=columns, **plain, **colours).print(thing)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def table(
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    best: Mapping[int, int] | None = None,
    dim: Collection[int] = (),
    columns: int | None = None,
) -> str:
    """Draw a table: the first column to the left, numbers with their points below each other.

    Args:
      header, lines: its cells.
      best: column -> the line whose cell gets a star.
      dim: lines that stand back.
      columns: how wide it may be; `width()` by default. Words of the header are broken first.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    best, columns = best or {}, columns or width()
    shown = [_column(cells, best.get(i)) for i, cells in enumerate(zip(*lines, strict=True))]
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, wide in enumerate(_widths(header, shown, columns)):
        right = bool(i) and _numbers(shown[i])
        head = Text(header[i], justify="right" if right else "left")
        drawn.add_column(head, width=wide, overflow="fold")
        if right:  # rich would strip the spaces behind numbers first
            shown[i] = [cell.rjust(wide) for cell in shown[i]]
    for i, cells in enumerate(zip(*shown, strict=True)):
        made = [Text(cell) for cell in cells]
        for column, text in enumerate(made):
            style = "bold green" if best.get(column) == i else "dim" * (i in dim)
            text.stylize(style, 0, len(text.plain.rstrip()))
        drawn.add_row(*made)
    return rendered(drawn, columns)


def fits(header: Sequence[str], lines: Sequence[Sequence[str]], columns: int) -> bool:
    """Return whether no cell of numbers and no word of a table is broken in so many columns."""
    shown = [_column(cells, 0) for cells in zip(*lines, strict=True)]
    return sum(map(_least, header, shown)) + _BETWEEN * len(header) <= columns


def _widths(header: Sequence[str], shown: Sequence[Sequence[str]], columns: int) -> list[int]:
    """Return the columns' widths, where headers are broken first, then texts, then anything."""
    cells = [max(map(len, each)) for each in shown]
    words = [max(map(len, head.split())) for head in header]
    found = list(map(max, map(len, header), cells))
    for least in (map(max, words, cells), map(_least, header, shown), [1] * len(found)):
        least = list(least)
        while sum(found) + _BETWEEN * len(found) > columns:
            spare = [wide - low for wide, low in zip(found, least, strict=True)]
            if max(spare) <= 0:
                break
            found[spare.index(max(spare))] -= 1
    return found


def _numbers(cells: Sequence[str]) -> bool:
    """Return whether cells are numbers, or dashes in their place."""
    return all(map(_NUMBER.fullmatch, cells))


def _least(head: str, cells: Sequence[str]) -> int:
    """Return the width that a column needs: numbers whole, texts by words."""
    pieces = [*cells] if _numbers(cells) else [word for cell in cells for word in cell.split()]
    return max(map(len, [*pieces, *head.split()]), default=0)


def _column(cells: Sequence[str], best: int | None) -> list[str]:
    """Pad cells, so that those of "1.0 ± 2.0" and "3.0" align, and mark the best."""
    parts = [cell.partition(" ± ") for cell in cells]
    spread = max(len(last) for *_, last in parts)
    made = [f"{number}{sign}{last.rjust(spread) if sign else ''}" for number, sign, last in parts]
    made = [cell + "*" * (i == best) for i, cell in enumerate(made)]
    tail = max(len(cell) - len(number) for cell, (number, *_) in zip(made, parts, strict=True))
    both = zip(made, parts, strict=True)
    return [cell.ljust(len(number) + tail) if number else "" for cell, (number, *_) in both]
