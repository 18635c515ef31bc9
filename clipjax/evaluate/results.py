"""results.json, results.md and the printed table."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.errors import DataError
from clipjax.evaluate import sweeps
from clipjax.evaluate.metrics import domain_gap
from clipjax.evaluate.report.tables import aligned
from clipjax.evaluate.rows import NEEDED, Line, complete, lines_of
from clipjax.io import write_atomically, write_json

VERSION = 2  # of results.json; files before it do not say theirs
_KEYS = ("experiment", "model", "data", "classes", "seeds", "selection", "rows", "domain_gap")
_PACKAGES = ("clipjax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")


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
    ends, data, tested = targets or {}, about["data"], lines_of(rows)

    def gap(line: Line) -> float:
        domains = data["source"], ends.get(line.method, data["target"])
        return round(domain_gap(*(line.rows[name]["accuracy_mean"] for name in domains)), 2)

    more: dict[str, dict[str, float]] = {}
    for line in tested:
        if not line.own:
            more.setdefault(line.method, {})[line.variant] = gap(line)
    return {
        "version": VERSION,
        **about,
        "rows": rows,
        "domain_gap": {line.method: gap(line) for line in tested if line.own},
        "variant_gap": more,
        "proxy_a_distance": distances,
        "selection_rules": rules,
        "timing_s": timing,
        "versions": {p: importlib.metadata.version(p) for p in _PACKAGES}
        | {"python": platform.python_version()},
    }


def cells(results: dict, *, variants: bool = True) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the test table: a line per method, a column per domain.

    Args:
      results: content of results.json.
      variants: also a line for each further variant of a method, below the method's.
    """
    found = [line for line in lines_of(results["rows"]) if line.own or variants]
    domains = _domains(results, found)
    header = ["method", *(_marked(results, domain) for domain in domains), "gap"]
    return header, [
        [line.name, *(_spread(line.rows[d], "accuracy") for d in domains), _gap(results, line)]
        for line in found
    ]


def macro_cells(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of macro accuracy, which is of source and target alone.

    No lines where a version without macro accuracy wrote the results.
    """
    found = lines_of(results["rows"])
    domains = [d for d in _domains(results, found) if d in _ends(results)]
    header = ["macro accuracy", *(_marked(results, domain) for domain in domains)]
    return header, [
        [line.name, *(_spread(line.rows[d], "macro_accuracy") for d in domains)]
        for line in found
        if all(line.rows[d]["macro_accuracy_mean"] is not None for d in domains)
    ]


def _ends(results: dict) -> tuple[str, str]:
    return results["data"]["source"], results["data"]["target"]


def _domains(results: dict, found: list[Line]) -> list[str]:
    """The domains of lines, the source first, then the target."""
    source, target = _ends(results)
    domains = dict.fromkeys(domain for line in found for domain in line.rows)
    return sorted(domains, key=lambda d: (d != source, d != target))


def _marked(results: dict, domain: str) -> str:
    """A domain's name with its role behind it."""
    source, target = _ends(results)
    return domain + {source: " (source)", target: " (target)"}.get(domain, "")


def _spread(row: dict, measure: str) -> str:
    """Mean in %, and ± standard deviation where there are several seeds."""
    mean, std = row[f"{measure}_mean"], row[f"{measure}_std"]
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if len(row["accuracies"]) > 1 else "")


def _gap(results: dict, line: Line) -> str:
    if line.own:
        return f"{results['domain_gap'][line.method]:.1f}"
    points = results.get("variant_gap", {}).get(line.method, {}).get(line.variant)
    return "" if points is None else f"{points:.1f}"


def facts(results: dict) -> str:
    """What the numbers of the table are, in one sentence without an end."""
    seeds, classes = results["seeds"], results["classes"]
    n = next(row["n"] for line in lines_of(results["rows"]) for row in line.rows.values())
    return (
        f"test accuracy in %, mean ± standard deviation over seeds {seeds}; {classes} classes, "
        f"chance {100 / classes:.1f}; {n} test images a domain (standard error of one accuracy "
        f"near 50 %: {50 / n**0.5:.1f} points); gap = source - target in points; "
        f"checkpoint: {results['selection']}"
    )


def _macro(results: dict) -> list[str]:
    """What macro accuracy is, where it is shown."""
    said = "each class's own accuracy, averaged over the classes in the test images"
    return [f"macro accuracy in %: {said}"] if macro_cells(results)[1] else []


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
    whole = [row for line in lines_of(results["rows"], "all") for row in line.rows.values()]
    found = ", ".join(f"{r['domain']} {100 * r['accuracy_mean']:.1f} ({r['n']})" for r in whole)
    return [f"zero-shot over whole domains, % (images): {found}"] if whole else []


def _ensembles(results: dict) -> list[str]:
    """A sentence per ensemble: how good and how different its members are on the target."""
    target, said = results["data"]["target"], []
    for line in lines_of(results["rows"]):
        r = line.rows.get(target, {})
        if "members" in r:
            members = np.asarray(r["members"])  # [seeds, M]
            said.append(
                f"{line.name} on {target}: {members.shape[1]} members of "
                f"{100 * members.mean():.1f} % on average, {100 * r['accuracy_mean']:.1f} % "
                f"together, {100 * np.mean(r['disagreement']):.1f} % disagreement, calibration "
                f"error {np.mean(r['ece']):.3f}"
            )
    return said


def _selection(results: dict) -> list[str]:
    """What each way of picking a checkpoint would have given, a sentence a method."""
    said: list[str] = []
    if "sweep" in results:  # hundreds of numbers; results.json has them
        return said
    for method, rules in results.get("selection_rules", {}).items():
        found = ", ".join(
            f"{rule} {100 * np.mean(r['source']):.1f}/{100 * np.mean(r['target']):.1f} (epoch "
            f"{'/'.join(map(str, dict.fromkeys(r['epoch'])))})"
            for rule, r in rules.items()
        )
        said.append(f"{method} by selection rule, source/target test accuracy: {found}")
    return said


def notes(results: dict) -> list[str]:
    """What the table of test accuracies does not show, a sentence each."""
    return [
        *_macro(results),
        *sweeps.sentences(results),
        *_whole_domains(results),
        *_ensembles(results),
        *_distances(results),
        *_selection(results),
    ]


def _tables(results: dict) -> list[tuple[list[str], list[list[str]]]]:
    """The tables there are, as header and lines."""
    found = [cells(results), macro_cells(results)]
    found += [sweeps.cells(results)] if "sweep" in results else []
    return [(header, body) for header, body in found if body]


def table(results: dict) -> str:
    """The results as aligned text for a terminal."""
    text = [line for each in _tables(results) for line in ("", *aligned(*each))]
    return "\n".join([*text, "", *notes(results), facts(results), ""])


def markdown(results: dict) -> str:
    """The results as a Markdown page."""
    data, said = results["data"], facts(results)
    body = "\n\n".join(_rows(*each) for each in _tables(results))
    return (
        f"# {results['experiment']}: {data['name']}, {data['source']} -> {data['target']}, "
        f"model {results['model']}\n\n{body}\n\n"
        + "".join(f"{line}.\n\n" for line in notes(results))
        + f"{said[0].upper() + said[1:]}.\n"
    )


def _rows(header: list[str], body: list[list[str]]) -> str:
    rows = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write(workdir: pathlib.Path, results: dict) -> None:
    """Writes results.md, then results.json, whose presence says that the run is finished."""
    write_atomically(workdir / "results.md", markdown(results))
    write_json(workdir / "results.json", results)


def read(workdir: pathlib.Path) -> dict | None:
    """The results of a finished run, or None; what an earlier version did not write has defaults.

    Raises:
      DataError: the file is damaged, or a newer version wrote it.
    """
    path = workdir / "results.json"
    if not path.exists():
        return None
    try:
        return _complete(json.loads(path.read_text()), path)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}); remove it, and the same command writes it again."
        ) from error


def _complete(found: Any, path: pathlib.Path) -> dict:
    """Results of any version up to this one with all fields of this one.

    Raises:
      ValueError: they are none.
      DataError: a newer version wrote them.
    """
    if not isinstance(found, dict):
        raise ValueError("it holds no results")
    version = found.get("version", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"its version is {version!r}")
    if version > VERSION:
        raise DataError(
            f"{path} is of version {version}, and this clipjax reads up to version {VERSION}; "
            "read it with the clipjax that wrote it, or a newer one."
        )
    if missing := [key for key in _KEYS if key not in found]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    rows = found["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("its rows are none")
    for row in rows:
        if missing := [key for key in NEEDED if key not in row]:
            raise ValueError(f"a row lacks {', '.join(missing)}")
    return {"version": 1, "variant_gap": {}} | found | {"rows": [complete(row) for row in rows]}
