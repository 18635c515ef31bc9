"""The table of other classes: what methods answer among classes beside the run's own."""

from collections.abc import Mapping
from typing import Any

from clipjax.evaluate.metrics import harmonic_mean
from clipjax.evaluate.rows import CLASSES, NOT_MEASURED, Line, lines_of, spread

Cells = tuple[list[str], list[list[str]]]
OWN = {"base": "base", "new": "new"}  # what the run's own classes are called; else "own"


def sets_of(results: Mapping[str, Any]) -> dict[str, dict[str, Line]]:
    """Return evaluation -> line name -> its test rows, the run's own classes first.

    {} of a run without `config.evaluations`.
    """
    rows = results["rows"]
    others = [name for name in dict.fromkeys(r["classes"] for r in rows) if name != CLASSES]
    own = OWN.get(results["data"].get("classes"), "own")
    asked = {own: CLASSES} | {name: name for name in others}
    lines = lambda name: {line.name: line for line in lines_of(rows, classes=name)}
    return {shown: lines(name) for shown, name in asked.items()} if others else {}


def cells(results: Mapping[str, Any]) -> Cells:
    """Return the table: a line a method and set of classes, a column a domain.

    Of a run on base classes that is tested on new ones, a line of harmonic means follows: of the
    mean accuracies, 2 base new / (base + new).
    """
    found = sets_of(results)
    names = list(next(iter(found.values()), {}))
    every = [line for lines in found.values() for line in lines.values()]
    domains = list(dict.fromkeys(domain for line in every for domain in line.rows))
    body = []
    for name in names:
        means: dict[str, dict[str, float]] = {}
        for asked, lines in found.items():
            rows = lines[name].rows if name in lines else {}
            means[asked] = {d: row["accuracy_mean"] for d, row in rows.items()}
            body.append([name, asked, *(_cell(rows.get(d)) for d in domains)])
        if {"base", "new"} <= means.keys() and all(name in found[k] for k in ("base", "new")):
            pairs = [(means["base"].get(d), means["new"].get(d)) for d in domains]
            body.append([name, "harmonic mean", *map(_harmonic, pairs)])
    return ["method", "classes", *domains], body


def _harmonic(pair: tuple[float | None, float | None]) -> str:
    return NOT_MEASURED if None in pair else f"{100 * harmonic_mean(*pair):.1f}"


def _cell(row: Mapping | None) -> str:
    return NOT_MEASURED if row is None else spread(row, "accuracy")


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the table, without a full stop."""
    found = list(sets_of(results))
    if not found:
        return []
    return [f"classes {', '.join(found)}: accuracy in %, each set answered among its own classes"]
