"""The sections of a run's page. Each returns HTML, "" where the run has nothing for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.evaluate import report, sweeps
from clipjax.evaluate.drawing import Bar, colour, escape
from clipjax.evaluate.svg import bars

BARS = 30  # of changes per class; of more classes the best and the worst halves of that
CONFUSIONS = 4  # named for each class


def colours(results: dict) -> dict[str, str]:
    """Method -> class of the style sheet, the same in every chart; zero-shot is grey."""
    names = list(dict.fromkeys(r["method"] for r in results["rows"]))
    trained = [name for name in names if name != "zero_shot"]
    return {"zero_shot": "zero"} | {name: colour(i) for i, name in enumerate(trained)}


def table(header: Sequence[str], lines: Sequence[Sequence[str]], mark: int = -1) -> str:
    """A table whose first column names its rows; column `mark` stands out."""

    def row(cells: Sequence[str], tag: str) -> str:
        inner = "".join(
            f"<{'th' if i == 0 else tag}{' class=mark' if i == mark else ''}>{escape(cell)}"
            f"</{'th' if i == 0 else tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{inner}</tr>"

    body = "".join(row(line, "td") for line in lines)
    return (
        f'<div class="wide"><table><thead>{row(header, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def grid(charts: Sequence[str]) -> str:
    """Charts side by side, as many as the window has room for."""
    found = "".join(f"<figure>{chart}</figure>" for chart in charts if chart)
    return f'<div class="grid">{found}</div>' if found else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def summary(results: dict) -> str:
    """From zero-shot to the last method, in a sentence."""
    header, lines = report.cells(results)
    before, after = lines[0], lines[-1]
    if before[0] != "zero_shot" or len(lines) < 2:
        return ""
    units = ["%"] * (len(header) - 2) + ["points"]
    found = [
        f"{name} {old} → {new} {unit}"
        for name, old, new, unit in zip(header[1:], before[1:], after[1:], units, strict=True)
        if name == "gap" or "(source)" in name or "(target)" in name
    ]
    return paragraph(f"From zero-shot to {after[0]}: {', '.join(found)}.", "lead")


def headline(results: dict) -> str:
    """Accuracy of every method on source and target, then on every domain in a table."""
    header, lines = report.cells(results)
    said = [*report.notes(results), report.facts(results)]
    notes = "".join(paragraph(f"{s[0].upper()}{s[1:]}.", "note") for s in said)
    target = results["data"]["target"]
    mark = header.index(f"{target} (target)") if f"{target} (target)" in header else -1
    return grid([*_accuracy_bars(results), distances(results)]) + table(header, lines, mark) + notes


def sweep(results: dict) -> str:
    """The settings of a sweep side by side, the best by validation data marked."""
    if "sweep" not in results:
        return ""
    note = "* best of its stage by validation data; test accuracy decides nothing here."
    charts = [sweeps.chart(results, field) for field in sweeps.fields(results)]
    return grid(charts) + table(*sweeps.cells(results)) + paragraph(note, "note")


def _accuracy_bars(results: dict) -> list[str]:
    kinds, charts = colours(results), []
    for role in ("target", "source"):
        domain, rows = results["data"][role], []
        for r in results["rows"]:
            if (r["domain"], r["split"]) == (domain, "test"):
                values = 100 * np.asarray(r["accuracies"])
                note = f"seeds: {', '.join(f'{v:.1f}' for v in values)}" if len(values) > 1 else ""
                mean, std = 100 * r["accuracy_mean"], 100 * r["accuracy_std"]
                rows.append(
                    Bar(r["method"], mean, mean - std, mean + std, note, kinds[r["method"]])
                )
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


def class_changes(results: dict, evidence: dict) -> str:
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
        return ""
    text = (
        f"From zero-shot to each method: change of accuracy on the test images of "
        f"{evidence['target']}, in points, mean over seeds, for {seen} classes."
    )
    return paragraph(text, "note") + grid(charts)


def _changes(classes: list, before: list, after: list, n: list) -> list[Bar]:
    """A bar for each class whose accuracy moved, gains first."""
    rows = []
    for name, old, new, count in zip(classes, before, after, n, strict=True):
        if old is not None and new != old:
            change, note = 100 * (new - old), f"{100 * old:.0f} % → {100 * new:.0f} % of {count}"
            rows.append(Bar(name, change, note=note, colour="good" if change > 0 else "bad"))
    return sorted(rows, key=lambda row: -row.value)


def worst(evidence: dict) -> str:
    """The worst classes of each method with images; the last method's unfolded."""
    found = {name: classes for name, classes in (evidence.get("worst") or {}).items() if classes}
    if not found:
        return ""
    parts = [
        paragraph(
            f"Classes of lowest accuracy on {evidence['target']}, seed {evidence['seed']}, what "
            "they are mistaken for, and the surest mistakes as the model saw them.",
            "note",
        )
    ]
    for name in reversed(found):
        cards = "".join(_card(each, evidence) for each in found[name])
        opened = " open" if len(parts) == 1 else ""
        parts.append(
            f"<details{opened}><summary>{escape(name)}</summary>"
            f'<div class="cards">{cards}</div></details>'
        )
    return "".join(parts)


def _card(each: dict, evidence: dict) -> str:
    """A class: how often it is right, what it is taken for, some images."""
    names, images = evidence["classes"], evidence.get("images") or {}
    taken = [f"{names[k]} ({count})" for k, count in each["confusions"][:CONFUSIONS]]
    if more := sum(count for _, count in each["confusions"][CONFUSIONS:]):
        taken.append(f"others ({more})")
    right, n = round(each["accuracy"] * each["n"]), each["n"]
    pictures = "".join(
        f'<figure><img src="{escape(images[str(e["row"])])}" alt="{escape(names[each["class"]])}">'
        f"<figcaption>{escape(names[e['predicted']])}</figcaption></figure>"
        for e in each["examples"]
        if str(e["row"]) in images
    )
    return (
        f'<article><h3>{escape(names[each["class"]])} <span class="muted">{right} of {n} right'
        f'</span></h3><p class="note">Taken for {escape(", ".join(taken))}</p>'
        f'<div class="pictures">{pictures}</div></article>'
    )


def selection(results: dict) -> str:
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
        return ""
    source, target = results["data"]["source"], results["data"]["target"]
    text = "The epoch that each rule picks, and test accuracy there; an oracle sees target labels."
    header = ["method", "rule", "epoch", f"{source} (source), %", f"{target} (target), %"]
    return paragraph(text, "note") + table(header, lines)


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


def about(results: dict, config: dict) -> str:
    """Times, versions and the whole config."""
    seconds, versions = results.get("timing_s") or {}, results.get("versions") or {}
    found = ""
    if seconds:
        steps = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
        found += paragraph(f"Time: {steps}; {sum(seconds.values()):.0f} s together.", "note")
    if versions:
        found += paragraph(f"With {', '.join(f'{k} {v}' for k, v in versions.items())}.", "note")
    if config:
        text = escape(json.dumps(config, indent=2, ensure_ascii=False))
        found += f"<details><summary>Config</summary><pre>{text}</pre></details>"
    return found
