"""The sections of a run's page as lists of items, empty where the run has nothing to show."""

import json
from typing import Any

import numpy as np

from clipjax.data.unlabelled import NO_LABEL, labelled
from clipjax.evaluate import choice as choices
from clipjax.evaluate import results as report
from clipjax.evaluate import sweeps
from clipjax.evaluate import verdict as verdicts
from clipjax.evaluate.report.charts import COLOURS, Bar, bars, colour, scatter
from clipjax.evaluate.report.figures import kept, learning_charts, sweep_chart
from clipjax.evaluate.report.tables import Card, Cards, Grid, Item, Listing, Note, Picture, Table
from clipjax.evaluate.rows import lines_of

BARS = 30  # of changes per class; of more classes the best and the worst halves of that
CONFUSIONS = 4  # named for each class


def colours(results: dict) -> dict[str, str]:
    """Map methods to classes of the style sheet, the same in every chart; zero-shot is grey."""
    trained = dict.fromkeys(r["method"] for r in results["rows"] if r["method"] != "zero_shot")
    return {"zero_shot": "zero"} | {name: colour(i) for i, name in enumerate(trained)}


def summary(results: dict) -> str:
    """Compare zero-shot with the last method, in a sentence."""
    header, (before, *others) = report.cells(results, variants=False)
    if before[0] != "zero_shot" or not others:
        return ""
    labelled = [name for name in results.get("target_labels", ())]
    after = next((line for line in reversed(others) if line[0] not in labelled), others[-1])
    changes = [
        f"{name} {old} → {new} {'points' if name == 'gap' else '%'}"
        for name, old, new in zip(header, before, after, strict=True)
        if name == "gap" or "(source)" in name or "(target)" in name
        if report.NOT_MEASURED not in (old, new)
    ]
    return f"From zero-shot to {after[0]}: {', '.join(changes)}."


def verdict(results: dict) -> list[str]:
    """Say what to take and why, and what next; [] of results without a verdict."""
    return [f"{line[0].upper()}{line[1:]}." for line in verdicts.told(results)]


def headline(results: dict) -> list[Item]:
    """Show the accuracies of methods: bars on target and source, tables on all domains, macro."""
    target = f"{results['data']['target']} (target)"
    tables = [
        Table(header, body, mark=header.index(target) if target in header else -1, folded=False)
        for header, body in (report.cells(results), report.macro_cells(results))
    ]
    said = [*report.notes(results), report.facts(results)]
    notes = [Note(f"{words[0].upper()}{words[1:]}.") for words in said]
    return [Grid([*_accuracy_bars(results), distances(results)]), *tables, *notes]


def sweep(results: dict) -> list[Item]:
    """Compare the settings of a sweep, the best by validation data marked."""
    if "sweep" not in results:
        return []
    note = "* best of its stage by validation data; test accuracy decides nothing here."
    charts = [sweep_chart(results, field) for field in sweeps.fields(results)]
    return [Grid(charts), Table(*sweeps.cells(results), folded=False), Note(note)]


def learning(results: dict, metrics: list[dict]) -> list[Item]:
    """Show curves of every measure."""
    data = results["data"]
    found = learning_charts(metrics, data["source"], data["target"], colours(results))
    seeds = ", and over seeds; bands from lowest to highest." * (len(results["seeds"]) > 1)
    note = f"Mean of each epoch{seeds}"
    return [Note(note), Grid(found)] if found else []


def features(evidence: dict) -> list[Item]:
    """Show maps of the features, coloured by domain, then by class."""
    found = evidence.get("tsne") or {}
    collapsed = "The features of {} are all the same: nothing to map."
    said = [collapsed.format(name) for name in found.get("collapsed", [])]
    if not (maps := kept(found.get("maps", {}))):
        return [Note(" ".join(said))]
    names, classes = [evidence["source"], evidence["target"]], evidence["classes"]
    sizes = len(found["source"]), len(found["target"])
    domain, label = np.repeat([0, 1], sizes), np.asarray(found["labels"])
    of_class = lambda k: "no label" if k == NO_LABEL else classes[k]
    notes = [f"{of_class(k)}, {names[d]}" for k, d in zip(label, domain, strict=True)]
    # A colour for each of the most frequent classes of the target, if known; ties by index.
    known, of_target = labelled(label), domain == 1
    counted = label[known & of_target] if (known & of_target).any() else label[known]
    present, times = np.unique(counted, return_counts=True)
    shown = sorted(present[np.argsort(-times, kind="stable")[:COLOURS]].tolist())
    group = [shown.index(k) if k in shown else -1 for k in label]
    rings: dict[str, Any] = {"shapes": domain, "shape_names": names, "notes": notes}
    labels = [classes[k] for k in shown]
    by_domain = [scatter(f"{k}, by domain", v, domain, names, notes=notes) for k, v in maps.items()]
    by_class = [scatter(f"{k}, by class", v, group, labels, **rings) for k, v in maps.items()]
    others = len(set(label[known].tolist())) - len(shown)
    text = (
        f"t-SNE of the features of {sizes[0]} + {sizes[1]} test images, the same on every map "
        f"(seed {evidence['seed']}); only neighbourhoods mean something, not axes or distances "
        "between groups. Methods without an adapter leave CLIP's features as they are."
    )
    bare = ", images without a label" * (not known.all())
    text += f" By class: {len(shown)} classes, {others} others{bare} grey." if others else ""
    text += " By class: images without a label are grey." if bare and not others else ""
    return [Note(" ".join([text, *said])), Grid(by_domain), Grid(by_class)]


def _accuracy_bars(results: dict) -> list[str]:
    kinds, charts = colours(results), []
    for role in ("target", "source"):
        domain, rows = results["data"][role], []
        for line in lines_of(results["rows"]):
            if (r := line.rows.get(domain)) and r["accuracies"]:
                values = 100 * np.asarray(r["accuracies"])
                note = f"seeds: {', '.join(f'{v:.1f}' for v in values)}" if len(values) > 1 else ""
                mean, std = 100 * r["accuracy_mean"], 100 * r["accuracy_std"]
                ends = mean - std, mean + std
                rows.append(Bar(line.name, mean, *ends, note, kinds[line.method]))
        charts.append(bars(f"Test accuracy on {domain} ({role}), %", rows, unit=" %"))
    return charts


def distances(results: dict) -> str:
    """Draw the proxy A-distances of source and target test images, mean over seeds."""
    kinds = colours(results)
    rows = [
        Bar(name, float(np.mean(v)), min(v), max(v), f"{len(v)} seeds", kinds.get(name, "c0"))
        for name, v in report.measured_distances(results).items()
    ]
    return bars("Proxy A-distance (0 alike, 2 apart)", rows, digits=2)


def class_changes(evidence: dict) -> list[Item]:
    """Show the change of each class's target accuracy from zero-shot to every method, sorted."""
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
    rows = []
    for name, old, new, count in zip(classes, before, after, n, strict=True):
        if old is not None and new != old:
            change, note = 100 * (new - old), f"{100 * old:.0f} % → {100 * new:.0f} % of {count}"
            rows.append(Bar(name, change, note=note, colour="good" if change > 0 else "bad"))
    return sorted(rows, key=lambda row: -row.value)


def worst(evidence: dict) -> list[Item]:
    """Show the worst classes of each method with images; the last method's unfolded."""
    found = {name: classes for name, classes in (evidence.get("worst") or {}).items() if classes}
    if not found:
        return []
    note = (
        f"Classes of lowest accuracy on {evidence['target']}, seed {evidence['seed']}, what "
        "they are mistaken for, and the surest mistakes as the model saw them."
    )
    cards = [
        Cards(name, [_card(each, evidence) for each in found[name]], folded=i > 0)
        for i, name in enumerate(reversed(found))
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


def choice(results: dict) -> list[Item]:
    """Show every method's label-free scores, of which the verdict's rule comes first."""
    if not (found := results.get("choice")):
        return []
    beside = ("zero_shot_agreement", "effective_classes", "prior_distance")
    names = [*choices.ACROSS_RULES, *beside]
    shown = [name for name in names if any(name in own for own in found["scores"].values())]
    shown.sort(key=lambda name: name != found["rule"])
    lines = [
        [name + " *" * (name == found["pick"]), *(_value(_whole(own.get(k)), 3) for k in shown)]
        for name, own in found["scores"].items()
    ]
    text = (
        f"Scores of {found['n']} validation images of {results['data']['target']} without their "
        f"labels, mean ± standard deviation over seeds; * taken by {found['rule']}. The highest is "
        f"best; atc and doc estimate target accuracy; {', '.join(beside)} take nothing alone."
    )
    out = [f"{name} is not taken: {why}." for name, why in found["refused"].items()]
    return [Note(text), Table(["method", *shown], lines, folded=False), Note(" ".join(out))]


def _whole(values: list | None) -> list | None:
    return None if values is None or None in values else values


def selection(results: dict) -> list[Item]:
    """Show the epoch that each rule picks, and its accuracy on both domains."""
    ends = ("source", "target")
    lines = [
        [
            method,
            rule,
            _value(v.get("epoch"), 0),
            *(_value(_whole(v.get(end)), 1, 100) for end in ends),
        ]
        for method, by_rule in (results.get("selection_rules") or {}).items()
        for rule, v in by_rule.items()
    ]
    text = "The epoch that each rule picks, and test accuracy there; an oracle sees target labels."
    header = ["method", "rule", "epoch", *(f"{results['data'][end]} ({end}), %" for end in ends)]
    return [Note(text), Table(header, lines, folded=False)] if lines else []


def _value(value: Any, digits: int, factor: float = 1) -> str:
    numbers = np.atleast_1d(np.asarray([] if value is None else value, float)) * factor
    if not len(numbers):
        return "–"
    spread = f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.{digits}f}{spread}"


def about(results: dict, config: dict) -> list[Item]:
    """Show times, versions and the whole config."""
    seconds = results.get("timing_s") or {}
    steps = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
    versions = ", ".join(f"{k} {v}" for k, v in (results.get("versions") or {}).items())
    lines = [json.dumps(config, indent=2, ensure_ascii=False)] if config else []
    return [
        Note(f"Time: {steps}; {sum(seconds.values()):.0f} s together." if steps else ""),
        Note(f"With {versions}." if versions else ""),
        Listing("Config", lines, folded=True),
    ]
