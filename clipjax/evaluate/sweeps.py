"""A sweep's settings side by side, and which of them validation data prefer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.evaluate.rows import own_rows
from clipjax.evaluate.select import (
    ALIASES,
    LABEL_FREE,
    lower_is_better,
    select,
    uses_target_labels,
)

_OF_DATA = re.compile(r"(methods\.[^.]*\.)?data\b")  # fields that choose the training data


def candidate(history: list[list[dict]], selection: str) -> dict[str, list[float | None]]:
    """Score the checkpoint that a rule picks from each seed's validations: rule -> scores."""
    picked = [select(entries, selection) for entries in history]
    return {key: [entry.get(key) for entry in picked] for key in picked[0] if key != "epoch"}


def sweep_table(
    settings: Mapping[str, tuple[str, dict]],
    rows: Sequence[dict],
    scores: Mapping[str, dict[str, list]],
    targets: Mapping[str, str],
    *,
    selection: str,
    source: str,
) -> dict[str, Any]:
    """Build the part of results.json on a sweep; test accuracy is not used to choose.

    By method: `settings` are (stage, {field: value}), `scores` a `candidate` (none of closed forms,
    which have no checkpoints), `targets` domains. `rows` are of results, `selection` and `source`
    the run's rule and labelled domain.

    Returns {"rule": name, "rows": [{"method", "stage", "settings", "target_domain", "score" per
    seed, "score_mean", "source" and "target" {"mean", "std", "each"}: test accuracy}], "best":
    {stage, with its data settings: method}}.
    """
    # "last" compares nothing, also no settings.
    rule = LABEL_FREE if selection == "last" else ALIASES.get(selection, selection)
    found, test = [], own_rows(rows)
    names = {"mean": "accuracy_mean", "std": "accuracy_std", "each": "accuracies"}
    for method, (stage, own) in settings.items():
        score = scores.get(method, {}).get(rule)
        known = bool(score) and None not in score
        mean = round(float(np.mean(score)), 6) if known else None
        row = {"method": method, "stage": stage, "settings": own, "target_domain": targets[method]}
        row |= {"score": score, "score_mean": mean}
        for end, domain in (("source", source), ("target", targets[method])):
            row[end] = {name: test[method, domain][key] for name, key in names.items()}
        found.append(row)
    return {"rule": rule, "rows": found, "best": _best(found, rule)}


def _best(found: Sequence[dict], rule: str) -> dict[str, str]:
    """Pick the best of each stage by score; settings of different data are not compared."""
    sign = -1 if lower_is_better(rule) else 1
    best: dict[str, dict] = {}
    for row in found:
        if row["score_mean"] is not None:
            data = [f"{k}={v}" for k, v in row["settings"].items() if _OF_DATA.match(k)]
            first = best.setdefault(group := " ".join([row["stage"], *data]), row)
            best[group] = max(first, row, key=lambda row: sign * row["score_mean"])
    return {group: row["method"] for group, row in best.items()}


def cells(results: dict) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the sweep's table; the best of each stage has a star."""
    found, varied = results["sweep"], fields(results)
    header = ["method", *varied, f"{found['rule']} (validation)", "source test", "target test"]
    best = set(found["best"].values())
    return header, [
        [
            row["stage"] + (" *" if row["method"] in best else ""),
            *(str(row["settings"].get(field, "")) for field in varied),
            "" if row["score_mean"] is None else f"{row['score_mean']:.3f}",
            _percent(row["source"]),
            _percent(row["target"]),
        ]
        for row in found["rows"]
    ]


def _percent(accuracy: Mapping[str, Any]) -> str:
    """Write mean and standard deviation in %; a dash where nothing was measured."""
    if accuracy["mean"] is None:
        return "–"
    return f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['std']:.1f}"


def fields(results: dict) -> list[str]:
    """Return the fields that a sweep varies."""
    rows = results["sweep"]["rows"]
    return list(dict.fromkeys(field for row in rows for field in row["settings"]))


def sentences(results: dict) -> list[str]:
    """Name the settings that validation prefers, a sentence a stage."""
    found, said = results["sweep"], []
    rows = {row["method"]: row for row in found["rows"]}
    oracle = " (it reads target labels)" if uses_target_labels(found["rule"]) else ""
    for group, method in found["best"].items():
        row = rows[method]
        means = (row[end]["mean"] for end in ("source", "target"))
        source, target = ("–" if mean is None else f"{100 * mean:.1f}" for mean in means)
        best = f"best of {group} by {found['rule']} on validation data{oracle}: {method}"
        test = f"test accuracy {source} on the source, {target} on {row['target_domain']}"
        said.append(f"{best} ({row['score_mean']:.3f}), {test}")
    return said
