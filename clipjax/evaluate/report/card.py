"""The first thing on a page: the verdict, and every method's accuracy on one axis."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.evaluate import steps
from clipjax.evaluate import verdict as verdicts
from clipjax.evaluate.report.axis import Axis, Guide, Row, track
from clipjax.evaluate.report.charts import colour
from clipjax.evaluate.report.reading import ANCHOR
from clipjax.evaluate.report.tables import Item, Link, Next, Tile, Tiles, Words
from clipjax.evaluate.rows import Line, lines_of
from clipjax.io.texts import capital

ZERO_SHOT = "zero_shot"
NOT_MEASURED = "no labels: not measured"


def colours(results: Mapping) -> dict[str, str]:
    """Map methods to classes of the style sheet, the same in every chart; zero-shot is grey."""
    trained = dict.fromkeys(r["method"] for r in results["rows"] if r["method"] != ZERO_SHOT)
    return {ZERO_SHOT: "zero"} | {name: colour(i) for i, name in enumerate(trained)}


def compared(results: Mapping) -> list[str]:
    """Name the methods that the verdict compares: zero-shot, source-only and the taken one."""
    found = results.get("verdict") or {}
    names = [ZERO_SHOT, found.get("source_only"), found.get("method")]
    there = {row["method"] for row in results["rows"]}
    return [name for name in dict.fromkeys(names) if name in there]


def card(results: Mapping, workdir: Any = None) -> list[Item]:
    """Show the verdict: what to take, margins, three accuracies with error bars, why, what next.

    `workdir` is the run's folder, which commands name.
    """
    found = results.get("verdict")
    if not found:
        return []
    axis = Axis(
        [_compared_row(results, name) for name in found["accuracies"]],
        [f"{found['target']}, %", "95 % interval"],
        guides(results),
        f"Dot: a seed. Bar: 95 % interval over {found['n']} test images.",
        large=True,
    )
    measured = [] if found["n"] else [f"Test accuracy on {found['target']}: {NOT_MEASURED}."]
    why = [*measured, *map(capital, filter(None, [found["why"]]))]
    warned = [capital(f"warning: {each['words']}") for each in found["warnings"]]
    words, step = steps.told(found["next"], workdir, "`"), found["next"]["words"]
    before, *typed = words.removeprefix(step).strip(": ").split("`")
    after = Next(f"Next: {step}{': ' if before else ''}{before.strip()}.", "".join(typed))
    head, more = capital(verdicts.headline(found)), Link("How to read this page", f"#{ANCHOR}")
    return [Words(head, why), Tiles(_margins(found)), axis, Words("", [], warned), after, more]


def _margins(found: Mapping) -> list[Tile]:
    """Make a tile of the taken method's accuracy, and of each of its margins."""
    tiles = []
    if own := found["accuracies"].get(found["method"]):
        ends = f"95 %: {own['low']:.1f} to {own['high']:.1f}"
        tiles.append(Tile(f"{own['points']:.1f} %", f"on {found['target']}", ends))
    for end, margin in found["margins"].items():
        ends = f"{_signed(margin['low'])} to {_signed(margin['high'])}"
        below = f"95 %: {ends}" + ("" if margin["clear"] else "; within the noise")
        tone = "plain" if not margin["clear"] else "good" if margin["points"] > 0 else "bad"
        other = "zero-shot" if end == ZERO_SHOT else f"source-only ({found['source_only']})"
        tiles.append(Tile(_signed(margin["points"]), f"points over {other}", below, tone))
    return tiles


def _compared_row(results: Mapping, name: str) -> Row:
    found = results["verdict"]
    each, low, high = (found["accuracies"][name][key] for key in ("each", "low", "high"))
    point = f"{found['accuracies'][name]['points']:.1f}"
    words = f"{name}: {point} %, 95 % interval {low:.1f} to {high:.1f}"
    kind, marks = colours(results).get(name, "c0"), guides(results)
    drawn = track(words, each, ends=(low, high), guides=marks, kind=kind)
    tag = "taken" if name == found["method"] else ""
    tag = tag or ("source only" if name == found["source_only"] else "")
    tone = "good" if tag == "taken" else "plain"
    return Row(name, drawn, [point, f"{low:.1f} to {high:.1f}"], tag, tone)


def guides(results: Mapping) -> list[Guide]:
    """Return the accuracies of guessing, and of always the target's most frequent class."""
    found = [Guide(100 / results["classes"], "chance", "chance")]
    most = (results.get("majority") or {}).get(results["data"]["target"])
    name = "always the most frequent class"
    return found + ([Guide(100 * most, name, "most")] if most is not None else [])


def accuracies(results: Mapping) -> Axis:
    """Show every method's accuracy on target and source, a dot a seed, on one axis."""
    kinds, marks, ends = colours(results), guides(results), results["data"]
    target, source = ends["target"], ends["source"]
    rows = []
    for line in lines_of(results["rows"]):
        values = [_percent(line.rows.get(domain)) for domain in (target, source)]
        said = [f"{d} {', '.join(f'{v:.1f}' for v in each)} %" for d, each in
                zip((target, source), values, strict=True) if each]  # fmt: skip
        drawn = track(
            f"{line.name}: {'; '.join(said) or NOT_MEASURED}",
            values[0],
            rings=values[1],
            guides=marks,
            kind=kinds[line.method],
        )
        cells = [_mean(line.rows.get(domain), each) for domain, each in
                 zip((target, source), values, strict=True)]  # fmt: skip
        rows.append(Row(line.name, drawn, cells, *_tag(results, line)))
    note = f"Dot: a seed on {target}; vertical bar: their mean. Ring: a seed on {source}."
    return Axis(rows, [f"{target} (target)", f"{source} (source)"], marks, note)


def _percent(row: Mapping[str, Any] | None) -> list[float]:
    """Return a row's accuracies in %; [] of none, or of images without labels."""
    values = (row or {}).get("accuracies") or []
    return [100 * v for v in values if v is not None]


def _mean(row: Mapping | None, values: Sequence[float]) -> str:
    if not values:
        return "no labels" if row else "–"
    spread = f" ± {100 * row['accuracy_std']:.1f}" if row["accuracy_std"] else ""
    return f"{100 * row['accuracy_mean']:.1f}{spread}"


def _tag(results: Mapping, line: Line) -> tuple[str, str]:
    """Return the mark beside a name, and its tone."""
    if line.method in results.get("target_labels", ()):
        return "target labels", "plain"
    if any(row.get("below_zero_shot") for row in line.rows.values()):
        return "below zero-shot", "bad"
    taken = (results.get("verdict") or {}).get("method")
    return ("taken", "good") if line.own and line.method == taken else ("", "plain")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
