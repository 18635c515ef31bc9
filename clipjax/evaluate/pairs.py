"""Methods compared over pairs of domains, from the results of one run a pair."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.evaluate.report.charts import Bar, bars
from clipjax.evaluate.report.matrices import Group, heat_map, pair_map
from clipjax.evaluate.report.page import document
from clipjax.evaluate.report.tables import Chapter, Grid, Note, Table
from clipjax.evaluate.rows import own_rows

ZERO_SHOT = "zero_shot"
Pair = tuple[str, str]  # source, target


class Standing(NamedTuple):
    """A method's target test accuracy over pairs, in %, each a mean over seeds."""

    method: str
    accuracy: np.ndarray  # [pairs]
    macro: np.ndarray  # [pairs]
    spread: np.ndarray  # [pairs]: standard deviation over seeds
    gain: np.ndarray  # [pairs]: points above zero-shot
    uses_labels: bool  # of the target: an upper bound, no method to take


def standings(found: Mapping[Pair, Mapping[str, Any]]) -> list[Standing]:
    """Return the methods in the order of their mean accuracy, those with target labels last.

    `found` maps pairs to results.json's content, each of a target with labels; methods that a pair
    lacks are left out.
    """
    rows = {pair: own_rows(results["rows"]) for pair, results in found.items()}
    names = [method for method, domain in rows[next(iter(rows))] if domain == next(iter(rows))[1]]
    shared = [name for name in names if all((name, pair[1]) in rows[pair] for pair in rows)]
    labelled = {name for results in found.values() for name in results.get("target_labels", ())}

    def percent(name: str, key: str) -> np.ndarray:
        return 100 * np.array([rows[pair][name, pair[1]][key] for pair in rows])

    before = percent(ZERO_SHOT, "accuracy_mean")
    every = []
    for name in shared:
        accuracy, macro, spread = (
            percent(name, key) for key in ("accuracy_mean", "macro_accuracy_mean", "accuracy_std")
        )
        every.append(Standing(name, accuracy, macro, spread, accuracy - before, name in labelled))
    return sorted(every, key=lambda s: (s.uses_labels, -s.accuracy.mean()))


def cells(found: Mapping[Pair, Mapping], order: Sequence[Standing]) -> tuple[list, list]:
    """Return header and lines of the table of methods."""
    header = ["method", "target", "macro", "spread", "vs zero-shot", "better on", "worst", "best"]
    pairs, lines = list(found), []
    named = lambda value, pair: f"{value:+.1f} ({' to '.join(pair)})"
    for each in order:
        name = each.method + (" (target labels)" if each.uses_labels else "")
        line = [name, f"{each.accuracy.mean():.1f}", f"{each.macro.mean():.1f}"]
        line += [f"{each.spread.mean():.1f}"]
        if each.method == ZERO_SHOT:
            lines.append([*line, "", "", "", ""])
            continue
        gain, low, high = each.gain, each.gain.argmin(), each.gain.argmax()
        line += [f"{gain.mean():+.1f}", f"{(gain > 0).sum()} of {len(gain)}"]
        lines.append([*line, named(gain[low], pairs[low]), named(gain[high], pairs[high])])
    return header, lines


def sentence(found: Mapping[Pair, Mapping], order: Sequence[Standing]) -> str:
    """Explain the table and say what it shows, without a full stop."""
    some = next(iter(found.values()))
    free = [s for s in order if not s.uses_labels]
    below = [s.method for s in free if s.gain.mean() < 0]
    told = f"{', '.join(below)} end below it on the mean" if below else "none ends below it"
    return (
        f"target test accuracy in %, mean over {len(found)} pairs of domains and seeds "
        f"{some['seeds']}; macro: mean of the classes' own accuracies; spread: standard deviation "
        f"over seeds; of {len(free) - 1} methods without target labels {told}"
    )


def charts(found: Mapping[Pair, Mapping], order: Sequence[Standing]) -> list[str]:
    """Draw gains over zero-shot: bars of means, and a heat map of methods and pairs."""
    shown = [s for s in order if s.method != ZERO_SHOT]
    error = lambda s: s.gain.std(ddof=1) / len(s.gain) ** 0.5 if len(s.gain) > 1 else 0.0
    rows = [
        Bar(
            s.method,
            s.gain.mean(),
            s.gain.mean() - error(s),
            s.gain.mean() + error(s),
            f"better on {(s.gain > 0).sum()} of {len(s.gain)}",
            "zero" if s.uses_labels else "good" if s.gain.mean() >= 0 else "bad",
        )
        for s in shown
    ]
    by_target = sorted(range(len(found)), key=lambda i: tuple(reversed(list(found)[i])))
    pairs = [list(found)[i] for i in by_target]
    groups = [Group(target, [p for p in pairs if p[1] == target]) for _, target in pairs]
    groups = list({group.name: group for group in groups}.values())
    columns = [
        Group(g.name, [f"{source} to {target}" for source, target in g.members]) for g in groups
    ]
    values = np.array([s.gain[by_target] for s in shown])
    return [
        bars("Points above zero-shot, mean and standard error", rows, signed=True),
        heat_map("Points above zero-shot, by target", [s.method for s in shown], columns, values),
    ]


def maps(found: Mapping[Pair, Mapping], order: Sequence[Standing]) -> list[str]:
    """Draw source by target: zero-shot's accuracy, and what the method of best mean adds."""
    sources, targets = (list(dict.fromkeys(pair[i] for pair in found)) for i in (0, 1))
    targets.sort(key=lambda name: sources.index(name) if name in sources else len(sources))
    best = next((s for s in order if s.method != ZERO_SHOT and not s.uses_labels), None)
    before = next(s for s in order if s.method == ZERO_SHOT)

    def matrix(values: np.ndarray) -> np.ndarray:
        cells = np.full((len(sources), len(targets)), np.nan)
        for (source, target), value in zip(found, values, strict=True):
            cells[sources.index(source), targets.index(target)] = value
        return cells

    drawn = [pair_map("Zero-shot on the target, %", sources, targets, matrix(before.accuracy))]
    if best:
        title = f"{best.method}: points above zero-shot"
        drawn.append(pair_map(title, sources, targets, matrix(best.gain), signed=True))
    return drawn


def markdown(found: Mapping[Pair, Mapping]) -> str:
    """Format the comparison as a Markdown page."""
    order = standings(found)
    header, lines = cells(found, order)
    rows = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
    said = sentence(found, order)
    some = next(iter(found.values()))
    parts = [f"# Adaptation over {len(found)} pairs: {some['data']['name']}, model {some['model']}"]
    parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join([*parts, f"{said[0].upper()}{said[1:]}.\n"])


def page(found: Mapping[Pair, Mapping]) -> str:
    """Render the comparison as a page of its own."""
    order = standings(found)
    header, lines = cells(found, order)
    some, said = next(iter(found.values())), sentence(found, order)
    accuracy = [
        [" to ".join(pair), *(f"{s.accuracy[i]:.1f}" for s in order)]
        for i, pair in enumerate(found)
    ]
    items = [
        Grid(maps(found, order), big=True),
        Note("Rows: source. Columns: target."),
        Grid(charts(found, order)),
        Table(header, lines, folded=False),
        Note(f"{said[0].upper()}{said[1:]}."),
        Table(["pair", *(s.method for s in order)], accuracy, "Target accuracy of each pair, %"),
    ]
    about = f"{some['data']['name']}, {some['classes']} classes; model {some['model']}"
    chapter = Chapter("pairs", f"Methods over {len(found)} pairs", items=items)
    return document("Adaptation over pairs of domains", about, [], [chapter])
