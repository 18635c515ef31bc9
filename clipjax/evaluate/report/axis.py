"""Accuracies of methods on one axis from 0 to 100: a line of a table each, as wide as the page."""

from collections.abc import Sequence
from typing import NamedTuple

from clipjax.evaluate.report.charts import escape

TICKS = (0, 20, 40, 60, 80, 100)


class Guide(NamedTuple):
    """A vertical line through all rows; `kind` is a class of the style sheet."""

    at: float
    name: str
    kind: str


class Row(NamedTuple):
    """A method: its name, a mark beside it, a drawing, and cells of text behind it."""

    name: str
    track: str  # SVG of `track`
    cells: Sequence[str]
    tag: str = ""
    tone: str = "plain"  # of the tag: plain, good, bad


class Axis(NamedTuple):
    """Rows over one axis in %, under heads of their cells; `note` says what the marks are."""

    rows: Sequence[Row]
    heads: Sequence[str]
    guides: Sequence[Guide] = ()
    note: str = ""
    large: bool = False
    kind = "axis"
    __bool__ = lambda self: bool(self.rows)

    @property
    def scale(self) -> str:
        """The numbers of the axis, as SVG."""
        words = "".join(f'<text x="{at}%" y="100%" dy="-4">{at}</text>' for at in TICKS)
        return f'<svg class="track" aria-hidden="true">{words}</svg>'

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(name, SVG) of the guides, for the legend."""
        line = '<svg class="key" width="14" height="12" aria-hidden="true"><path d="M7 0V12" '
        return [
            (f"{g.name} {g.at:.1f}", f'{line}class="guide {g.kind}"/></svg>') for g in self.guides
        ]


def track(
    words: str,
    dots: Sequence[float],
    *,
    ends: tuple[float, float] | None = None,
    rings: Sequence[float] = (),
    guides: Sequence[Guide] = (),
    kind: str = "c0",
) -> str:
    """Draw numbers from 0 to 100 on a line that is as wide as its place.

    Args:
      words: what it shows, for those who hear it and on hover.
      dots: one each seed, of the domain that counts; their mean is a bar.
      ends: of an error bar around the mean.
      rings: the same of another domain; a thin line joins both means.
      guides: vertical lines.
      kind: class of the style sheet.
    """
    body = ""
    lines = [(at, "grid") for at in TICKS] + [(g.at, f"guide {g.kind}") for g in guides]
    for at, name in lines:
        body += f'<line class="{name}" x1="{at:g}%" x2="{at:g}%" y1="0" y2="100%"/>'
    flat = lambda name, a, b: (
        f'<line class="{name}" x1="{max(0, min(a, b)):.2f}%" x2="{min(100, max(a, b)):.2f}%" '
        'y1="50%" y2="50%"/>'
    )
    circle = lambda at, name, r: f'<circle class="{name}" cx="{at:.2f}%" cy="50%" r="{r}"/>'
    if dots and rings:
        body += flat("gap", sum(dots) / len(dots), sum(rings) / len(rings))
    body += "".join(circle(at, "ring", 3.2) for at in rings)
    if dots:
        body += flat("error", *ends) if ends else ""
        body += "".join(circle(at, "dot", 3.6) for at in dots)
        mean = f'x="{sum(dots) / len(dots):.2f}%" y="50%"'
        body += (
            f'<rect class="mean" {mean} width="2.5" height="18" transform="translate(-1.25 -9)"/>'
        )
    name = escape(words)
    return (
        f'<svg class="track {kind}" role="img" aria-label="{name}">'
        f"<title>{name}</title>{body}</svg>"
    )
