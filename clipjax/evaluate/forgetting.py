"""Zero-shot on another dataset before and after training: a table, and what it says."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.evaluate.choice import ZERO_SHOT
from clipjax.evaluate.rows import lines_of

Cells = tuple[list[str], list[list[str]]]  # header and lines of a table


def summarised(
    data: str, classes: int, rows: Sequence[Mapping], unchanged: Sequence[str]
) -> dict[str, Any]:
    """Return what results.json holds: rows of `clipjax.evaluate.rows.row`, before ones first.

    `unchanged` are methods whose encoder is as it was. Every later row gets "change": its accuracy
    less that before, a value a seed.
    """
    before = {row["domain"]: row["accuracies"][0] for row in rows if row["method"] == ZERO_SHOT}
    found = []
    for row in rows:
        if row["method"] == ZERO_SHOT:
            found.append(dict(row))
            continue
        change = [round(value - before[row["domain"]], 6) for value in row["accuracies"]]
        found.append({**row, "change": change})
    return {"data": data, "classes": classes, "unchanged": list(unchanged), "rows": found}


def changes(results: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return method (and variant) -> its change in points a seed, mean over domains."""
    rows = (results.get("forgetting") or {}).get("rows", ())
    return {
        line.name: (100 * np.mean([row["change"] for row in line.rows.values()], axis=0)).tolist()
        for line in lines_of(rows)
        if line.method != ZERO_SHOT
    }


def cells(results: Mapping[str, Any]) -> Cells:
    """Return the table: a line a method and variant, a column a domain, and the mean change."""
    found = results.get("forgetting") or {}
    lines = lines_of(found.get("rows", ()))
    domains = list(dict.fromkeys(domain for line in lines for domain in line.rows))
    moved, body = changes(results), []
    for line in lines:
        told = "" if line.method == ZERO_SHOT else _change(moved[line.name])
        told = "none: as before" if line.method in found["unchanged"] else told
        name = "before training" if line.method == ZERO_SHOT else line.name
        body.append([name, *(_accuracy(line.rows[domain]) for domain in domains), told])
    return [f"zero-shot on {found.get('data', '')}", *domains, "change"], body


def _accuracy(row: Mapping) -> str:
    spread = f" ± {100 * row['accuracy_std']:.1f}" if len(row["accuracies"]) > 1 else ""
    return f"{100 * row['accuracy_mean']:.1f}{spread}"


def _change(points: Sequence[float]) -> str:
    spread = f" ± {np.std(points, ddof=1):.1f}" if len(points) > 1 else ""
    return f"{np.mean(points):+.1f}{spread}"


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence on what the table is of, without a full stop."""
    if not (found := results.get("forgetting")):
        return []
    sizes = sorted({row["n"] for row in found["rows"]})
    images = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return [
        f"forgetting: accuracy in % on {images} test images a domain of {found['data']}, which is "
        f"not trained on, by the texts of its {found['classes']} classes (chance "
        f"{100 / found['classes']:.1f}); change in points, mean over domains ± spread over seeds"
    ]
