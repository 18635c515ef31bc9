"""Ways of fine-tuning over shares of the data, from the results of a run for each subset and seed.

ID is the domain that was trained on, OOD the mean over all others. Where a way has several
candidates (rates, shares of WiSE-FT) ID validation picks one for each share of the data; an oracle
that saw OOD test accuracy stands beside, as the one that chose in arXiv 2311.02236.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.evaluate.rows import CLASSES, METRIC, complete
from clipjax.evaluate.wise import PREFIX

ZERO_SHOT, RANDOM = "zero-shot", "random_head"
# Line of the comparison -> which of a run's results are its candidates: "stage variant".
WAYS = {
    ZERO_SHOT: "zero_shot last",
    "linear probe": "linear_probe last",
    "probe from zero-shot": "linear_probe_zero_shot last",
    "vision-only": "vision_only last",
    "CE": "ce last",
    "CE + SWA": "ce average",
    "CE + WiSE": f"zero_shot last|ce (last|{PREFIX}.*)",
    "CE + WiSE 0.5": f"ce {PREFIX}0\\.5",
    "FLYP": "flyp last",
}
_ENDS = {"zero_shot": "alpha 0", "ce": "alpha 1"}  # of WiSE-FT
_RANDOM = ("linear probe", "vision-only")  # what they are without data
# What is compared with what.
AGAINST = (
    ("CE", ZERO_SHOT),
    ("probe from zero-shot", ZERO_SHOT),
    ("CE", "linear probe"),
    ("CE", "vision-only"),
    ("CE + SWA", "CE"),
    ("CE + WiSE", "CE"),
    ("CE + WiSE 0.5", "CE"),
    ("FLYP", "CE"),
)

Run = tuple[int, int]  # seeds of the subset and of the training
Cell = tuple[float, int, int]  # share of the data, and these
Candidate = tuple[str, str]  # method, variant
Values = dict[Run, float]


class Point(NamedTuple):
    """A way at a share of the data."""

    way: str
    share: float
    several: bool  # whether there are candidates to pick from
    pick: Candidate  # of ID validation
    oracle: Candidate  # of OOD test accuracy
    found: dict[str, Values]  # of the pick, in %: "id", "ood", "id_f1", "ood_f1"
    seen: dict[str, Values]  # of the oracle's


class Summary(NamedTuple):
    """Values of runs: their mean, and standard deviations where there are two runs or more."""

    mean: float
    seeds: float | None  # over seeds on one subset, mean over subsets
    subsets: float | None  # over subsets with one seed, mean over seeds


class Gain(NamedTuple):
    """One way less another on the same share, subset and seed, in points."""

    way: str
    other: str
    id: np.ndarray  # [runs]
    ood: np.ndarray


def summary(values: Values) -> Summary:
    """Summarise the values of runs.

    >>> summary({(0, 0): 1.0, (0, 1): 3.0, (1, 0): 1.0})
    Summary(mean=1.6666666666666667, seeds=1.4142135623730951, subsets=0.0)
    """
    return Summary(float(np.mean([*values.values()])), _within(values, 0), _within(values, 1))


def _within(values: Values, fixed: int) -> float | None:
    """Return the mean over groups alike in one place of a run of the standard deviation in each."""
    groups: dict[int, list[float]] = {}
    for run, value in values.items():
        groups.setdefault(run[fixed], []).append(value)
    several = [np.std(group, ddof=1) for group in groups.values() if len(group) > 1]
    return float(np.mean(several)) if several else None


def measures(results: Mapping[str, Any]) -> dict[Candidate, dict[str, float]]:
    """Return, in %, of each result of a run "val" (ID), "id", "ood", "id_f1" and "ood_f1"."""
    source, parts = results["data"]["source"], {}
    for row in map(complete, results["rows"]):
        if (row["metric"], row["classes"]) != (METRIC, CLASSES):  # of another evaluation
            continue
        named = parts.setdefault((row["method"], row["variant"]), {})
        if row["accuracy_mean"] is not None:
            named[row["domain"], row["split"]] = row
    found = {}
    for candidate, rows in parts.items():
        own = rows[source, "test"]
        others = [row for (d, split), row in rows.items() if split == "test" and d != source]
        mean = lambda key: float(np.mean([row[key] for row in others]))  # noqa: B023
        one = {"val": rows[source, "val"]["accuracy_mean"], "id": own["accuracy_mean"]}
        one |= {"ood": mean("accuracy_mean"), "id_f1": own["macro_f1_mean"]}
        one |= {"ood_f1": mean("macro_f1_mean")}
        found[candidate] = {key: 100 * value for key, value in one.items()}
    return found


def _near_zero_shot(candidate: Candidate) -> tuple:
    """Order candidates: of equals the first is taken, the one nearest to zero-shot."""
    method, variant = candidate
    share = float(variant.removeprefix(PREFIX)) if variant.startswith(PREFIX) else 1.0
    return method != "zero_shot", share


def points(found: Mapping[Cell, Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Return each way's points, by share; ways that the runs lack are left out."""
    measured = {cell: measures(results) for cell, results in found.items()}
    every: dict[str, list[Point]] = {}
    for share in sorted({cell[0] for cell in measured}):
        here = {cell[1:]: one for cell, one in measured.items() if cell[0] == share}
        shared = [c for c in next(iter(here.values())) if all(c in one for one in here.values())]
        for way, pattern in WAYS.items():
            if not share:
                pattern = f"{RANDOM} last" if way in _RANDOM else WAYS[ZERO_SHOT]
            fits = lambda c: re.fullmatch(pattern, f"{c[0].split(' ')[0]} {c[1]}")  # noqa: B023
            candidates = sorted(filter(fits, shared), key=_near_zero_shot)
            if candidates:
                every.setdefault(way, []).append(_point(way, share, here, candidates))
    return every


def _point(way: str, share: float, here: Mapping, candidates: Sequence[Candidate]) -> Point:
    of = lambda c, key: {run: one[c][key] for run, one in here.items()}
    best = lambda key: max(candidates, key=lambda c: np.mean([*of(c, key).values()]))
    pick, oracle = best("val"), best("ood")
    keys = ("id", "ood", "id_f1", "ood_f1")
    values = ({key: of(candidate, key) for key in keys} for candidate in (pick, oracle))
    return Point(way, share, len(candidates) > 1, pick, oracle, *values)


def gains(every: Mapping[str, Sequence[Point]]) -> list[Gain]:
    """Return the differences of `AGAINST` over all runs with data that have both."""

    def values(way: str, key: str) -> dict[Cell, float]:
        path = [point for point in every.get(way, ()) if point.share]
        return {(p.share, *run): value for p in path for run, value in p.found[key].items()}

    found = []
    for way, other in AGAINST:
        columns = []
        for key in ("id", "ood"):
            one, two = values(way, key), values(other, key)
            columns.append(np.array([one[cell] - two[cell] for cell in one if cell in two]))
        if len(columns[0]):
            found.append(Gain(way, other, *columns))
    return found


def called(candidate: Candidate) -> str:
    """Name a candidate by what sets it apart from others: its setting, its share of WiSE-FT.

    >>> called(("linear_probe lr=0.01", "last")), called(("ce", "wise_0.5")), called(("ce", "last"))
    ('lr=0.01', 'alpha 0.5', 'alpha 1')
    """
    method, variant = candidate
    stage, _, setting = method.partition(" ")
    if variant.startswith(PREFIX):
        return f"{setting} alpha {variant.removeprefix(PREFIX)}".strip()
    return f"{setting} {_ENDS.get(stage, '')}".strip()
