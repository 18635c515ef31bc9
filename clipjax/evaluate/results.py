"""results.json, results.md and the printed table."""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.errors import DataError
from clipjax.evaluate import (
    class_sets,
    episodes,
    forgetting,
    measures,
    prompt_words,
    rule_table,
    soups,
    sweeps,
    valley,
    verdict,
    wise,
)
from clipjax.evaluate.measures import named_domains
from clipjax.evaluate.metrics import domain_gap
from clipjax.evaluate.rows import (
    NEEDED,
    NOT_MEASURED,
    Line,
    complete,
    lines_of,
    marked,
    not_measured,
    spread,
)
from clipjax.io import write_atomically, write_json
from clipjax.io.texts import capital

VERSION = 2  # of results.json; a file without a version is of the first
_KEYS = ("experiment", "model", "data", "classes", "seeds", "selection", "rows", "domain_gap")
_PACKAGES = ("clipjax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")
Cells = tuple[list[str], list[list[str]]]  # header and lines of a table


def collect(
    about: Mapping[str, Any],
    rows: list[dict],
    distances: dict[str, list[float]],
    rules: dict[str, dict],
    timing: dict[str, float],
    targets: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Build the content of results.json (schema: ARCHITECTURE.md), which has `about` as it is.

    `targets` maps methods to the domain they adapt to, where it is not the run's.
    """
    ends, data = targets or {}, about["data"]
    own: dict[str, float] = {}
    variants: dict[str, dict[str, float]] = {}
    for line in lines_of(rows):
        domains = data["source"], ends.get(line.method, data["target"])
        measured = [line.rows[name]["accuracy_mean"] for name in domains]
        gap = None if None in measured else round(domain_gap(*measured), 2)
        if line.own:
            own[line.method] = gap
        else:
            variants.setdefault(line.method, {})[line.variant] = gap
    versions = {p: importlib.metadata.version(p) for p in _PACKAGES}
    versions["python"] = platform.python_version()
    rows = marked(rows, data["target"], ends, about.get("majority"))
    found = {"version": VERSION, **about, "rows": rows, "domain_gap": own, "variant_gap": variants}
    if along := wise.curves(rows, data["source"]):
        found["wise"] = along
    found |= {"proxy_a_distance": distances, "selection_rules": rules, "timing_s": timing}
    return found | {"versions": versions}


def cells(results: dict, *, variants: bool = True) -> Cells:
    """Return the test table: a line a method (with `variants`, a variant), a column a domain.

    Behind them the gap, the target's macro accuracy where it was measured, and a last column for
    lines below zero-shot on their target, where there are any.
    """
    found = [line for line in lines_of(results["rows"]) if line.own or variants]
    domains = named_domains(results, found)
    lines = [
        [line.name, *(spread(line.rows[d], "accuracy") for d in domains), gap(results, line)]
        for line in found
    ]
    header, marks = ["method", *domains.values(), "gap"], [mark(results, line) for line in found]
    for head, column in (("target macro", _target_macro(results, found)), ("mark", marks)):
        if any(column):
            header.append(head)
            lines = [[*line, cell] for line, cell in zip(lines, column, strict=True)]
    return header, lines


def baseline(results: dict, header: list[str]) -> list[str]:
    """Return what always answering the most frequent class gets, as a line below `cells`.

    [] of versions that did not count.
    """
    data, most = results["data"], results.get("majority") or {}
    macro = (results.get("majority_macro") or {}).get(data["target"])
    known = {domain: most.get(domain) for domain in most} | {"target macro": macro}
    plain = lambda head: head.removesuffix(" (target)").removesuffix(" (source)")
    shown = [known.get(plain(head)) for head in header[1:]]
    told = ["" if value is None else f"{100 * value:.1f}" for value in shown]
    return ["most frequent class", *told] if any(told) else []


def gap(results: dict, line: Line) -> str:
    """Write a line's domain gap; a dash where an end has no accuracy."""
    variants = results["variant_gap"].get(line.method, {})
    value = results["domain_gap"].get(line.method) if line.own else variants.get(line.variant)
    return NOT_MEASURED if value is None else f"{value:.1f}"


def mark(results: dict, line: Line) -> str:
    """Say what not to overlook in a line: it reads target labels, or is no better than without."""
    if line.method in results.get("target_labels", ()):
        return "target labels"
    has = lambda key: any(row.get(key) for row in line.rows.values())
    told = ["below zero-shot" * has("below_zero_shot"), "below majority" * has("below_majority")]
    return ", ".join(filter(None, told))


def _target_macro(results: dict, found: list[Line]) -> list[str]:
    """Write each line's macro accuracy on the target; empty of versions that had none."""
    rows = [line.rows.get(results["data"]["target"]) for line in found]
    known = lambda row: row and row["macro_accuracy_mean"] is not None
    return [spread(row, "macro_accuracy") if known(row) else "" for row in rows]


def facts(results: dict) -> str:
    """Explain the numbers of the table, in one sentence without a full stop."""
    seeds, classes = results["seeds"], results["classes"]
    measured = [row for line in lines_of(results["rows"]) for row in line.rows.values()]
    sizes = {row["domain"]: row["n"] for row in measured if row["accuracy_mean"] is not None}
    fewest = min(sizes, key=sizes.__getitem__)
    n, most = sizes[fewest], max(sizes.values())
    images, at_most = (str(n), "") if n == most else (f"{n:,} ({fewest}) to {most:,}", " at most")
    return (
        f"test accuracy in %, mean ± standard deviation over seeds {seeds}; {classes} classes, "
        f"chance {100 / classes:.1f}; {images} test images a domain (standard error of "
        f"one accuracy near 50 %: {50 / n**0.5:.1f} points{at_most}); gap = source - target "
        f"in points; checkpoint: {results['selection']}"
    )


def measured_distances(results: dict) -> dict[str, list[float]]:
    """Map methods to their proxy A-distances, of the seeds where there is one."""
    found = results.get("proxy_a_distance") or {}
    found = {method: [v for v in values if v is not None] for method, values in found.items()}
    return {method: values for method, values in found.items() if values}


def _distances(results: dict) -> list[str]:
    data, measured = results["data"], measured_distances(results).items()
    found = ", ".join(f"{method} {np.mean(values):.2f}" for method, values in measured)
    about = f"proxy A-distance of {data['source']} and {data['target']}"
    return [f"{about} (0: alike, 2: always told apart): {found}"] if found else []


def _ensembles(results: dict) -> list[str]:
    target, said = results["data"]["target"], []
    for line in lines_of(results["rows"]):
        if (r := line.rows.get(target, {})).get("members"):
            members = np.asarray(r["members"])  # [seeds, M]
            said.append(
                f"{line.name} on {target}: {members.shape[1]} members of "
                f"{100 * members.mean():.1f} % on average, {100 * r['accuracy_mean']:.1f} % "
                f"together, {100 * np.mean(r['disagreement']):.1f} % disagreement, calibration "
                f"error {np.mean(r['ece']):.3f}"
            )
    return said


def _not_measured(results: dict) -> list[str]:
    found = not_measured(results["rows"])
    domains = lambda why: ", ".join(domain for domain in found if found[domain] == why)
    return [f"{why}: not measured on {domains(why)}" for why in dict.fromkeys(found.values())]


def notes(results: dict) -> list[str]:
    """Return sentences on what the table of test accuracies does not show."""
    said, is_sweep = _not_measured(results), "sweep" in results
    said += measures.sentences(results)
    if labelled := results.get("target_labels"):
        said.append(f"with labels of the target, an upper bound: {', '.join(labelled)}")
    said += sweeps.sentences(results) if is_sweep else []
    said += wise.sentences(results) + soups.sentences(results) + valley.sentences(results)
    said += class_sets.notes(results)
    whole = [row for line in lines_of(results["rows"], "all") for row in line.rows.values()]
    whole = [row for row in whole if row["accuracy_mean"] is not None]
    found = ", ".join(f"{r['domain']} {100 * r['accuracy_mean']:.1f} ({r['n']})" for r in whole)
    said += [f"zero-shot over whole domains, % (images): {found}"] if whole else []
    said += _ensembles(results) + _distances(results)
    said += forgetting.notes(results)
    return said + episodes.notes(results) + prompt_words.notes(results)


def data_notes(results: dict) -> list[str]:
    """Return what the run said of its data before it began, as sentences without a full stop."""
    return [note.removesuffix(".") for note in results.get("notes", ())]


def _tables(results: dict) -> list[Cells]:
    header, lines = cells(results)
    lines += [base] if (base := baseline(results, header)) else []
    sweep = [sweeps.cells(results)] if "sweep" in results else []
    others = [kind.cells(results) for kind in (class_sets, forgetting, episodes, prompt_words)]
    tables = ((header, lines), *sweep, *measures.tables(results), *others)
    return [table for table in tables if table[1]]


def markdown(results: dict, workdir: Any = None) -> str:
    """Format the results as a Markdown page."""
    data = results["data"]
    run = f"{results['experiment']}: {data['name']}, {data['source']} -> {data['target']}"
    parts = [f"# {run}, model {results['model']}"]
    if told := verdict.told(results, workdir, "`"):
        parts += [f"**{capital(told[0])}**", "\n".join(f"- {capital(line)}" for line in told[1:])]
    parts += map(_markdown_table, _tables(results))
    parts += map(capital, (*notes(results), facts(results)))
    if said := data_notes(results):
        parts += ["## Notes on the data", "\n".join(f"- {capital(line)}" for line in said)]
    if (others := rule_table.cells(results))[1]:
        parts += ["## Other selection rules", _markdown_table(others), rule_table.ABOUT]
    return "\n\n".join(parts) + "\n"


def _markdown_table(cells: Cells) -> str:
    header, body = cells
    rows = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write(workdir: pathlib.Path, results: dict) -> None:
    """Write results.md, then results.json, whose presence means that the run is finished."""
    write_atomically(workdir / "results.md", markdown(results, workdir))
    write_json(workdir / "results.json", results)


def read(workdir: pathlib.Path) -> dict | None:
    """Read the results of a finished run, or None; DataError: damaged, or of a newer version."""
    path = workdir / "results.json"
    if not path.exists():
        return None
    try:
        return _complete(json.loads(path.read_text()), path)
    except ValueError as error:
        fault = f"{path} is damaged ({error})"
        raise DataError(f"{fault}; remove it, and the same command writes it again.") from error


def _complete(found: Any, path: pathlib.Path) -> dict:
    """Check results of any version and add the fields they lack; ValueError: they are damaged."""
    if not isinstance(found, dict):
        raise ValueError("it holds no results")
    version = found.get("version", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"its version is {version!r}")
    if version > VERSION:
        fault = f"{path} is of version {version}, and this clipjax reads up to version {VERSION}"
        raise DataError(f"{fault}; read it with the clipjax that wrote it, or a newer one.")
    if missing := [key for key in _KEYS if key not in found]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    rows = found["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("its rows are none")
    for row in rows:
        if missing := [key for key in NEEDED if key not in row]:
            raise ValueError(f"a row lacks {', '.join(missing)}")
    return {"version": 1, "variant_gap": {}} | found | {"rows": [complete(row) for row in rows]}
