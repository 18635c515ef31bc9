"""results.json, results.md and the printed table."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.errors import DataError
from clipjax.evaluate import sweeps
from clipjax.evaluate.metrics import domain_gap
from clipjax.evaluate.report.tables import aligned
from clipjax.io import write_atomically, write_json

_PACKAGES = ("clipjax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")


def row(
    method: str, domain: str, split: str, n: int, accuracies: Sequence[float], **more: list
) -> dict:
    """One line of the results: a method on a domain and split, over seeds.

    `more` holds further measures, each a list over seeds: `ece`, and of an ensemble `members`
    (accuracies) and `disagreement`.

    >>> row("dann", "sketch", "test", 10, [0.2, 0.4])["accuracy_mean"]
    0.3
    """
    values = np.asarray(accuracies, np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        "method": method,
        "domain": domain,
        "split": split,
        "n": int(n),
        "accuracy_mean": round(float(values.mean()), 6),
        "accuracy_std": round(spread, 6),
        "accuracies": [round(float(v), 6) for v in values],
        **more,
    }


def collect(
    about: Mapping[str, Any],
    rows: list[dict],
    distances: dict[str, list[float]],
    rules: dict[str, dict],
    timing: dict[str, float],
    targets: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The content of results.json (schema: ARCHITECTURE.md).

    `about` is what the run was: "experiment", "model", "data" {"name", "source", "target"},
    "classes", "seeds", "selection". `targets` are the domains that methods adapt to, where it is
    not the run's.
    """
    ends = targets or {}
    source, target = about["data"]["source"], about["data"]["target"]
    test = {(r["method"], r["domain"]): r["accuracy_mean"] for r in rows if r["split"] == "test"}
    methods = list(dict.fromkeys(r["method"] for r in rows))
    return {
        **about,
        "rows": rows,
        "domain_gap": {
            m: round(domain_gap(test[m, source], test[m, ends.get(m, target)]), 2) for m in methods
        },
        "proxy_a_distance": distances,
        "selection_rules": rules,
        "timing_s": timing,
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES}
        | {"python": platform.python_version()},
    }


def cells(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the test table: a line per method, a column per domain."""
    source, target = results["data"]["source"], results["data"]["target"]
    test = [r for r in results["rows"] if r["split"] == "test"]
    domains = list(dict.fromkeys(r["domain"] for r in test))
    domains.sort(key=lambda d: (d != source, d != target))
    marks = {source: " (source)", target: " (target)"}
    header = ["method", *(d + marks.get(d, "") for d in domains), "gap"]
    lines = []
    for method in dict.fromkeys(r["method"] for r in test):
        found = {r["domain"]: r for r in test if r["method"] == method}
        line = [method]
        for domain in domains:
            mean, std = found[domain]["accuracy_mean"], found[domain]["accuracy_std"]
            several = len(found[domain]["accuracies"]) > 1
            line.append(f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if several else ""))
        lines.append([*line, f"{results['domain_gap'][method]:.1f}"])
    return header, lines


def facts(results: dict) -> str:
    """What the numbers of the table are, in one sentence without an end."""
    seeds, classes = results["seeds"], results["classes"]
    n = next(r["n"] for r in results["rows"] if r["split"] == "test")
    return (
        f"test accuracy in %, mean ± standard deviation over seeds {seeds}; {classes} classes, "
        f"chance {100 / classes:.1f}; {n} test images a domain (standard error of one accuracy "
        f"near 50 %: {50 / n**0.5:.1f} points); gap = source - target in points; "
        f"checkpoint: {results['selection']}"
    )


def _distances(results: dict) -> list[str]:
    """How well a linear classifier tells the two domains apart, before and after."""
    data = results["data"]
    if not results.get("proxy_a_distance"):  # too few test images
        return []
    measured = {
        method: [value for value in values if value is not None]
        for method, values in results["proxy_a_distance"].items()
    }
    found = ", ".join(f"{m} {np.mean(v):.2f}" for m, v in measured.items() if v)
    return [
        f"proxy A-distance of {data['source']} and {data['target']} (0: alike, 2: always told "
        f"apart): {found}"
    ]


def _whole_domains(results: dict) -> list[str]:
    """Zero-shot accuracy over whole domains, where it was asked for."""
    whole = [r for r in results["rows"] if r["split"] == "all"]
    found = ", ".join(f"{r['domain']} {100 * r['accuracy_mean']:.1f} ({r['n']})" for r in whole)
    return [f"zero-shot over whole domains, % (images): {found}"] if whole else []


def _ensembles(results: dict) -> list[str]:
    """A sentence per ensemble: how good and how different its members are on the target."""
    target, lines = results["data"]["target"], []
    for r in results["rows"]:
        if "members" in r and (r["domain"], r["split"]) == (target, "test"):
            members = np.asarray(r["members"])  # [seeds, M]
            lines.append(
                f"{r['method']} on {target}: {members.shape[1]} members of "
                f"{100 * members.mean():.1f} % on average, {100 * r['accuracy_mean']:.1f} % "
                f"together, {100 * np.mean(r['disagreement']):.1f} % disagreement, calibration "
                f"error {np.mean(r['ece']):.3f}"
            )
    return lines


def _selection(results: dict) -> list[str]:
    """What each way of picking a checkpoint would have given, a sentence a method."""
    lines = []
    if "sweep" in results:  # hundreds of numbers; results.json has them
        return lines
    for method, rules in results.get("selection_rules", {}).items():
        found = ", ".join(
            f"{rule} {100 * np.mean(r['source']):.1f}/{100 * np.mean(r['target']):.1f} (epoch "
            f"{'/'.join(map(str, dict.fromkeys(r['epoch'])))})"
            for rule, r in rules.items()
        )
        lines.append(f"{method} by selection rule, source/target test accuracy: {found}")
    return lines


def notes(results: dict) -> list[str]:
    """What the table of test accuracies does not show, a sentence each."""
    return [
        *sweeps.sentences(results),
        *_whole_domains(results),
        *_ensembles(results),
        *_distances(results),
        *_selection(results),
    ]


def table(results: dict) -> str:
    """The results as aligned text for a terminal."""
    text = aligned(*cells(results))
    if "sweep" in results:
        text += ["", *aligned(*sweeps.cells(results))]
    return "\n".join(["", *text, "", *notes(results), facts(results), ""])


def markdown(results: dict) -> str:
    """The results as a Markdown page."""
    data, said = results["data"], facts(results)
    body = _rows(*cells(results))
    if "sweep" in results:
        body += "\n\n" + _rows(*sweeps.cells(results))
    return (
        f"# {results['experiment']}: {data['name']}, {data['source']} -> {data['target']}, "
        f"model {results['model']}\n\n{body}\n\n"
        + "".join(f"{line}.\n\n" for line in notes(results))
        + f"{said[0].upper() + said[1:]}.\n"
    )


def _rows(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write(workdir: pathlib.Path, results: dict) -> None:
    """Writes results.md, then results.json, whose presence says that the run is finished."""
    write_atomically(workdir / "results.md", markdown(results))
    write_json(workdir / "results.json", results)


def read(workdir: pathlib.Path) -> dict | None:
    """The results of a finished run, or None.

    Raises:
      DataError: the file is damaged.
    """
    path = workdir / "results.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}); remove it, and the same command writes it again."
        ) from error
