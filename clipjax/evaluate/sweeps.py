"""A sweep's settings side by side, and which of them validation data prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.evaluate.rows import own_rows
from clipjax.evaluate.select import ALIASES, lower_is_better, select

FREE = "information_maximization"  # compares settings where `selection` compares nothing: "last"


def candidate(history: list[list[dict]], selection: str) -> dict[str, list[float | None]]:
    """Scores of the checkpoint that a rule picks, each a list over seeds.

    Args:
      history: per seed the validations of a method, oldest first.
      selection: the rule.
    """
    picked = [select(entries, selection) for entries in history]
    return {key: [entry.get(key) for entry in picked] for key in picked[0] if key != "epoch"}


def ranking_rule(selection: str) -> str:
    """The rule that compares settings: the run's own, or a label-free one where that is "last".

    >>> ranking_rule("last"), ranking_rule("source_val")
    ('information_maximization', 'source_val')
    """
    rule = ALIASES.get(selection, selection)
    return FREE if rule == "last" else rule


def sweep_table(
    settings: Mapping[str, tuple[str, dict]],
    rows: Sequence[dict],
    scores: Mapping[str, dict[str, list]],
    targets: Mapping[str, str],
    *,
    selection: str,
    source: str,
) -> dict[str, Any]:
    """What results.json says of a sweep.

    Args:
      settings: method -> (stage, field -> value).
      rows: of results (`clipjax.evaluate.rows.row`).
      scores: method -> `candidate`; a closed form, which has no checkpoints, has none.
      targets: method -> its target domain.
      selection: the run's rule.
      source: its labelled domain.

    Returns:
      {"rule": name, "rows": [{"method", "stage", "settings", "target_domain", "score" per seed,
      "score_mean", "source" and "target" {"mean", "std", "each"}: test accuracy}], "best": {stage,
      with its data settings: method}}. `rule` reads validation data only; test accuracy is shown
      and decides nothing.
    """
    rule, found, test = ranking_rule(selection), [], own_rows(rows)
    for method, (stage, own) in settings.items():
        score = scores.get(method, {}).get(rule)
        known = bool(score) and None not in score
        found.append(
            {
                "method": method,
                "stage": stage,
                "settings": own,
                "target_domain": targets[method],
                "score": score,
                "score_mean": round(float(np.mean(score)), 6) if known else None,
                "source": _accuracy(test[method, source]),
                "target": _accuracy(test[method, targets[method]]),
            }
        )
    return {"rule": rule, "rows": found, "best": _best(found, rule)}


def _accuracy(row: dict) -> dict[str, Any]:
    return {
        "mean": row["accuracy_mean"],
        "std": row["accuracy_std"],
        "each": row["accuracies"],
    }


def _best(found: Sequence[dict], rule: str) -> dict[str, str]:
    """The best of each stage by score; settings of different data are not rivals."""
    sign = -1 if lower_is_better(rule) else 1
    best: dict[str, dict] = {}
    for row in found:
        if row["score_mean"] is None:
            continue
        data = [f"{k}={v}" for k, v in row["settings"].items() if _is_of_data(k)]
        group = " ".join([row["stage"], *data])
        if group not in best or sign * row["score_mean"] > sign * best[group]["score_mean"]:
            best[group] = row
    return {group: row["method"] for group, row in best.items()}


def _is_of_data(field: str) -> bool:
    """Whether a field says what is trained on.

    >>> _is_of_data("data.shots"), _is_of_data("methods.dann.data.shots")
    (True, True)
    """
    keys = field.split(".")
    return (keys[2:] if keys[0] == "methods" else keys)[0] == "data"


def cells(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the sweep's table; the best of each stage has a star."""
    found, varied = results["sweep"], fields(results)
    header = ["method", *varied, f"{found['rule']} (validation)", "source test", "target test"]
    best, lines = set(found["best"].values()), []
    for row in found["rows"]:
        mark = " *" if row["method"] in best else ""
        values = [str(row["settings"].get(field, "")) for field in varied]
        score = "" if row["score_mean"] is None else f"{row['score_mean']:.3f}"
        accuracies = [
            f"{100 * row[end]['mean']:.1f} ± {100 * row[end]['std']:.1f}"
            for end in ("source", "target")
        ]
        lines.append([row["stage"] + mark, *values, score, *accuracies])
    return header, lines


def fields(results: dict) -> list[str]:
    """What a sweep varies."""
    rows = results["sweep"]["rows"]
    return list(dict.fromkeys(field for row in rows for field in row["settings"]))


def sentences(results: dict) -> list[str]:
    """Which settings validation prefers, a sentence a stage."""
    if "sweep" not in results:
        return []
    found = results["sweep"]
    rows = {row["method"]: row for row in found["rows"]}
    oracle = " (it reads target labels)" if found["rule"] == "oracle" else ""
    return [
        f"best of {group} by {found['rule']} on validation data{oracle}: {method} "
        f"({rows[method]['score_mean']:.3f}), test accuracy {_percent(rows[method]['source'])} on "
        f"the source, {_percent(rows[method]['target'])} on {rows[method]['target_domain']}"
        for group, method in found["best"].items()
    ]


def _percent(accuracy: dict) -> str:
    return f"{100 * accuracy['mean']:.1f}"
