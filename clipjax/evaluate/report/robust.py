"""The comparison of `clipjax.evaluate.robust` as tables, figures and pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.evaluate.report.charts import colour, line_chart
from clipjax.evaluate.report.page import document
from clipjax.evaluate.report.tables import Chapter, Grid, Note, Table
from clipjax.evaluate.robust import (
    RANDOM,
    WAYS,
    ZERO_SHOT,
    Cell,
    Point,
    Summary,
    called,
    gains,
    points,
    summary,
)

MEASURES = {
    "id": "ID test accuracy",
    "ood": "OOD test accuracy, mean over domains",
    "id_f1": "ID macro F1",
    "ood_f1": "OOD macro F1, mean over domains",
}
ORACLE = "OOD test accuracy where OOD test images pick"
DIFFERENCES = "Differences on the same subsets and seeds, points"
FULL = "Every share: mean ± spread over seeds / over subsets"
FIGURES = ("id", "ood", "shift")
Found = Mapping[Cell, Mapping[str, Any]]
Lines = tuple[list[str], list[list[str]]]  # header and lines


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def by_share(every: Mapping[str, Sequence[Point]], key: str, oracle: bool = False) -> Lines:
    """Return a table of ways and shares of the data, and the mean spreads of those with data.

    With `oracle` of what OOD test images pick, and of ways that have something to pick from.
    """
    shares = [point.share for point in every[ZERO_SHOT]]
    header = ["%", *map(_percent, shares), "± seeds", "± subsets"]
    lines = []
    for way, path in every.items():
        if oracle and not any(point.several for point in path):
            continue
        found = {p.share: summary((p.seen if oracle else p.found)[key]) for p in path}
        cells = [_number(found[share].mean) if share in found else "–" for share in shares]
        trained = [one for share, one in found.items() if share]
        lines.append([way, *cells, *(_mean(trained, field) for field in ("seeds", "subsets"))])
    return header, lines


def _mean(found: Sequence[Summary], field: str) -> str:
    values = [value for one in found if (value := getattr(one, field)) is not None]
    return _number(sum(values) / len(values)) if values else "–"


def in_full(every: Mapping[str, Sequence[Point]]) -> Lines:
    """Return a table of every point: each measure with its spreads over seeds and subsets."""
    header = ["data, way", "ID", "OOD", "ID F1", "OOD F1", "picked", "oracle picks", "its OOD"]
    lines = []
    for share in (point.share for point in every[ZERO_SHOT]):
        for point in (p for path in every.values() for p in path if p.share == share):
            values = [spread_out(summary(point.found[key])) for key in MEASURES]
            picks = [called(point.pick), called(point.oracle)]
            picks.append(_number(summary(point.seen["ood"]).mean))
            named = f"{_percent(share)}, {point.way}"
            lines.append([named, *values, *(picks if point.several else [""] * 3)])
    return header, lines


def spread_out(found: Summary) -> str:
    """Write a mean and its spreads, over seeds and over subsets.

    >>> spread_out(Summary(50.0, 1.25, None)), spread_out(Summary(50.0, None, None))
    ('50.0 ± 1.2 / –', '50.0')
    """
    if found.seeds is None and found.subsets is None:
        return _number(found.mean)
    return f"{_number(found.mean)} ± {_number(found.seeds)} / {_number(found.subsets)}"


def in_few(way: str, point: Point) -> str:
    """Write a point of a single run."""
    return f"{way} {' / '.join(_number(summary(point.found[key]).mean) for key in ('id', 'ood'))}"


def differences(every: Mapping[str, Sequence[Point]]) -> Lines:
    """Return a table of ways against others, over all shares, subsets and seeds."""
    header = ["against", "ID", "± runs", "better in", "OOD", "± runs", "better in"]
    lines = []
    for gain in gains(every):
        line = [f"{gain.way} against {gain.other}"]
        for values in (gain.id, gain.ood):
            spread = values.std(ddof=1) if len(values) > 1 else None
            line += [f"{values.mean():+.1f}", _number(spread)]
            line.append(f"{(values > 0).sum()} of {len(values)}")
        lines.append(line)
    return header, lines


def sentences(found: Found) -> list[str]:
    """Explain the tables, without full stops."""
    some, cells = next(iter(found.values())), [cell for cell in found if cell[0]]
    subsets, seeds = sorted({c[1] for c in cells}), sorted({c[2] for c in cells})
    tested = [row for row in some["rows"] if row["split"] == "test"]
    others = [d for d in dict.fromkeys(row["domain"] for row in tested) if d != _source(some)]
    minutes = sum(sum(one["timing_s"].values()) for one in found.values()) / 60
    listed, machine = lambda values: ", ".join(map(str, values)), some["machine"]
    return [
        f"in %; ID: {_source(some)}; OOD: the mean over {listed(others)}; mean over subsets "
        f"{listed(subsets)} and seeds {listed(seeds)} of training, {len(cells)} runs with data",
        "± seeds: standard deviation over seeds on one subset, mean over subsets; ± subsets: over "
        "subsets with one seed, mean over seeds; all of the data are one subset",
        "where a way has several candidates, ID validation accuracy, mean over the runs of a "
        "share, picks one; the oracle picks by OOD test accuracy",
        "differences are of single runs, over all shares with data; ± runs: their standard "
        "deviation",
        f"{minutes:.0f} minutes of work together, on {machine['devices']}, {machine['processor']}, "
        f"{machine['cores']} cores",
    ]


def _source(results: Mapping) -> str:
    return results["data"]["source"]


def charts(every: Mapping[str, Sequence[Point]]) -> dict[str, str]:
    """Draw ID and OOD accuracy against the data, and OOD against ID: `FIGURES` -> SVG.

    Random heads without data are left out: beside them all else is one line.
    """
    shares = [point.share for point in every[ZERO_SHOT]]
    colours = {way: colour(i) for i, way in enumerate(WAYS)}
    look = {"colours": colours, "height": 220, "dots": True}
    mean = lambda point, key: summary(point.found[key]).mean
    paths = {way: [p for p in path if p.pick[0] != RANDOM] for way, path in every.items()}
    drawn = {}
    for key in ("id", "ood"):
        series = {
            way: ([shares.index(p.share) for p in path], [mean(p, key) for p in path])
            for way, path in paths.items()
        }
        labels, names = ("share of the training data", "%"), [_percent(share) for share in shares]
        drawn[key] = line_chart(MEASURES[key], series, *labels, x_names=names, **look)
    trained = {way: [p for p in path if p.share] for way, path in paths.items()}
    trained[ZERO_SHOT] = every[ZERO_SHOT][:1]
    series = {
        way: ([mean(p, "id") for p in path], [mean(p, "ood") for p in path])
        for way, path in trained.items()
    }
    title = "OOD against ID, lines from few data to all"
    return drawn | {"shift": line_chart(title, series, "ID, %", "OOD, %", **look)}


def _tables(every: Mapping[str, Sequence[Point]]) -> dict[str, Lines]:
    found = {title: by_share(every, key) for key, title in MEASURES.items()}
    found[ORACLE] = by_share(every, "ood", oracle=True)
    found[DIFFERENCES] = differences(every)
    return found | {FULL: in_full(every)}


def terminal(found: Found) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, header and lines of the tables that a terminal shows."""
    tables, kept = _tables(points(found)), (MEASURES["id"], MEASURES["ood"], ORACLE, DIFFERENCES)
    return [(title, *tables[title]) for title in kept if tables[title][1]]


def markdown(found: Found) -> str:
    """Format the comparison as a Markdown page."""
    some = next(iter(found.values()))
    parts = [f"# Robust fine-tuning: {some['data']['name']}, model {some['model']}"]
    for title, (header, lines) in _tables(points(found)).items():
        if not lines:
            continue
        rows = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
        parts.append(f"## {title}")
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    said = [f"{words[0].upper()}{words[1:]}." for words in sentences(found)]
    return "\n\n".join([*parts, " ".join(said)]) + "\n"


def page(found: Found) -> str:
    """Render the comparison as a page of its own."""
    some, every = next(iter(found.values())), points(found)
    drawn, tables = charts(every), _tables(every)
    items = [
        Grid([drawn["id"], drawn["ood"]]),
        Grid([drawn["shift"]]),
        *(Table(*grid, title, folded=title == FULL) for title, grid in tables.items()),
        *(Note(f"{words[0].upper()}{words[1:]}.") for words in sentences(found)),
    ]
    about = f"{some['data']['name']}, {some['classes']} classes; model {some['model']}"
    chapter = Chapter("robust", "Shares of the training data", items=items)
    return document("Robust fine-tuning", about, [], [chapter])
