"""The sections of a run's page on classes: confusions, calibration, changes, the worst."""

import numpy as np

from clipjax.evaluate.report.card import colours, compared
from clipjax.evaluate.report.charts import Bar, bars
from clipjax.evaluate.report.figures import reliability_chart
from clipjax.evaluate.report.matrices import confusion_map
from clipjax.evaluate.report.tables import Card, Cards, Grid, Item, Note, Picture
from clipjax.evaluate.rows import own_rows

BARS = 30  # of changes per class; of more classes the best and the worst halves of that
CONFUSIONS = 4  # named for each class


def shown(results: dict) -> list[str]:
    """Name the methods of which everything is shown: those of the verdict, else first and last."""
    own = list(dict.fromkeys(row["method"] for row in results["rows"]))
    return compared(results) if results.get("verdict") else [*dict.fromkeys((own[0], own[-1]))]


def confusions(results: dict, evidence: dict) -> list[Item]:
    """Show what is taken for what: of the taken method, then of those it is compared with."""
    found, classes = evidence.get("confusion") or {}, evidence.get("classes", [])
    names = [name for name in reversed(shown(results)) if (found.get(name) or {}).get("counts")]
    if not names:
        return []
    charts = []
    for name in names:
        chosen = [classes[k] for k in found[name]["classes"]]
        left = len(classes) - len(chosen)
        title = f"{name}, {len(chosen)} classes of most mistakes" if left else name
        charts.append(confusion_map(title, chosen, found[name]["counts"]))
    text = (
        f"Test images of {evidence['target']}, all seeds. A row is a class, a column the answer; a "
        "cell is as strong as its share of the row. Blue: right."
    )
    first, between = charts[:1] + charts[1:][-1:], charts[1:-1]
    return [Note(text), Grid(first, big=True), Grid(between, ", ".join(names[1:-1]), True)]


def calibration(results: dict, evidence: dict) -> list[Item]:
    """Show whether answers are as often right as they are sure."""
    found, kinds = evidence.get("calibration") or {}, colours(results)
    test, target = own_rows(results["rows"]), results["data"]["target"]
    charts = []
    for name in shown(results):
        if name in found:
            error = (test.get((name, target)) or {}).get("ece")
            known = bool(error) and None not in error
            off = f": off by {100 * np.mean(error):.1f} points" if known else ""
            charts.append(reliability_chart(f"{name}{off}", found[name], kinds[name]))
    text = (
        "Accuracy over confidence on the target's test images, all seeds; a dot is a range of "
        "confidence, as large as its share of the answers. Above the diagonal: right more often "
        "than it is sure. Off by: the expected calibration error, mean over seeds."
    )
    return [Note(text), Grid(charts)] if any(charts) else []


def class_changes(results: dict, evidence: dict) -> list[Item]:
    """Show the change of each class's target accuracy from zero-shot to every method, sorted.

    Methods that the verdict does not compare are folded.
    """
    found = evidence.get("per_class") or {}
    accuracy, n = found.get("accuracy", {}), found.get("n", [])
    before = accuracy.get("zero_shot") or []
    seen, charts, others = sum(old is not None for old in before), [], {}
    first = [name for name in reversed(shown(results)) if name in accuracy]
    for method in dict.fromkeys([*first, *accuracy]):
        after = accuracy[method]
        if method != "zero_shot" and seen:
            rows = _changes(evidence["classes"], before, after, n)
            left = f", {seen - len(rows)} unchanged" if len(rows) < seen else ""
            if len(rows) > BARS:
                left += f", {BARS // 2} best and worst"
                rows = rows[: BARS // 2] + rows[-(BARS // 2) :]
            chart = bars(f"{method}{left}", rows, unit=" points", signed=True)
            if method in first:
                charts.append(chart)
            else:
                others[method] = chart
    if not (charts or others):
        return []
    text = (
        f"From zero-shot to each method: change of accuracy on the test images of "
        f"{evidence['target']}, in points, mean over seeds, for {seen} classes."
    )
    return [Note(text), Grid(charts), Grid([*others.values()], ", ".join(others))]


def _changes(classes: list, before: list, after: list, n: list) -> list[Bar]:
    rows = []
    for name, old, new, count in zip(classes, before, after, n, strict=True):
        if old is not None and new != old:
            change, note = 100 * (new - old), f"{100 * old:.0f} % → {100 * new:.0f} % of {count}"
            rows.append(Bar(name, change, note=note, colour="good" if change > 0 else "bad"))
    return sorted(rows, key=lambda row: -row.value)


def worst(results: dict, evidence: dict) -> list[Item]:
    """Show the worst classes of each method with images; the taken method's unfolded."""
    found = {name: classes for name, classes in (evidence.get("worst") or {}).items() if classes}
    if not found:
        return []
    note = (
        f"Classes of lowest accuracy on {evidence['target']}, seed {evidence['seed']}, what "
        "they are mistaken for, and the surest mistakes as the model saw them."
    )
    first = dict.fromkeys([*(n for n in reversed(shown(results)) if n in found), *reversed(found)])
    cards = [
        Cards(name, [_card(each, evidence) for each in found[name]], folded=i > 0)
        for i, name in enumerate(first)
    ]
    return [Note(note), *cards]


def _card(each: dict, evidence: dict) -> Card:
    names, images = evidence["classes"], evidence.get("images") or {}
    taken = [f"{names[k]} ({count})" for k, count in each["confusions"][:CONFUSIONS]]
    if more := sum(count for _, count in each["confusions"][CONFUSIONS:]):
        taken.append(f"others ({more})")
    name, n = names[each["class"]], each["n"]
    shown = [e for e in each["examples"] if str(e["row"]) in images]
    pictures = [Picture(images[str(e["row"])], name, names[e["predicted"]]) for e in shown]
    right = f"{round(each['accuracy'] * n)} of {n} right"
    return Card(name, right, pictures, f"Taken for {', '.join(taken)}")
