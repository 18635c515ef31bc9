"""The rows of results: a method's variant on a domain and split, over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.unlabelled import NO_LABELS

METRIC, VARIANT, CLASSES = "accuracy", "last", "all"
NOT_MEASURED = "–"  # in a table
# Of rows that a version before these fields wrote.
_DEFAULTS = {"metric": METRIC, "variant": VARIANT, "classes": CLASSES}
# Measures whose mean and spread over seeds are in a row, and what their values are called.
_SPREAD = {"accuracy": "accuracies", "macro_accuracy": "macro_accuracies", "macro_f1": "macro_f1s"}
_WORST = {"worst_group_accuracy": "worst_group_accuracies"}  # where images are of groups


def _keys(measures: Mapping[str, str]) -> list[str]:
    """Return the fields of measures in a row."""
    return [key for m, values in measures.items() for key in (f"{m}_mean", f"{m}_std", values)]


_DEFAULTS |= dict.fromkeys(_keys(_SPREAD)[3:])
NEEDED = ("method", "domain", "split", "n", *_keys(_SPREAD)[:3])


def row(
    method: str,
    domain: str,
    split: str,
    n: int,
    measures: Mapping[str, Sequence],
    *,
    variant: str = VARIANT,
    classes: str = CLASSES,
) -> dict[str, Any]:
    """Build a row of the results.

    Args:
      method: its name; "zero_shot" for CLIP without training.
      domain, split, n: of the images and the number of those that were measured; "all" splits for
        a whole domain.
      measures: name -> values over seeds: "accuracy", "macro_accuracy", "macro_f1" and, of images
        in groups, "worst_group_accuracy" (`clipjax.evaluate.metrics`), which get a mean and a
        standard deviation; and others, which are copied: "ece", "disagreement", "members"
        (accuracies), "worst_groups" (names). Those that need labels are left out where no image
        has one; the row then has None in their place, and "not_measured", the reason.
      variant: which of the method's results; "last" where there is only one.
      classes: the set of candidate classes: "all" of the run, or the name of an evaluation.

    >>> measures = {"accuracy": [0.2, 0.4], "macro_accuracy": [1, 0]}
    >>> found = row("dann", "sketch", "test", 10, measures)
    >>> found["accuracy_mean"], found["macro_accuracies"], found["variant"]
    (0.3, [1.0, 0.0], 'last')
    """
    found = {"method": method, "variant": variant, "domain": domain, "split": split}
    found |= {"classes": classes, "n": int(n), "metric": METRIC}
    if "accuracy" not in measures:
        blank = dict.fromkeys(_keys(_SPREAD))
        return found | blank | {"not_measured": NO_LABELS} | dict(measures)
    spread_out = {m: name for m, name in (_SPREAD | _WORST).items() if m in measures}
    for measure, name in spread_out.items():
        values = np.asarray(measures[measure], np.float64)
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        found[f"{measure}_mean"] = round(float(values.mean()), 6)
        found[f"{measure}_std"] = round(spread, 6)
        found[name] = [round(float(v), 6) for v in values]
    return found | {k: v for k, v in measures.items() if k not in spread_out}


def complete(found: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields that an older version did not write; measures as None."""
    return {**found, **{k: v for k, v in _DEFAULTS.items() if k not in found}}


class Line(NamedTuple):
    """A line of a table: a variant of a method, on every domain."""

    method: str
    variant: str
    own: bool  # the method's own result, its first variant
    rows: dict[str, dict]  # by domain

    @property
    def name(self) -> str:
        """The method, and the variant where it is a further one."""
        return self.method if self.own else f"{self.method} {self.variant}"


def lines_of(rows: Sequence[Mapping], split: str = "test", classes: str = CLASSES) -> list[Line]:
    """Group rows into lines: each method's own result, then its variants.

    They are of the run's own classes, or of an evaluation of other ones.
    """
    found: dict[str, dict[str, dict]] = {}
    for each in rows:
        if (each["metric"], each["classes"], each["split"]) == (METRIC, classes, split):
            variants = found.setdefault(each["method"], {})
            variants.setdefault(each["variant"], {})[each["domain"]] = each
    return [
        Line(method, variant, i == 0, by_domain)
        for method, variants in found.items()
        for i, (variant, by_domain) in enumerate(variants.items())
    ]


def spread(row: Mapping, measure: str) -> str:
    """Write the mean in %, ± standard deviation of several seeds; a dash of what has no value."""
    mean, std = row[f"{measure}_mean"], row[f"{measure}_std"]
    if mean is None:
        return NOT_MEASURED
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if len(row["accuracies"]) > 1 else "")


def marked(
    rows: Sequence[Mapping],
    target: str,
    targets: Mapping[str, str],
    majority: Mapping[str, float] | None = None,
) -> list[dict]:
    """Say of every test row on its method's target whether it is below zero-shot.

    Adds "below_zero_shot": the mean accuracy over seeds is lower than zero-shot's there, and
    "below_majority": it is no better than always answering the domain's most frequent class, by
    `majority`. `targets` maps methods to the domain they adapt to, where it is not `target`. Rows
    without accuracy, of images without labels, get neither.
    """
    test = own_rows(rows)
    found = []
    for each in rows:
        domain = targets.get(each["method"], target)
        zero = test.get(("zero_shot", domain))
        here = (each["split"], each["classes"], each["domain"]) == ("test", CLASSES, domain)
        told, value = {}, each["accuracy_mean"]
        if here and value is not None:
            if zero and each is not zero:
                told["below_zero_shot"] = value < zero["accuracy_mean"]
            if (most := (majority or {}).get(domain)) is not None:
                told["below_majority"] = value <= most
        found.append({**each, **told})
    return found


def best_seed(rows: Sequence[Mapping], method: str, source: str) -> int:
    """Return the position of the seed that is best on the source's held-out images."""
    return int(np.argmax(own_rows(rows, "val")[method, source]["accuracies"]))


def not_measured(rows: Sequence[Mapping], split: str = "test") -> dict[str, str]:
    """Map the domains whose accuracy is missing to the reason."""
    lines = (line.rows.items() for line in lines_of(rows, split))
    pairs = ((d, row.get("not_measured")) for each in lines for d, row in each)
    return {domain: why for domain, why in pairs if why}


def own_rows(rows: Sequence[Mapping], split: str = "test") -> dict[tuple[str, str], dict]:
    """Map (method, domain) to the row of the method's own result."""
    own = [line for line in lines_of(rows, split) if line.own]
    return {(line.method, domain): row for line in own for domain, row in line.rows.items()}
