"""The comparison of `clipjax.evaluate.few_shot` as sentences, figures and pages."""

from collections.abc import Mapping

from clipjax.evaluate.few_shot import ZERO_SHOT, Key, Values, over_seeds, takes
from clipjax.evaluate.report.charts import line_chart
from clipjax.evaluate.report.few_shot_published import NOTES, published
from clipjax.evaluate.report.few_shot_tables import Comparison, tables
from clipjax.evaluate.report.page import document
from clipjax.evaluate.report.tables import Chapter, Grid, Note, Table

FEW = 7  # curves of a chart
FIGURE_6 = ("ft_probe", "clip_cite")
MEASURED = {"loss": ("loss",), "accuracy": ("source_accuracy", "batch_accuracy")}  # in logs


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
