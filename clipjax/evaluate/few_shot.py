"""Few-shot methods compared over protocols, from the results of a run for each method and subset.

FSL: few images of all classes, tested on the same domain. DG: the same training, tested on the
others. BNG: few images of the base classes, tested on these and on the new ones, each half among
itself. CDG: the same training, tested on the halves of another dataset's classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.evaluate.metrics import harmonic_mean
from clipjax.evaluate.rows import lines_of

ZERO_SHOT = "zero_shot"
PROTOCOLS = ("fsl", "bng", "dg", "cdg")
NEW, OTHER_BASE, OTHER_NEW = "new", "other_base", "other_new"  # evaluations of a run on base

Values = dict[tuple[str, int], float]  # (dataset, seed) -> accuracy in %
Key = tuple[str, Any]  # ("fsl", shots), ("dg", domain), ("bng", "base" or "new"), ("cdg", ...)


class Cell(NamedTuple):
    """A run: a method on a subset of a dataset."""

    method: str
    data: str  # the dataset's name
    classes: str  # that it trains on: "all" or "base"
    shots: int
    seed: int  # of the subset and of the training


class Value(NamedTuple):
    """An accuracy in %, and its standard deviation over seeds where there are several."""

    mean: float
    spread: float | None


class Cost(NamedTuple):
    """What a method's training costs on the largest subset, medians over its runs."""

    iterations: float
    seconds: float
    cpu_seconds: float | None  # of all cores together
    peak_bytes: float | None
    parameters: float


class Take(NamedTuple):
    """The methods to take with so many images a class."""

    shots: int
    best: str
    cheapest: str  # of those that the test cannot tell from the best
    noise: float  # standard error of a difference, in points


def over_seeds(values: Values) -> Value:
    """Average over datasets, then over seeds; the spread is over seeds.

    >>> over_seeds({("a", 1): 40.0, ("b", 1): 60.0, ("a", 2): 42.0, ("b", 2): 62.0})
    Value(mean=51.0, spread=1.4142135623730951)
    """
    means = _by_seed(values)
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Value(float(np.mean(means)), spread)


def harmonic(base: Values, new: Values) -> Value:
    """Return the harmonic mean of the averages, never the average of harmonic means.

    >>> harmonic({("a", 1): 90.0, ("b", 1): 70.0}, {("a", 1): 60.0, ("b", 1): 80.0})
    Value(mean=74.66666666666667, spread=None)
    """
    each = [harmonic_mean(*pair) for pair in zip(_by_seed(base), _by_seed(new), strict=True)]
    whole = harmonic_mean(over_seeds(base).mean, over_seeds(new).mean)
    return Value(whole, float(np.std(each, ddof=1)) if len(each) > 1 else None)


def _by_seed(values: Values) -> list[float]:
    seeds = sorted({seed for _, seed in values})
    return [float(np.mean([v for (_, s), v in values.items() if s == seed])) for seed in seeds]


def gathered(
    found: Mapping[Cell, Mapping[str, Any]], variants: Mapping[str, tuple[str, str]]
) -> dict[str, dict[Key, Values]]:
    """Return row -> key -> accuracies, zero-shot first.

    `found` maps cells to results.json's content. `variants` maps a row to the method and the
    variant that it shows; other rows are methods, with their own results.
    """
    every: dict[str, dict[Key, Values]] = {ZERO_SHOT: {}}
    for cell, results in found.items():
        shown = {row: of for row, of in variants.items() if of[0] == cell.method}
        if cell.method not in shown:
            shown = {cell.method: (cell.method, "")} | shown
        for key, rows in _keyed(cell, results).items():
            for name, (method, variant) in {ZERO_SHOT: (ZERO_SHOT, ""), **shown}.items():
                if (value := _accuracy(rows, method, variant)) is not None:
                    own = every.setdefault(name, {}).setdefault(key, {})
                    own[cell.data, cell.seed] = value
    return every


def _keyed(cell: Cell, results: Mapping[str, Any]) -> dict[Key, list[tuple[str, str, Any]]]:
    """Return key -> (method, its variant or "" for its own, row) of a run's test results."""
    found: dict[Key, list] = {}
    source = results["data"]["source"]

    def take(classes: str, key_of) -> None:
        for line in lines_of(results["rows"], classes=classes):
            for domain, row in line.rows.items():
                if (key := key_of(domain)) and row["accuracy_mean"] is not None:
                    found.setdefault(key, []).append((line.method, line.variant, line.own, row))

    if cell.classes == "all":
        take("all", lambda d: ("fsl", cell.shots) if d == source else ("dg", (cell.shots, d)))
        return found
    own = lambda key: lambda d: key if d == source else None
    take("all", own(("bng", "base")))
    for name, key in ((NEW, ("bng", "new")), (OTHER_BASE, ("cdg", "base"))):
        take(name, own(key))
    take(OTHER_NEW, own(("cdg", "new")))
    return found


def _accuracy(rows: Iterable, method: str, variant: str) -> float | None:
    for name, its, own, row in rows:
        if name == method and (its == variant or (own and not variant)):
            return 100 * row["accuracy_mean"]
    return None


def costs(
    found: Mapping[Cell, Mapping[str, Any]], variants: Mapping[str, tuple[str, str]]
) -> dict[str, Cost]:
    """Return row -> what its training costs, on its largest subset."""
    by_method: dict[str, list[tuple[tuple, Mapping]]] = {}
    for cell, results in found.items():
        if one := results.get("cost", {}).get(cell.method):
            by_method.setdefault(cell.method, []).append(((cell.shots, cell.classes), one))
    rows = {row: method for row, (method, _) in variants.items()}
    rows |= {method: method for method in by_method if method not in rows.values()}
    return {row: _of_largest(by_method[m]) for row, m in rows.items() if m in by_method}


def _of_largest(sized: Sequence[tuple[tuple, Mapping[str, Any]]]) -> Cost:
    """Return medians over the runs of most images, which leave out the one of three that compiles.

    `sized` are ((shots, classes), what results.json has of the cost).
    """
    most = max((size for size, _ in sized), key=lambda size: (size[0], size[1] == "all"))
    entries = [one for size, one in sized if size == most]
    known = {key: [v for e in entries if (v := e.get(key)) is not None] for key in Cost._fields}
    return Cost(**{k: float(np.median(each)) if each else None for k, each in known.items()})


def takes(
    every: Mapping[str, Mapping[Key, Values]], cost: Mapping[str, Cost], images: int
) -> list[Take]:
    """Return which methods to take, by the test accuracy of FSL, for each number of shots.

    Of the methods within one standard error of a difference from the best, `images` test images
    taken as independent, the cheapest is the one of fewest seconds; zero-shot costs nothing.
    """
    found = []
    for shots in sorted({key[1] for keys in every.values() for key in keys if key[0] == "fsl"}):
        means = {
            name: over_seeds(keys["fsl", shots]).mean
            for name, keys in every.items()
            if ("fsl", shots) in keys
        }
        best = max(means, key=means.__getitem__)
        share = means[best] / 100
        noise = 100 * (2 * share * (1 - share) / images) ** 0.5
        near = [name for name, mean in means.items() if mean >= means[best] - noise]
        seconds = lambda name: cost[name].seconds if name in cost else 0.0
        found.append(Take(shots, best, min(near, key=lambda n: (seconds(n), -means[n])), noise))
    return found
