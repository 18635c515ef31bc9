"""CLIP-CITE taken apart: tables 4 and 6 and figures 4, 5, 7 and 9 of its paper in our form."""

from collections.abc import Mapping

from clipjax.evaluate.few_shot import ZERO_SHOT, Value, harmonic, over_seeds
from clipjax.evaluate.report.charts import Bar, bars, line_chart
from clipjax.evaluate.report.few_shot import about, markdown_table, notes
from clipjax.evaluate.report.few_shot_published import (
    ABLATIONS_NOTE,
    of_ablations,
    published_ablations,
)
from clipjax.evaluate.report.few_shot_tables import DASH, Comparison, written
from clipjax.evaluate.report.page import document
from clipjax.evaluate.report.tables import Chapter, Grid, Item, Note, Table

TITLES = {
    "losses": "Losses (table 4)",
    "parts": "Parts that train (figure 4)",
    "alpha": "Share of the way from zero-shot (figure 5)",
    "terms": "Terms added to prompts (table 6)",
    "lambda": "Weight of the contrastive loss (figure 7)",
    "eta": "Weight of the distillation (figure 7)",
    "late": "Late blocks frozen (figure 9a)",
    "early": "Early blocks frozen (figure 9b)",
}
AXES = {"alpha": "alpha", "lambda": "lambda", "eta": "eta"}  # of the others: frozen blocks
NOTE = (
    "Rows of CLIP-CITE are half way back from as trained (alpha 0.5) unless they say otherwise. Of "
    "the weights lambda and eta one varies, the other is the paper's 0.7 or 0.1. Frozen blocks are "
    "the image tower's, where the first loss alone trains it; late ones with the projection, early "
    "ones with the embedding."
)
TRAINED = " alpha 1"  # behind a row's name: the same run, as trained
HALVES = ("base", "new", "harmonic mean")
Groups = Mapping[str, Mapping[str, float | None]]  # of `TITLES` -> row -> its place on an axis
Three = tuple[Value, Value, Value]


def values(of: Comparison, name: str) -> Three | None:
    """Return a row's base, new and harmonic mean; None of a row that is not there."""
    keys = of.every.get(name, {})
    base, new = (keys.get(("bng", half)) for half in ("base", "new"))
    return (over_seeds(base), over_seeds(new), harmonic(base, new)) if base and new else None


def tables(of: Comparison, groups: Groups) -> list[Table]:
    """Return a table for each group that has a row, zero-shot above.

    Rows that are drawn back have their values as trained beside them, and on the paper's data the
    paper's.
    """
    found = []
    published = published_ablations({cell.data for cell in of.found})
    for group, title in TITLES.items():
        lines, known = [], published.get(group, {})
        rows = [ZERO_SHOT, *groups.get(group, ())]
        trained = any(values(of, name + TRAINED) for name in rows)
        for name in rows:
            if three := values(of, name):
                line = [name, *_written(three, name != ZERO_SHOT)]
                if trained:
                    line += _written(values(of, name + TRAINED))
                if known:
                    line.append(" / ".join(f"{x:.1f}" for x in known.get(name, ())))
                lines.append(line)
        if len(lines) > 1:
            header = ["base to new, %", *HALVES]
            header += [f"as trained: {half}" for half in HALVES] if trained else []
            header += ["published: base / new / harmonic mean"] if known else []
            found.append(Table(header, lines, title))
    return found


def _written(three: Three | None, spread: bool = True) -> list[str]:
    if three is None:
        return [DASH] * 3
    return [written(value.mean, value.spread if spread else None) for value in three]


def figures(of: Comparison, groups: Groups) -> dict[str, str]:
    """Draw the figures of the groups that are there, by group."""
    zero = values(of, ZERO_SHOT)
    drawn = {}
    for group, rows in groups.items():
        means = {name: three for name in rows if (three := values(of, name))}
        if None in rows.values():
            made = [_bar(name, three[2]) for name, three in means.items()]
            drawn[group] = bars(f"{TITLES[group]}: harmonic mean", made)
            continue
        at = {rows[name]: three for name, three in means.items()}
        if group == "alpha" and at and zero:
            at[0.0] = zero
        if len(at) > 1:
            drawn[group] = _curves(group, dict(sorted(at.items())), zero)
    return {group: svg for group, svg in drawn.items() if svg}


def _bar(name: str, value: Value) -> Bar:
    low, high = (value.mean + sign * (value.spread or 0) for sign in (-1, 1))
    return Bar(name, value.mean, low, high)


def _curves(group: str, at: Mapping[float, Three], zero: Three | None) -> str:
    """Draw base, new and harmonic mean along an axis, with the latter's spread as a band."""
    series = {}
    for i, half in enumerate(HALVES):
        found = [three[i] for three in at.values()]
        low, high = ([v.mean + s * (v.spread or 0) * (i == 2) for v in found] for s in (-1, 1))
        series[half] = list(at), [v.mean for v in found], low, high
    guide = (zero[2].mean, ZERO_SHOT) if zero and group != "alpha" else None
    axis = AXES.get(group, "frozen blocks")
    return line_chart(TITLES[group], series, axis, "%", guide=guide, dots=True)


def markdown(of: Comparison, groups: Groups) -> str:
    """Format the ablations as a Markdown page."""
    parts = [f"# CLIP-CITE taken apart: {about(of)}"]
    for table in tables(of, groups):
        parts += [f"## {table.title}", markdown_table(table)]
    parts += [NOTE, *notes(of), "## What the paper reports on ImageNet, %"]
    for table in of_ablations():
        parts += [f"### {table.title}", markdown_table(table)]
    return "\n\n".join([*parts, ABLATIONS_NOTE]) + "\n"


def page(of: Comparison, groups: Groups) -> str:
    """Render the ablations as a page of their own."""
    items: list[Item] = [Grid([*figures(of, groups).values()], big=True), *tables(of, groups)]
    chapter = Chapter("ablations", "Base to new", items=[*items, *map(Note, [NOTE, *notes(of)])])
    paper = [*of_ablations(), Note(ABLATIONS_NOTE)]
    theirs = Chapter("published", "What the paper reports on ImageNet, %", items=paper)
    return document("CLIP-CITE taken apart", about(of), [], [chapter, theirs])
