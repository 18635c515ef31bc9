"""WiSE-FT: accuracies along the way from zero-shot's weights to trained ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.evaluate.choice import ZERO_SHOT
from clipjax.evaluate.rows import VARIANT, Line, lines_of

PREFIX = "wise_"  # of variants, before the share


def curves(rows: Sequence[Mapping], source: str) -> dict[str, dict[str, Any]]:
    """Return the curve of each method that has one, for results.json.

    Returns {method: {"alpha": the share that is best on the source's validation split, the smallest
    of equals, "curve": [{"alpha", "source_val", "source", "others": mean over the other domains}]}}
    of mean accuracies over seeds; "source" and "others" are of test images, and choose nothing.
    The domains of a joined source ("a+b") are no others.
    """
    test, val = lines_of(rows), lines_of(rows, "val")
    methods = dict.fromkeys(line.method for line in test if line.variant.startswith(PREFIX))
    found = {}
    for method in methods:
        shares = {_share(line, method): line for line in test if _share(line, method) is not None}
        held = {_share(line, method): line for line in val}
        curve = [_point(a, shares[a], held.get(a), source) for a in sorted(shares)]
        known = [point for point in curve if point["source_val"] is not None]
        best = max(known, key=lambda point: point["source_val"], default=None)
        found[method] = {"alpha": best and best["alpha"], "curve": curve}
    return found


def _share(line: Line, method: str) -> float | None:
    """Return how far a line lies on a method's way; None of lines that do not."""
    if line.method == ZERO_SHOT:
        return 0.0
    if line.method != method:
        return None
    if line.variant == VARIANT:
        return 1.0
    return float(line.variant.removeprefix(PREFIX)) if line.variant.startswith(PREFIX) else None


def _point(share: float, line: Line, held: Line | None, source: str) -> dict[str, float | None]:
    mean = lambda row: None if row is None else row["accuracy_mean"]
    trained = {source, *source.split("+")}
    others = [mean(row) for domain, row in line.rows.items() if domain not in trained]
    others = [value for value in others if value is not None]
    return {
        "alpha": share,
        "source_val": mean(held and held.rows.get(source)),
        "source": mean(line.rows.get(source)),
        "others": round(float(np.mean(others)), 6) if others else None,
    }


def sentences(results: Mapping) -> list[str]:
    """Say of each curve what is best on source validation, both ends, and the rest of it."""
    said = []
    for method, found in (results.get("wise") or {}).items():
        points = {point["alpha"]: point for point in found["curve"]}
        if found["alpha"] is None:
            continue
        order = dict.fromkeys((found["alpha"], 0.0, 1.0, *points))
        told = [_of(points[a], a) for a in order]
        said.append(
            f"WiSE of {method}: alpha {found['alpha']:g} is best on validation images of the "
            f"source; test accuracy on the source, and the mean of the others: {'; '.join(told)}"
        )
    return said


def _of(point: Mapping, share: float) -> str:
    show = lambda value: "–" if value is None else f"{100 * value:.1f}"
    name = {0.0: "zero-shot", 1.0: "as trained"}.get(share, f"alpha {share:g}")
    return f"{name} {show(point['source'])}, {show(point['others'])}"
