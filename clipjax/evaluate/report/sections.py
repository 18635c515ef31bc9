"""The sections of a run's page, as items; none of what the run does not have."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from clipjax.evaluate import results as report
from clipjax.evaluate import sweeps
from clipjax.evaluate.report.charts import Bar, bars, colour
from clipjax.evaluate.report.figures import feature_maps, learning_charts, sweep_chart
from clipjax.evaluate.report.tables import Card, Cards, Grid, Item, Listing, Note, Picture, Table
from clipjax.evaluate.rows import lines_of

BARS = 30  # of changes per class; of more classes the best and the worst halves of that
CONFUSIONS = 4  # named for each class


def colours(results: dict) -> dict[str, str]:
    """Method -> class of the style sheet, the same in every chart; zero-shot is grey."""
    names = list(dict.fromkeys(r["method"] for r in results["rows"]))
    trained = [name for name in names if name != "zero_shot"]
    return {"zero_shot": "zero"} | {name: colour(i) for i, name in enumerate(trained)}


def summary(results: dict) -> str:
    """From zero-shot to the last method, in a sentence."""
    header, found = report.cells(results, variants=False)
    before, after = found[0], found[-1]
    if before[0] != "zero_shot" or len(found) < 2:
        return ""
    units = ["%"] * (len(header) - 2) + ["points"]
    changes = [
        f"{name} {old} → {new} {unit}"
        for name, old, new, unit in zip(header[1:], before[1:], after[1:], units, strict=True)
        if name == "gap" or "(source)" in name or "(target)" in name
    ]
    return f"From zero-shot to {after[0]}: {', '.join(changes)}."


def headline(results: dict) -> list[Item]:
    """Accuracy of every method on source and target, then in a table on every domain; macro."""
    said = [*report.notes(results), report.facts(results)]
    target = f"{results['data']['target']} (target)"

    def shown(header: list[str], body: list[list[str]]) -> Table:
        mark = header.index(target) if target in header else -1
        return Table(header, body, mark=mark, folded=False)

    return [
        Grid([*_accuracy_bars(results), distances(results)]),
        shown(*report.cells(results)),
        shown(*report.macro_cells(results)),
        *(Note(f"{s[0].upper()}{s[1:]}.") for s in said),
    ]


def sweep(results: dict) -> list[Item]:
    """The settings of a sweep side by side, the best by validation data marked."""
    if "sweep" not in results:
        return []
    note = "* best of its stage by validation data; test accuracy decides nothing here."
    charts = [sweep_chart(results, field) for field in sweeps.fields(results)]
    return [Grid(charts), Table(*sweeps.cells(results), folded=False), Note(note)]


def learning(results: dict, metrics: list[dict]) -> list[Item]:
    """Curves of every measure."""
    data = results["data"]
    found = learning_charts(metrics, data["source"], data["target"], colours(results))
    several = len(results["seeds"]) > 1
    note = "Mean of each epoch" + (", and over seeds; bands from lowest to highest." * several)
    return [Note(note), Grid(found)] if found else []


def features(evidence: dict) -> list[Item]:
    """Maps of the features, by domain, then by class."""
    by_domain, by_class, said = feature_maps(evidence)
    return [Note(said), Grid(by_domain), Grid(by_class)]


def _accuracy_bars(results: dict) -> list[str]:
    kinds, charts = colours(results), []
    for role in ("target", "source"):
        domain, rows = results["data"][role], []
        for line in lines_of(results["rows"]):
            if r := line.rows.get(domain):
                values = 100 * np.asarray(r["accuracies"])
                note = f"seeds: {', '.join(f'{v:.1f}' for v in values)}" if len(values) > 1 else ""
                mean, std = 100 * r["accuracy_mean"], 100 * r["accuracy_std"]
                kind = kinds[line.method]
                rows.append(Bar(line.name, mean, mean - std, mean + std, note, kind))
        charts.append(bars(f"Test accuracy on {domain} ({role}), %", rows, unit=" %"))
    return charts


def distances(results: dict) -> str:
    """Bars of the proxy A-distance of source and target test images, mean over seeds."""
    kinds = colours(results)
    measured = {
        name: [value for value in values if value is not None]
        for name, values in (results.get("proxy_a_distance") or {}).items()
    }
    rows = [
        Bar(name, float(np.mean(v)), min(v), max(v), f"{len(v)} seeds", kinds.get(name, "c0"))
        for name, v in measured.items()
        if v
    ]
    return bars("Proxy A-distance (0 alike, 2 apart)", rows, digits=2)


def class_changes(evidence: dict) -> list[Item]:
    """What every method changed of every class on the target, sorted."""
    found = evidence.get("per_class") or {}
    accuracy, n = found.get("accuracy", {}), found.get("n", [])
    before = accuracy.get("zero_shot") or []
    seen, charts = sum(old is not None for old in before), []
    for method, after in accuracy.items():
        if method != "zero_shot" and seen:
            rows = _changes(evidence["classes"], before, after, n)
            left = f", {seen - len(rows)} unchanged" if len(rows) < seen else ""
            if len(rows) > BARS:
                left += f", {BARS // 2} best and worst"
                rows = rows[: BARS // 2] + rows[-(BARS // 2) :]
            charts.append(bars(f"{method}{left}", rows, unit=" points", signed=True))
    if not charts:
        return []
    text = (
        f"From zero-shot to each method: change of accuracy on the test images of "
        f"{evidence['target']}, in points, mean over seeds, for {seen} classes."
    )
    return [Note(text), Grid(charts)]


def _changes(classes: list, before: list, after: list, n: list) -> list[Bar]:
    """A bar for each class whose accuracy moved, gains first."""
    rows = []
    for name, old, new, count in zip(classes, before, after, n, strict=True):
        if old is not None and new != old:
            change, note = 100 * (new - old), f"{100 * old:.0f} % → {100 * new:.0f} % of {count}"
            rows.append(Bar(name, change, note=note, colour="good" if change > 0 else "bad"))
    return sorted(rows, key=lambda row: -row.value)


def worst(evidence: dict) -> list[Item]:
    """The worst classes of each method with images; the last method's unfolded."""
    found = {name: classes for name, classes in (evidence.get("worst") or {}).items() if classes}
    if not found:
        return []
    note = (
        f"Classes of lowest accuracy on {evidence['target']}, seed {evidence['seed']}, what "
        "they are mistaken for, and the surest mistakes as the model saw them."
    )
    first, *others = [
        Cards(name, [_card(each, evidence) for each in found[name]], folded=True)
        for name in reversed(found)
    ]
    return [Note(note), first._replace(folded=False), *others]


def _card(each: dict, evidence: dict) -> Card:
    """A class: how often it is right, what it is taken for, some images."""
    names, images = evidence["classes"], evidence.get("images") or {}
    taken = [f"{names[k]} ({count})" for k, count in each["confusions"][:CONFUSIONS]]
    if more := sum(count for _, count in each["confusions"][CONFUSIONS:]):
        taken.append(f"others ({more})")
    name, n = names[each["class"]], each["n"]
    pictures = [
        Picture(images[str(e["row"])], name, names[e["predicted"]])
        for e in each["examples"]
        if str(e["row"]) in images
    ]
    right = f"{round(each['accuracy'] * n)} of {n} right"
    return Card(name, right, pictures, f"Taken for {', '.join(taken)}")


def selection(results: dict) -> list[Item]:
    """Which epoch each rule would pick, and what it is worth on both domains."""
    rules = results.get("selection_rules") or {}
    lines = [
        [
            method,
            rule,
            _value(v.get("epoch"), 0),
            _percent(v.get("source")),
            _percent(v.get("target")),
        ]
        for method, by_rule in rules.items()
        for rule, v in by_rule.items()
    ]
    if not lines:
        return []
    source, target = results["data"]["source"], results["data"]["target"]
    text = "The epoch that each rule picks, and test accuracy there; an oracle sees target labels."
    header = ["method", "rule", "epoch", f"{source} (source), %", f"{target} (target), %"]
    return [Note(text), Table(header, lines, folded=False)]


def _value(value: Any, digits: int, factor: float = 1) -> str:
    """A number, or several over seeds as mean and spread."""
    numbers = np.atleast_1d(np.asarray([] if value is None else value, float)) * factor
    if not len(numbers):
        return "–"
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f}"
    return f"{numbers.mean():.{digits}f} ± {numbers.std(ddof=1):.{digits}f}"


def _percent(value: Any) -> str:
    return _value(value, 1, 100)


def about(results: dict, config: dict) -> list[Item]:
    """Times, versions and the whole config."""
    seconds, versions = results.get("timing_s") or {}, results.get("versions") or {}
    steps = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
    return [
        Note(f"Time: {steps}; {sum(seconds.values()):.0f} s together." if seconds else ""),
        Note(f"With {', '.join(f'{k} {v}' for k, v in versions.items())}." if versions else ""),
        Listing(
            "Config",
            [json.dumps(config, indent=2, ensure_ascii=False)] if config else [],
            folded=True,
        ),
    ]
