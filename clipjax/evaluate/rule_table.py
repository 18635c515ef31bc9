"""What every selection rule would have picked, in one table: epochs of methods, and the method."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.evaluate.choice import ACROSS_RULES, mean, taken
from clipjax.evaluate.rows import own_rows
from clipjax.evaluate.select import ALIASES

ABOUT = (
    "Test accuracy in %, mean over seeds, of what each rule picks on validation images: an epoch "
    "of each method, and among the methods that pass the guard one to take; * the rules of this "
    "run. `oracle` reads the target's labels. Nothing of this table decides."
)
_ENDS = ("source", "target")


def cells(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines, rules of one pick together; no lines of a sweep.

    (Of a sweep they are hundreds of numbers, which results.json has.)
    """
    data = results["data"]
    header = ["chosen", "pick", *(f"{data[end]} ({end})" for end in _ENDS), "by"]
    found: dict[tuple[str, ...], list[str]] = {}
    if "sweep" in results:
        return header, []
    used = ALIASES.get(results["selection"], results["selection"])
    for method, rules in (results.get("selection_rules") or {}).items():
        for rule, r in rules.items():
            epochs = "/".join(map(str, dict.fromkeys(r["epoch"])))
            line = (f"epoch of {method}", epochs, *(_percent(r[end]) for end in _ENDS))
            found.setdefault(line, []).append(rule + " *" * (rule == used))
    for rule, pick, values in _methods(results):
        line = ("method", pick, *map(_percent, values))
        found.setdefault(line, []).append(rule + " *" * (rule == results["choice"]["rule"]))
    return header, [[*line, ", ".join(rules)] for line, rules in found.items()]


def _methods(results: Mapping[str, Any]) -> list[tuple[str, str, list[list]]]:
    """Return (rule, the method that it takes, its accuracies on source and target)."""
    if not (choice := results.get("choice")):
        return []
    picks = {rule: taken(choice["scores"], rule, choice["refused"]) for rule in ACROSS_RULES}
    test = own_rows(results["rows"])
    each = lambda pick: [test[pick, results["data"][end]]["accuracies"] for end in _ENDS]
    return [(rule, pick, each(pick)) for rule, pick in picks.items() if pick]


def _percent(values: Sequence[float | None] | None) -> str:
    """Write the mean in %; a dash where it was not measured."""
    value = mean(values)
    return "–" if value is None else f"{100 * value:.1f}"
