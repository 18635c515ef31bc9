"""The rows of results: a method's variant on a domain and split, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

METRIC, VARIANT, CLASSES = "accuracy", "last", "all"
# Of rows that a version before these fields wrote.
_DEFAULTS = {"metric": METRIC, "variant": VARIANT, "classes": CLASSES}
_DEFAULTS |= dict.fromkeys(("macro_accuracy_mean", "macro_accuracy_std", "macro_accuracies"))
NEEDED = ("method", "domain", "split", "n", "accuracy_mean", "accuracy_std", "accuracies")


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
    """One line of the results.

    Args:
      method: its name; "zero_shot" for CLIP as it comes.
      domain: what it was measured on.
      split: "test", "val", or "all" for a whole domain.
      n: images.
      measures: name -> values over seeds: "accuracy", "macro_accuracy" (`clipjax.evaluate.metrics`)
        and others, which the row has as they are: "ece", and of an ensemble "members" (accuracies)
        and "disagreement".
      variant: which of the method's results; "last" where there is but one.
      classes: the set of classes it was to choose among.

    >>> measures = {"accuracy": [0.2, 0.4], "macro_accuracy": [1, 0]}
    >>> found = row("dann", "sketch", "test", 10, measures)
    >>> found["accuracy_mean"], found["macro_accuracies"], found["variant"]
    (0.3, [1.0, 0.0], 'last')
    """
    more = dict(measures)
    accuracy, macro = _over_seeds(more.pop("accuracy")), _over_seeds(more.pop("macro_accuracy"))
    return {
        "method": method,
        "variant": variant,
        "domain": domain,
        "split": split,
        "classes": classes,
        "n": int(n),
        "metric": METRIC,
        **accuracy,
        **{f"macro_{name}": value for name, value in macro.items()},
        **more,
    }


def _over_seeds(accuracies: Sequence[float]) -> dict[str, Any]:
    values = np.asarray(accuracies, np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        "accuracy_mean": round(float(values.mean()), 6),
        "accuracy_std": round(spread, 6),
        "accuracies": [round(float(v), 6) for v in values],
    }


def complete(found: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the fields that the version which wrote it lacked; measures as None."""
    return {**found, **{k: v for k, v in _DEFAULTS.items() if k not in found}}


class Line(NamedTuple):
    """What a table has in a line: a variant of a method, on every domain.

    Attributes:
      method: its name.
      variant: which of its results.
      own: whether that is the method's own result, its first variant.
      rows: domain -> row.
    """

    method: str
    variant: str
    own: bool
    rows: dict[str, dict]

    @property
    def name(self) -> str:
        """The method, and the variant where it is a further one."""
        return self.method if self.own else f"{self.method} {self.variant}"


def lines_of(rows: Sequence[Mapping], split: str = "test") -> list[Line]:
    """Accuracies among all classes: each method's own result, below it its further variants.

    Args:
      rows: of results, `row` or `complete`.
      split: of which images.
    """
    found: dict[str, dict[str, dict]] = {}
    for each in rows:
        if (each["metric"], each["classes"], each["split"]) == (METRIC, CLASSES, split):
            variants = found.setdefault(each["method"], {})
            variants.setdefault(each["variant"], {})[each["domain"]] = each
    return [
        Line(method, variant, i == 0, by_domain)
        for method, variants in found.items()
        for i, (variant, by_domain) in enumerate(variants.items())
    ]


def own_rows(rows: Sequence[Mapping], split: str = "test") -> dict[tuple[str, str], dict]:
    """(method, domain) -> row of the method's own result, whatever its further variants are."""
    return {
        (line.method, domain): each
        for line in lines_of(rows, split)
        if line.own
        for domain, each in line.rows.items()
    }
