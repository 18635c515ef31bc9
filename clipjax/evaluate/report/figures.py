"""The charts of a run: curves of metrics.jsonl, scores of a sweep."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.evaluate.report.charts import (
    COLOURS,
    WIDTH,
    Scale,
    colour,
    escape,
    figure,
    grid,
    legend,
    line_chart,
)

FIRST = 4  # curves that are not folded
_CLOUD = 280  # height of a map
MAPS = 6  # shown of a run; each costs the page some 80 kB
# Fields of records beside measures; the time of an epoch says nothing about learning.
_NOT_MEASURES = ("epoch", "step", "phase", "method", "s_per_epoch", "seconds")
Curve = tuple[list[float], list[float], list[float], list[float]]  # epochs, mean, lowest, highest


class Panel(NamedTuple):
    """A chart of measures that belong together."""

    title: str
    y_label: str
    keys: tuple[str, ...]  # in the records
    factor: float = 1
    options: dict[str, Any] = {}  # of `line_chart`


_POSITIVE = {"y_range": (0, None)}
_CHANCE = {"y_range": (0, 100), "guide": (50, "guessing (50 %)")}
_DOMAINS = ("domain_accuracy_source", "domain_accuracy_target")
# The known measures, in the order they are shown.
PANELS = (
    Panel("Class loss on the source", "nats", ("class_loss",)),
    Panel("Accuracy on validation images of the source", "%", ("source_val",), 100),
    Panel("Domain classifier's accuracy", "%", _DOMAINS, 100, _CHANCE),
    Panel("Test accuracy on the target (decides nothing)", "%", ("target_test",), 100),
    Panel("Training accuracy on the source", "%", ("source_accuracy",), 100),
    Panel("Domain loss", "nats", ("domain_loss",), 1, {"guide": (math.log(2), "guessing (ln 2)")}),
    Panel("Strength of the reversal, lambda", "lambda", ("lam",), 1, _POSITIVE),
    Panel("Learning rate", "rate", ("lr",), 1, _POSITIVE),
    Panel("Gradient norms, domain loss to class loss", "ratio", ("grad_ratio",), 1, _POSITIVE),
    Panel("Gradient norm", "norm", ("grad_norm",)),
    Panel("Test accuracy on the source", "%", ("source_test",), 100),
    Panel("Accuracy on validation images of the target (oracle)", "%", ("oracle",), 100),
    Panel("Proxy A-distance of source and target", "0 alike, 2 apart", ("proxy_a_distance",)),
)


def curves(metrics: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Return method -> measure -> its curve over epochs: mean, lowest and highest over seeds.

    A record counts if it has an "epoch" and a "method" or a "phase". Epochs of a method's later
    phases go on where the earlier ones ended.
    """
    found: dict[str, dict[str, Curve]] = {}
    ended: dict[str, tuple[str, float, float]] = {}  # method -> phase, its start, last epoch
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
            if key not in _NOT_MEASURES and len(seeds := _numbers(values)):
                curve = found.setdefault(name, {}).setdefault(key, ([], [], [], []))
                row = (epoch, float(seeds.mean()), float(seeds.min()), float(seeds.max()))
                for column, value in zip(curve, row, strict=True):
                    column.append(value)
    return found


def _numbers(values: Any) -> np.ndarray:
    """Return the finite numbers of a list over seeds; none where something else is among them."""
    values = values if isinstance(values, list) else [values]
    numbers = np.array(values if all(type(v) in (int, float) for v in values) else [], float)
    return numbers[np.isfinite(numbers)]


def learning_charts(
    metrics: list[dict[str, Any]], source: str, target: str, colours: dict[str, str]
) -> list[str]:
    """Draw every measure, the known ones first; `colours` maps methods to classes of the style."""
    found = curves(metrics)
    held = {key for measures in found.values() for key in measures}
    named = {key for panel in PANELS for key in panel.keys}
    if "class_loss" in held:  # where the parts of a loss are shown, their sum says nothing new
        named.add("loss")
    others = [Panel(key.replace("_", " "), "", (key,)) for key in sorted(held - named)]
    domains = dict(zip(_DOMAINS, (f", {source}", f", {target}"), strict=True))
    drawn = []
    for panel in [*PANELS, *others]:
        series, kinds = {}, {}
        for method, measures in found.items():
            for i, key in enumerate(panel.keys):
                if key in measures:
                    name = method + domains.get(key, "")
                    epochs, *values = measures[key]
                    series[name] = (epochs, *(panel.factor * np.asarray(v) for v in values))
                    # The second of a method's curves is dashed, in the colour of the method.
                    kinds[name] = colours.get(method, "c0") + (" dashed" if i else "")
        options = {"colours": kinds, **panel.options}
        drawn.append(line_chart(panel.title, series, "epoch", panel.y_label, **options))
    return [chart for chart in drawn if chart]


def kept(maps: dict) -> dict:
    """Select the maps that a page has room for: the first (before training) and the last ones.

    >>> list(kept(dict.fromkeys("abcdefgh")))
    ['a', 'd', 'e', 'f', 'g', 'h']
    """
    found = list(maps.items())
    return dict(found if len(found) <= MAPS else [found[0], *found[1 - MAPS :]])


def scatter(
    title: str,
    points: Sequence,
    groups: Sequence[int],
    names: Sequence[str],
    *,
    shapes: Sequence[int] | None = None,
    shape_names: Sequence[str] = (),
    notes: Sequence[str] | None = None,
    pictures: int = 0,
) -> str:
    """Draw a cloud of points, float [N, 2], without axes (only distances matter); "" of none.

    Args:
      groups: int [N], indices into `names`; -1 is drawn faintly, unnamed.
      shapes: 0 (disc) or 1 (ring) for each point.
      notes: shown on hover, for each point.
      pictures: the first so many points say their number in `data-i`, for the page's script.
      names, shape_names: for the legend.
    """
    points, groups = np.asarray(points, float).reshape(-1, 2), np.asarray(groups, int)
    if not len(points):
        return ""
    shapes = np.zeros(len(points), int) if shapes is None else np.asarray(shapes, int)
    kinds = [colour(i) for i in range(len(names))]
    keys = [*kinds, *("other ", "other ring")[: len(shape_names)]]
    marks = [f'<circle cx="0.0" cy="0.0" r="3" class="{kind}"></circle>' for kind in keys]
    body, bottom = legend(zip([*names, *shape_names], marks, strict=True))
    top, size = bottom + 12, np.array([WIDTH, _CLOUD])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = ((size - 16) / np.maximum(high - low, 1e-9)).min()
    places = (points - (low + high) / 2) * (scale, -scale) + size / 2 + (0, top)
    body += f'<rect class="frame" y="{top:g}" width="{WIDTH}" height="{_CLOUD}" rx="4"/>'
    dots = []
    for i, ((x, y), note) in enumerate(zip(places, notes or [""] * len(points), strict=True)):
        inside = f"><title>{escape(note)}</title></circle>" if note else "/>"
        of = f' data-i="{i}"' if i < pictures else ""
        dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"{of}{inside}')
    for group, kind in ((-1, "other"), *enumerate(kinds)):  # the faint ones first, below the others
        for shape, ring in enumerate(("", " ring")):
            rows = np.flatnonzero((groups == group) & (shapes == shape))
            inner = "".join(dots[i] for i in rows)
            body += f'<g class="cloud {kind}{ring}">{inner}</g>' if inner else ""
    return figure(title, top + _CLOUD + 1, body)


def wise_chart(results: dict, kinds: dict[str, str]) -> str:
    """Draw the other domains' accuracy over the source's from zero-shot to the trained weights.

    A dot each alpha; zero-shot, and what validation images of the source choose, are marked.
    """
    percent = lambda v: float("nan") if v is None else 100 * v
    series = {
        method: [[percent(point[key]) for point in found["curve"]] for key in ("source", "others")]
        for method, found in (results.get("wise") or {}).items()
    }
    title = "WiSE: from zero-shot (alpha 0) to as trained (1)"
    labels = f"test, {results['data']['source']} (ID), %", "test, mean of the others (OOD), %"
    own = {name: kinds.get(name, "c0") for name in series}
    free = iter(sorted(set(map(colour, range(COLOURS))) - set(own.values())))
    for method, found in (results.get("wise") or {}).items():
        x, y = series[method]
        alphas = [point["alpha"] for point in found["curve"]]
        if found["alpha"] in alphas:
            place = alphas.index(found["alpha"])
            name = f"{method}, alpha {found['alpha']:g} by validation"
            series[name], own[name] = [x[place : place + 1], y[place : place + 1]], next(free, "c0")
        if alphas[:1] == [0.0]:
            series["zero-shot"], own["zero-shot"] = [x[:1], y[:1]], "other"
    return line_chart(title, series, *labels, colours=own, dots=True)


def sweep_chart(results: dict, field: str) -> str:
    """Draw the score over a numeric field: mean, lowest and highest of the other settings."""
    found, series = results["sweep"], {}
    scored = [row for row in found["rows"] if row["score_mean"] is not None]
    for stage in dict.fromkeys(row["stage"] for row in scored):
        scores: dict[float, list[float]] = {}
        for row in scored:
            value = row["settings"].get(field)
            if row["stage"] == stage and type(value) in (int, float):
                scores.setdefault(float(value), []).append(row["score_mean"])
        values = [scores[x] for x in sorted(scores)]
        if len(values) > 1:
            columns = ([summary(v) for v in values] for summary in (np.mean, min, max))
            series[stage] = (sorted(scores), *columns)
    return line_chart(f"{found['rule']} over {field}", series, field, "score on validation data")


def reliability_chart(title: str, points: Sequence, kind: str = "c0") -> str:
    """Draw accuracy over confidence; "" of no points.

    Args:
      points: (mean confidence, accuracy, share of the answers) of each range of confidence.
      kind: class of the style sheet.
    """
    if not len(points):
        return ""
    x, y = Scale(0, 100, 40, WIDTH - 8), Scale(0, 100, 220, 38)
    body, dots = grid(x, y, "confidence, %", "right, %"), ""
    body += f'<path class="guide" d="M{x.start:g} {y.start:g}L{x.end:g} {y.end:g}"/>'
    places = [(x.at(100 * sure), y.at(100 * right)) for sure, right, _ in points]
    body += f'<path class="line thin {kind}" d="M{"L".join(f"{a:g} {b:g}" for a, b in places)}"/>'
    for (a, b), (sure, right, share) in zip(places, points, strict=True):
        words = f"{100 * share:.0f} % of the answers: {100 * sure:.0f} % sure, "
        words += f"{100 * right:.0f} % right"
        radius = 2.5 + 14 * share**0.5
        dots += (
            f'<circle cx="{a}" cy="{b}" r="{radius:.1f}"><title>{escape(words)}</title></circle>'
        )
    return figure(title, 252, f'{body}<g class="bubbles {kind}">{dots}</g>')
