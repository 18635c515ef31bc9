"""CLIP-CITE taken apart: tables 4 and 6 and figures 4, 5, 7 and 9 of its paper in our form."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.evaluate.few_shot import ZERO_SHOT, Value, harmonic, over_seeds
from clipjax.evaluate.report.charts import Bar, bars, line_chart
from clipjax.evaluate.report.few_shot import Comparison, about, markdown_table, notes, written
from clipjax.evaluate.report.matrices import pair_map
from clipjax.evaluate.report.page import document
from clipjax.evaluate.report.tables import Chapter, Grid, Item, Note, Table

TITLES = {
    "losses": "Losses (table 4)",
    "parts": "Parts that train (figure 4)",
    "alpha": "Share of the way from zero-shot (figure 5)",
    "terms": "The two terms added to prompts (table 6)",
    "weights": "Weights of the terms (figure 7)",
    "layers": "Frozen blocks of the image tower, first loss alone (figure 9)",
}
Groups = Mapping[str, Sequence[str]]  # of `TITLES` -> rows


def values(of: Comparison, name: str) -> tuple[Value, Value, Value] | None:
    """Return a row's base, new and harmonic mean; None of a row that is not there."""
    keys = of.every.get(name, {})
    base, new = (keys.get(("bng", half)) for half in ("base", "new"))
    return (over_seeds(base), over_seeds(new), harmonic(base, new)) if base and new else None


def tables(of: Comparison, groups: Groups) -> list[Table]:
    """Return a table for each group that has a row, zero-shot above."""
    found = []
    for group, title in TITLES.items():
        rows = {name: values(of, name) for name in (ZERO_SHOT, *groups.get(group, ()))}
        lines = [
            [name, *(written(v.mean, None if name == ZERO_SHOT else v.spread) for v in three)]
            for name, three in rows.items()
            if three
        ]
        if len(lines) > 1:
            found.append(Table(["base to new, %", "base", "new", "harmonic mean"], lines, title))
    return found


def figures(of: Comparison, groups: Groups) -> list[str]:
    """Draw the figures of the groups that are there."""
    means = {name: three for name in of.every if (three := values(of, name))}
    zero = (means[ZERO_SHOT][2].mean, ZERO_SHOT) if ZERO_SHOT in means else None
    drawn = []
    for group in ("losses", "parts", "terms"):
        rows = [_bar(name, means[name][2]) for name in groups.get(group, ()) if name in means]
        drawn.append(bars(f"{TITLES[group]}: harmonic mean", rows))
    drawn += [_alpha(means), _layers(means, zero), _weights(means)]
    return [svg for svg in drawn if svg]


def _bar(name: str, value: Value) -> Bar:
    low, high = (value.mean + sign * (value.spread or 0) for sign in (-1, 1))
    return Bar(name, value.mean, low, high)


def _numbered(means: Mapping, pattern: str) -> dict[tuple[float, ...], tuple]:
    """Return the numbers in a row's name -> its values, of rows that fit a pattern, in order."""
    fits = {name: re.fullmatch(pattern, name) for name in means}
    found = {tuple(map(float, m.groups())): means[name] for name, m in fits.items() if m}
    return dict(sorted(found.items()))


def _alpha(means: Mapping) -> str:
    found = _numbered(means, r"alpha (\S+)")
    if found and ZERO_SHOT in means:
        found = {(0.0,): means[ZERO_SHOT], **found}
    xs = [alpha for (alpha,) in found]
    names = ("base", "new", "harmonic mean")
    series = {n: (xs, [three[i].mean for three in found.values()]) for i, n in enumerate(names)}
    return line_chart(TITLES["alpha"], series, "alpha", "%") if found else ""


def _layers(means: Mapping, zero: tuple[float, str] | None) -> str:
    series = {}
    for word, told in (("last", "late blocks frozen"), ("first", "early blocks frozen")):
        found = _numbered(means, rf"cite_{word}_(\d+)")
        if "cite_dva" in means:
            found = {(0.0,): means["cite_dva"], **found}
        if len(found) > 1:
            series[told] = [k for (k,) in found], [three[2].mean for three in found.values()]
    return line_chart(TITLES["layers"], series, "frozen blocks", "%", guide=zero)


def _weights(means: Mapping) -> str:
    found = _numbered(means, r"cite_lambda(\d+)_eta(\d+)")
    lams, etas = (sorted({key[i] for key in found}) for i in (0, 1))
    grid = np.full((len(lams), len(etas)), np.nan)
    for (lam, eta), three in found.items():
        grid[lams.index(lam), etas.index(eta)] = three[2].mean
    rows, columns = [f"lambda {x / 10:g}" for x in lams], [f"eta {x / 10:g}" for x in etas]
    return pair_map(f"{TITLES['weights']}: harmonic mean", rows, columns, grid)


def markdown(of: Comparison, groups: Groups) -> str:
    """Format the ablations as a Markdown page."""
    parts = [f"# CLIP-CITE taken apart: {about(of)}"]
    for table in tables(of, groups):
        parts += [f"## {table.title}", markdown_table(table)]
    return "\n\n".join([*parts, *notes(of)]) + "\n"


def page(of: Comparison, groups: Groups) -> str:
    """Render the ablations as a page of their own."""
    items: list[Item] = [Grid(figures(of, groups), big=True), *tables(of, groups)]
    chapter = Chapter("ablations", "Base to new", items=[*items, *map(Note, notes(of))])
    return document("CLIP-CITE taken apart", about(of), [], [chapter])
