"""What a run prints: the verdict first, the table of accuracies, what to know of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.evaluate import (
    class_sets,
    episodes,
    forgetting,
    measures,
    prompt_words,
    steps,
    sweeps,
    verdict,
)
from clipjax.evaluate import results as report
from clipjax.evaluate.rows import Line, lines_of
from clipjax.log.terminal import continued, fits, styled, table, width, wrapped


def show(results: Mapping[str, Any], workdir: Any = None, columns: int | None = None) -> str:
    """Format results for people, no line wider than `columns`, by default the terminal.

    `workdir` is the run's folder, which the command of the next step names.
    """
    columns = columns or width()
    parts = [_verdict(results, workdir, columns), _accuracies(results, columns)]
    if "sweep" in results:
        parts.append(table(*sweeps.cells(results), columns=columns))
    if (worst := measures.cells(results, "worst_group_accuracy"))[1]:
        parts.append(table(*worst, columns=columns))
    for kind in (class_sets, forgetting, episodes, prompt_words):
        if (found := kind.cells(results))[1]:
            parts.append(table(*found, columns=columns))
    said = [*report.notes(results), report.facts(results)]
    parts.append("\n".join(wrapped(line, columns=columns) for line in said))
    return "\n" + "\n\n".join(filter(None, parts)) + "\n"


def _verdict(results: Mapping, workdir: Any, columns: int) -> str:
    """Say what to take, and why; a command to type has lines of its own."""
    if not (found := results.get("verdict")):
        return ""
    headline, *said, _ = verdict.told(results)
    lines = [styled(headline, "bold green")]
    for line in said:
        style = "yellow" if line.startswith("warning: ") else ""
        broken = wrapped(f"  {line}", columns=columns)
        lines += [styled(each, style) for each in broken.split("\n")]
    words, typed = steps.parts(found["next"], workdir)
    last = wrapped(f"  next: {words}{':' * bool(typed)}", columns=columns)
    lines += [styled(each, "bold") for each in last.split("\n")]
    return "\n".join([*lines, *([continued(typed, columns=columns)] if typed else [])])


class _Column(NamedTuple):
    """A column of the table of accuracies."""

    head: str
    cells: Sequence[str]
    values: Sequence[float | None] = ()  # of which the highest is best
    base: str = ""  # what always answering the most frequent class gets


def _accuracies(results: Mapping, columns: int) -> str:
    """Draw the test table: both ends with their macro accuracy, the gap, other domains, marks.

    The target's macro F1 stands beside where there is room. Where all do not fit, the other domains
    become one column, then the source's macro goes.
    """
    found, data = lines_of(results["rows"]), results["data"]
    ends = list(dict.fromkeys((data["source"], data["target"])))
    others = [d for d in dict.fromkeys(d for line in found for d in line.rows) if d not in ends]
    beside = [_domain(results, found, domain) for domain in others]
    macros = [_macro(results, found, domain) for domain in ends]
    plain = [_domain(results, found, domain) for domain in ends]
    gap = _Column("gap", [report.gap(results, line) for line in found])
    marks = _Column("mark", [report.mark(results, line) for line in found])
    name = _Column("method", [line.name for line in found], base="most frequent class")
    folded = [_mean_of(beside)] if len(beside) > 1 else beside
    both = [each for pair in zip(plain, macros, strict=True) for each in pair]
    one = [each for each in both if each is not macros[0]]
    f1 = _measured("F1", found, ends[-1], "macro_f1", None)
    all_of, some = [*both, gap, *beside], [*one, gap, *folded]
    fewer = ([*both, gap, *folded], some, [*one, gap], [*plain, gap], plain[-1:])
    for middle in ([*both, f1, gap, *beside], all_of, *fewer):
        shown = [c for c in (name, *middle, marks) if any(c.cells)]
        header, lines = [c.head for c in shown], list(zip(*(c.cells for c in shown), strict=True))
        base = [c.base for c in shown]
        if fits(header, [*lines, base], columns):
            break
    labelled = results.get("target_labels", ())
    free = [i for i, line in enumerate(found) if line.method not in labelled]
    best = {column: _best(c.values, free) for column, c in enumerate(shown)}
    lines += [base] if any(base[1:]) else []
    marked = {column: line for column, line in best.items() if line is not None}
    return table(header, lines, best=marked, dim=[len(found)], columns=columns)


def _domain(results: Mapping, found: Sequence[Line], domain: str) -> _Column:
    """Return the column of accuracies on a domain."""
    data, most = results["data"], (results.get("majority") or {}).get(domain)
    roles = [role for role in ("source", "target") if data[role] == domain]
    head = " ".join([domain, *(f"({role})" for role in roles)])
    return _measured(head, found, domain, "accuracy", most)


def _macro(results: Mapping, found: Sequence[Line], domain: str) -> _Column:
    """Return the column of macro accuracies on a domain; empty of versions that had none."""
    most = (results.get("majority_macro") or {}).get(domain)
    return _measured("macro", found, domain, "macro_accuracy", most)


def _measured(
    head: str, found: Sequence[Line], domain: str, measure: str, most: float | None
) -> _Column:
    rows = [line.rows.get(domain, {}) for line in found]
    values = [row.get(f"{measure}_mean") for row in rows]
    if all(value is None for value in values) and measure != "accuracy":
        return _Column(head, [""] * len(found))
    cells = [report.spread(row, measure) if row else "" for row in rows]
    return _Column(head, cells, values, "" if most is None else f"{100 * most:.1f}")


def _mean_of(beside: Sequence[_Column]) -> _Column:
    """Return one column for several domains: the mean of what was measured."""
    lines = zip(*(column.values for column in beside), strict=True)
    each = [[value for value in line if value is not None] for line in lines]
    means = [float(np.mean(values)) if values else None for values in each]
    bases = [float(c.base) for c in beside if c.base]
    cells = [report.NOT_MEASURED if mean is None else f"{100 * mean:.1f}" for mean in means]
    base = f"{np.mean(bases):.1f}" if bases else ""
    return _Column(f"{len(beside)} others, mean", cells, means, base)


def _best(values: Sequence[float | None], free: Sequence[int]) -> int | None:
    """Return the line of the highest value; None where there is nothing to compare."""
    known = {i: values[i] for i in free if values and values[i] is not None}
    return max(known, key=known.__getitem__) if len(set(known.values())) > 1 else None
