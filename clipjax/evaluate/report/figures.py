"""The charts of a run: curves of metrics.jsonl, maps of features, scores of a sweep."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from clipjax.evaluate.report.charts import COLOURS, line_chart, scatter

MAPS = 6  # shown of a run; each costs the page some 80 kB
# What records hold beside measures; the time of an epoch says nothing about learning.
_NOT_MEASURES = ("epoch", "step", "phase", "method", "s_per_epoch", "seconds")
Curve = tuple[list[float], list[float], list[float], list[float]]  # epochs, mean, lowest, highest


class Panel(NamedTuple):
    """A chart of the measures that belong together."""

    title: str
    y_label: str
    keys: dict[str, str]  # key in the records -> how its curves are called beside the method
    y_range: tuple[float | None, float | None] = (None, None)
    guide: tuple[float, str] | None = None
    percent: bool = False


def panels(source: str, target: str) -> list[Panel]:
    """The charts that are known by name, in the order they are shown."""
    accuracies = {"domain_accuracy_source": source, "domain_accuracy_target": target}
    return [
        Panel("Class loss on the source", "nats", {"class_loss": ""}),
        Panel("Training accuracy on the source", "%", {"source_accuracy": ""}, percent=True),
        Panel(
            "Domain loss",
            "nats",
            {"domain_loss": ""},
            guide=(math.log(2), "guessing (ln 2)"),
        ),
        Panel(
            "Domain classifier's accuracy",
            "%",
            accuracies,
            y_range=(0, 100),
            guide=(50, "guessing (50 %)"),
            percent=True,
        ),
        Panel("Strength of the reversal, lambda", "lambda", {"lam": ""}, (0, None)),
        Panel("Learning rate", "rate", {"lr": ""}, (0, None)),
        Panel("Gradient norms, domain loss to class loss", "ratio", {"grad_ratio": ""}, (0, None)),
        Panel("Gradient norm", "norm", {"grad_norm": ""}),
    ]


def curves(metrics: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Method -> measure -> its curve over epochs, over seeds mean, lowest and highest.

    A record counts if it has an "epoch" and names its method, as "method" or as "phase". Epochs of
    a method's later phases go on where the earlier ones ended.
    """
    found: dict[str, dict[str, Curve]] = {}
    ended: dict[str, tuple[str, float, float]] = {}  # method -> phase, where it began, last epoch
    for record in metrics:
        name = record.get("method", record.get("phase"))
        if name is None or not isinstance(record.get("epoch"), int | float):
            continue
        phase = record.get("phase", name)
        before, began, last = ended.get(name, (phase, 0, 0))
        if phase != before:
            # Phases that count from the run's start rise by themselves.
            began = last if record["epoch"] <= last else 0
        epoch = began + record["epoch"]
        ended[name] = (phase, began, max(last, epoch))
        for key, values in record.items():
            if key not in _NOT_MEASURES and (seeds := _numbers(values)) is not None:
                curve = found.setdefault(name, {}).setdefault(key, ([], [], [], []))
                row = (epoch, float(seeds.mean()), float(seeds.min()), float(seeds.max()))
                for column, value in zip(curve, row, strict=True):
                    column.append(value)
    return found


def _numbers(values: Any) -> np.ndarray | None:
    """The finite numbers of a list over seeds, or None if that is not what `values` is."""
    values = values if isinstance(values, list) else [values]
    if not values or not all(type(v) in (int, float) for v in values):
        return None
    numbers = np.asarray(values, float)
    numbers = numbers[np.isfinite(numbers)]
    return numbers if len(numbers) else None


def learning_charts(
    metrics: list[dict[str, Any]], source: str, target: str, colours: dict[str, str]
) -> list[str]:
    """SVG of every measure that the records hold: the known ones first, then others by name.

    Args:
      metrics: records of metrics.jsonl.
      source, target: names of the domains.
      colours: method -> class of the style sheet.
    """
    found = curves(metrics)
    held = {key for measures in found.values() for key in measures}
    known = panels(source, target)
    # Where the parts of a loss are shown, their sum says nothing new.
    named = {key for panel in known for key in panel.keys} | (
        {"loss"} if "class_loss" in held else set()
    )
    others = [Panel(key.replace("_", " "), "", {key: ""}) for key in sorted(held - named)]
    drawn = [_chart(panel, found, colours) for panel in [*known, *others]]
    return [chart for chart in drawn if chart]


def _chart(panel: Panel, found: dict[str, dict[str, Curve]], colours: dict[str, str]) -> str:
    factor, series, kinds = 100 if panel.percent else 1, {}, {}
    for method, measures in found.items():
        for i, (key, suffix) in enumerate(panel.keys.items()):
            if key in measures:
                name = f"{method}, {suffix}" if suffix else method
                epochs, *values = measures[key]
                series[name] = (epochs, *(factor * np.asarray(v) for v in values))
                # The second of a method's curves is dashed, in the colour of the method.
                kinds[name] = colours.get(method, "c0") + (" dashed" if i else "")
    return line_chart(
        panel.title,
        series,
        "epoch",
        panel.y_label,
        colours=kinds,
        y_range=panel.y_range,
        guide=panel.guide,
    )


def kept(maps: dict) -> dict:
    """The entries that a page has room for: the first, which is before, and the last ones.

    >>> list(kept(dict.fromkeys("abcdefgh")))
    ['a', 'd', 'e', 'f', 'g', 'h']
    """
    found = list(maps.items())
    return dict(found if len(found) <= MAPS else [found[0], *found[1 - MAPS :]])


def feature_maps(evidence: dict) -> tuple[list[str], list[str], str]:
    """Charts coloured by domain, the same coloured by class, and what to know about them."""
    found = evidence.get("tsne") or {}
    maps = kept(found.get("maps", {}))
    said = [
        f"The features of {name} are all the same: nothing to map."
        for name in found.get("collapsed", [])
    ]
    if not maps:
        return [], [], " ".join(said)
    names = [evidence["source"], evidence["target"]]
    sizes = len(found["source"]), len(found["target"])
    domain, label = np.repeat([0, 1], sizes), np.asarray(found["labels"])
    notes = [f"{evidence['classes'][k]}, {names[d]}" for k, d in zip(label, domain, strict=True)]
    shown = frequent(label[domain == 1] if sizes[1] else label)
    group = np.asarray([shown.index(k) if k in shown else -1 for k in label])
    classes = [evidence["classes"][k] for k in shown]
    by_domain = [
        scatter(f"{name}, by domain", points, domain, names, notes=notes)
        for name, points in maps.items()
    ]
    by_class = [
        scatter(
            f"{name}, by class",
            points,
            group,
            classes,
            shapes=domain,
            shape_names=names,
            notes=notes,
        )
        for name, points in maps.items()
    ]
    others = len(set(label.tolist())) - len(shown)
    text = (
        f"t-SNE of the features of {sizes[0]} + {sizes[1]} test images, the same on every map "
        f"(seed {evidence['seed']}); only neighbourhoods mean something, not axes or distances "
        "between groups. Methods without an adapter leave CLIP's features as they are."
    )
    text += f" By class: {len(shown)} classes, {others} others grey." if others else ""
    return by_domain, by_class, " ".join([text, *said])


def frequent(labels: np.ndarray) -> list[int]:
    """The classes with most examples, as many as there are colours; ties by index."""
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")[:COLOURS]
    return sorted(int(k) for k in order if counts[k])


def sweep_chart(results: dict, field: str) -> str:
    """The score over the values of a numeric field: mean, lowest and highest of other settings."""
    found, series = results["sweep"], {}
    for stage in dict.fromkeys(row["stage"] for row in found["rows"]):
        scores: dict[float, list[float]] = {}
        for row in found["rows"]:
            value = row["settings"].get(field)
            if row["stage"] == stage and row["score_mean"] is not None and _is_number(value):
                scores.setdefault(float(value), []).append(row["score_mean"])
        values = [scores[x] for x in sorted(scores)]
        if len(values) > 1:
            columns = ([np.mean(v) for v in values], [min(v) for v in values])
            series[stage] = (sorted(scores), *columns, [max(v) for v in values])
    return line_chart(f"{found['rule']} over {field}", series, field, "score on validation data")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
