"""The comparison of `clipjax.evaluate.few_shot` as tables, figures and pages."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from clipjax.evaluate.few_shot import (
    ZERO_SHOT,
    Cell,
    Cost,
    Key,
    Values,
    costs,
    gathered,
    harmonic,
    over_seeds,
    takes,
)
from clipjax.evaluate.metrics import harmonic_mean
from clipjax.evaluate.report.charts import line_chart
from clipjax.evaluate.report.few_shot_published import (
    BASE_NEW,
    COST,
    CROSS,
    CROSS_METHODS,
    DOMAINS,
    ELEVEN,
    METHODS,
    NOTES,
    VARIANTS,
    pairs,
    published,
)
from clipjax.evaluate.report.page import document
from clipjax.evaluate.report.tables import Chapter, Grid, Note, Table

Every = Mapping[str, Mapping[Key, Values]]
Found = Mapping[Cell, Mapping[str, Any]]
DASH = "–"
PUBLISHED = "published: base / new / harmonic mean"
FEW = 6  # curves of a chart
FIGURE_6 = ("ft_probe", "clip_cite")
MEASURED = {"loss": ("loss",), "accuracy": ("source_accuracy", "batch_accuracy")}  # in logs


class Comparison(NamedTuple):
    """What pages are made of."""

    every: Every  # row -> key -> accuracies
    cost: Mapping[str, Cost]
    found: Found

    @property
    def seeds(self) -> list[int]:
        """The seeds of the subsets."""
        return sorted({cell.seed for cell in self.found})

    @property
    def images(self) -> int:
        """Test images of the datasets together."""
        sizes = {}
        for cell, results in self.found.items():
            source = results["data"]["source"]
            if cell.classes == "all":
                sizes[cell.data] = next(
                    row["n"]
                    for row in results["rows"]
                    if (row["domain"], row["split"]) == (source, "test")
                )
        return sum(sizes.values())


def comparison(found: Found, variants: Mapping[str, tuple[str, str]]) -> Comparison:
    """Compare the rows of finished cells."""
    return Comparison(gathered(found, variants), costs(found, variants), found)


def _cell(values: Values | None) -> str:
    return written(*over_seeds(values)) if values else DASH


def written(mean: float, spread: float | None) -> str:
    """Write an accuracy with its spread.

    >>> written(50.04, 1.25), written(50.0, None)
    ('50.0 ± 1.2', '50.0')
    """
    return f"{mean:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")


def fsl(of: Comparison) -> Table:
    """Figure 3 of seed 004 as numbers: accuracy by the number of images a class."""
    shots = sorted({key[1] for keys in of.every.values() for key in keys if key[0] == "fsl"})
    lines = [
        [name, *(_zero_or(of, name, ("fsl", k)) for k in shots)]
        for name, keys in of.every.items()
        if any(key[0] == "fsl" for key in keys)
    ]
    head = ["images a class", *map(str, shots)]
    return Table(head, lines, "Few-shot learning: test accuracy, %", folded=False)


def _zero_or(of: Comparison, name: str, key: Key) -> str:
    """Write a value; zero-shot has no spread, as it trains on nothing."""
    values = of.every[name].get(key)
    if not values or name != ZERO_SHOT:
        return _cell(values)
    return written(over_seeds(values).mean, None)


def halves(of: Comparison, protocol: str) -> Table:
    """Base, new and their harmonic mean (BNG, table 1), or another dataset's (CDG, table 3)."""
    lines = []
    zero, known = of.every[ZERO_SHOT], _mean_of_eleven(of) if protocol == "bng" else {}
    for name, keys in of.every.items():
        base, new = (keys.get((protocol, half)) for half in ("base", "new"))
        if not base and not new:
            continue
        line = [name, *(_zero_or(of, name, (protocol, half)) for half in ("base", "new"))]
        both = harmonic(base, new) if base and new else None
        spread = both and (None if name == ZERO_SHOT else both.spread)
        line.append(written(both.mean, spread) if both else DASH)
        if protocol == "cdg":
            told = [_change(keys, zero, half) for half in ("base", "new")]
            line += told
        if known:
            line.append(known.get(name, ""))
        lines.append(line)
    header = ["method", "base", "new", "harmonic mean", *([PUBLISHED] if known else [])]
    title = "Base to new: trained on base classes, %"
    if protocol == "cdg":
        header += ["base: forgotten", "new: forgotten"]
        title = "Cross-dataset: trained on base classes, tested on another dataset's, %"
    return Table(header, lines, title, folded=False)


def _mean_of_eleven(of: Comparison) -> dict[str, str]:
    """Return row -> what the paper's table 1 has of it on the mean, of its datasets alone."""
    if {cell.data for cell in of.found} != ELEVEN:
        return {}
    return dict(zip(METHODS, map(_halves, pairs(BASE_NEW)["average"]), strict=True))


def _halves(pair: tuple[float, float]) -> str:
    return "{:.1f} / {:.1f} / {:.1f}".format(*pair, harmonic_mean(*pair))


def _change(keys: Mapping[Key, Values], zero: Mapping[Key, Values], half: str) -> str:
    """Write by how many points a method is below zero-shot on another dataset."""
    values = keys.get(("cdg", half))
    if not values or keys is zero:
        return ""
    change = over_seeds(zero["cdg", half]).mean - over_seeds(values).mean
    return f"{round(change, 1) + 0.0:+.1f}"


def by_dataset(of: Comparison) -> Table:
    """Base and new of each dataset, and of what cdg tests on (tables 1 and 3), where several are.

    Or of one that the paper has.
    """
    names = list(dict.fromkeys(cell.data for cell in of.found))
    known, far = pairs(BASE_NEW), pairs(CROSS)
    lines = []
    for data in names if len(names) > 1 or names[0] in known else []:
        theirs = dict(zip(METHODS, known.get(data, ()), strict=False))
        after = dict(zip(CROSS_METHODS, far.get(data, ()), strict=False))
        for name, keys in of.every.items():
            base, new, *there = (
                {k: v for k, v in keys.get((protocol, half), {}).items() if k[0] == data}
                for protocol in ("bng", "cdg")
                for half in ("base", "new")
            )
            if base:
                both = written(*harmonic(base, new)) if new else DASH
                line = [data, name, _cell(base), _cell(new), both]
                line.append(_halves(theirs[name]) if name in theirs else "")
                line += [_cell(half) for half in there]
                line.append("{:.1f} / {:.1f}".format(*after[name]) if name in after else "")
                lines.append(line)
    header = ["dataset", "method", "base", "new", "harmonic mean", PUBLISHED]
    header += [f"elsewhere: {half}" for half in ("base", "new")]
    return Table([*header, "published elsewhere"], lines, "Each dataset, %")


def dg(of: Comparison) -> Table:
    """Trained on one domain, tested on the others (table 2)."""
    keys = [key for keys in of.every.values() for key in keys if key[0] == "dg"]
    domains = list(dict.fromkeys(domain for _, (_, domain) in keys))
    shots = max((shots for _, (shots, _) in keys), default=0)
    known = {}
    if set(domains) == set(VARIANTS):
        order = [VARIANTS.index(domain) + 1 for domain in domains]
        known = {n: " / ".join(f"{v[i]:.1f}" for i in (0, *order)) for n, v in DOMAINS.items()}
    lines = []
    for name, own in of.every.items():
        if not any(key[0] == "dg" for key in own):
            continue
        each = [own.get(("dg", (shots, domain))) for domain in domains]
        joined = {
            (f"{data}/{domain}", seed): value
            for domain, values in zip(domains, each, strict=True)
            for (data, seed), value in (values or {}).items()
        }
        mean = over_seeds(joined)
        line = [name, _zero_or(of, name, ("fsl", shots))]
        line += [_zero_or(of, name, ("dg", (shots, domain))) for domain in domains]
        line.append(written(mean.mean, None if name == ZERO_SHOT else mean.spread))
        lines.append([*line, known.get(name, "")] if known else line)
    header = ["method", "own domain", *domains, "mean of the others"]
    header += ["published: own / others"] if known else []
    return Table(header, lines, f"Other domains: {shots} images a class, %", folded=False)


def cost(of: Comparison) -> Table:
    """What training costs beside what it reaches (table 5)."""
    header = ["method", "iterations", "seconds", "CPU seconds", "peak memory, MB", "parameters"]
    header += ["few-shot", "harmonic mean"]
    known = COST if {cell.data for cell in of.found} == {"imagenet"} else {}
    header += ["published: iterations / time / memory"] if known else []
    lines = []
    for name, keys in of.every.items():
        best = max((key for key in keys if key[0] == "fsl"), default=None, key=lambda k: k[1])
        base, new = (keys.get(("bng", half)) for half in ("base", "new"))
        ends = [_zero_or(of, name, best) if best else DASH]
        ends.append(f"{harmonic(base, new).mean:.1f}" if base and new else DASH)
        if known:
            ends.append(" / ".join(known.get(name, ())))
        if name == ZERO_SHOT:
            lines.append([name, "0", "0", "0", DASH, "0", *ends])
        elif one := of.cost.get(name):
            peak = DASH if one.peak_bytes is None else f"{one.peak_bytes / 1e6:,.0f}"
            cpu = DASH if one.cpu_seconds is None else f"{one.cpu_seconds:.2f}"
            line = [name, f"{one.iterations:.0f}", f"{one.seconds:.2f}", cpu, peak]
            lines.append([*line, f"{one.parameters:,.0f}", *ends])
    return Table(header, lines, "What training costs, on the largest subset", folded=False)


def sentence(of: Comparison) -> str:
    """Say what to take with 1, 4, 16 images a class, or those numbers that were run."""
    found = takes(of.every, of.cost, of.images)
    usual = [take for take in found if take.shots in (1, 4, 16)] or found
    mean = lambda take, name: over_seeds(of.every[name]["fsl", take.shots]).mean
    told = []
    for take in usual:
        each = f"with {take.shots} {take.best} ({mean(take, take.best):.1f} %)"
        if take.cheapest != take.best:
            value = mean(take, take.cheapest)
            each += f", which the test cannot tell from the cheaper {take.cheapest} ({value:.1f} %)"
        told.append(each)
    return f"Images a class: {'; '.join(told)}." if told else ""


def notes(of: Comparison) -> list[str]:
    """Explain the tables."""
    said = [
        f"Mean ± standard deviation over seeds {', '.join(map(str, of.seeds))}, of which each has "
        "a subset of its own, the same for all methods (CoOp's draws); the last epoch; no number "
        "was chosen by test images."
    ]
    if of.images:
        noise = 100 * (0.25 / of.images) ** 0.5
        said.append(
            f"{of.images:,} test images: one accuracy near 50 % has a standard error of "
            f"{noise:.1f} points beside that spread."
        )
    said.append("Harmonic means are of the averages over datasets and seeds, 2 B N / (B + N).")
    lacking = [name for name, keys in of.every.items() if _lacks_new(keys) and name != ZERO_SHOT]
    if lacking:
        said.append(f"Heads that hold the base classes answer no new ones: {', '.join(lacking)}.")
    return said


def _lacks_new(keys: Mapping[Key, Values]) -> bool:
    return ("bng", "base") in keys and ("bng", "new") not in keys


def tables(of: Comparison) -> list[Table]:
    """Return the tables that have lines."""
    made = [fsl(of), halves(of, "bng"), by_dataset(of), dg(of), halves(of, "cdg"), cost(of)]
    return [table for table in made if table.lines]


def curves(of: Comparison) -> list[str]:
    """Draw figure 3: accuracy by the number of images a class, the spread as a band."""
    shots = sorted({key[1] for keys in of.every.values() for key in keys if key[0] == "fsl"})
    series = {}
    for name, keys in of.every.items():
        points = [
            (i, over_seeds(keys["fsl", k])) for i, k in enumerate(shots) if ("fsl", k) in keys
        ]
        if points and name != ZERO_SHOT:
            xs, found = zip(*points, strict=True)
            low, high = ([v.mean + sign * (v.spread or 0) for v in found] for sign in (-1, 1))
            series[name] = xs, [v.mean for v in found], low, high
    zero = [over_seeds(v).mean for key, v in of.every[ZERO_SHOT].items() if key[0] == "fsl"]
    ends = [v for _, _, low, high in series.values() for v in (*low, *high)] + zero
    same = {"guide": (zero[0], ZERO_SHOT) if zero else None, "x_names": list(map(str, shots))}
    names = list(series)
    return [
        line_chart(
            "Accuracy by images a class, %",
            {name: series[name] for name in names[i : i + FEW]},
            "images a class",
            "%",
            y_range=(min(ends) - 1, max(ends) + 1),
            **same,
        )
        for i in range(0, len(names), FEW)
    ]


def overfitting(of: Comparison) -> list[str]:
    """Draw figure 6: loss and accuracy on the training images, of two that train an encoder."""
    drawn = []
    for word, told in (("loss", "Training loss"), ("accuracy", "Accuracy on training images")):
        series = {}
        for cell, results in of.found.items():
            points = [
                (record["epoch"], record[key])
                for record in results.get("curves", ())
                for key in MEASURED[word]
                if key in record
            ]
            if cell.method in FIGURE_6 and cell.classes == "base" and points:
                series.setdefault(cell.method, list(zip(*points, strict=True)))
        drawn.append(line_chart(f"{told}, base classes, one seed", series, "epoch", ""))
    return drawn


def in_few(of: Comparison) -> str:
    """Write what a single run has reached."""
    told = []
    for name, keys in of.every.items():
        values = {" ".join(map(str, _flat(key))): v for key, v in keys.items() if key[0] != "dg"}
        told += [f"{name} {key} {over_seeds(v).mean:.1f} %" for key, v in values.items()]
    return ", ".join(told)


def _flat(key: Key) -> tuple:
    return (key[1],) if key[0] in ("bng",) else (f"{key[1]} shots",) if key[0] == "fsl" else key


def about(of: Comparison) -> str:
    """Say what data and model this is of."""
    some = next(iter(of.found.values()))
    names = ", ".join(dict.fromkeys(cell.data for cell in of.found))
    return f"{names}; model {some['model']}"


def markdown(of: Comparison) -> str:
    """Format the comparison as a Markdown page."""
    parts = [f"# Few-shot methods: {about(of)}", sentence(of)]
    parts += [part for table in tables(of) for part in (f"## {table.title}", markdown_table(table))]
    parts += [*notes(of), "## What the paper reports on its own datasets, %"]
    for table in published():
        parts += [f"### {table.title}", markdown_table(table)]
    return "\n\n".join([*filter(None, parts), *NOTES]) + "\n"


def markdown_table(table: Table) -> str:
    """Format a table in Markdown."""
    rows = [table.header, ["---"] + ["---:"] * (len(table.header) - 1), *table.lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def page(of: Comparison) -> str:
    """Render the comparison as a page of its own."""
    own = Chapter("methods", "Methods", items=[Grid([*curves(of), *overfitting(of)]), *tables(of)])
    said = Chapter("notes", "How to read the tables", items=[Note(told) for told in notes(of)])
    paper = [*published(), *map(Note, NOTES)]
    theirs = Chapter("published", "What the paper reports on its own datasets, %", items=paper)
    lead = [told] if (told := sentence(of)) else []
    return document("Few-shot methods", about(of), lead, [own, said, theirs])
