"""Tables of measures beside accuracy: macro accuracy, macro F1, the worst group, by domain."""

from clipjax.evaluate.rows import Line, lines_of, not_measured, spread

Cells = tuple[list[str], list[list[str]]]
# Measure -> what its table is called, and what it is.
MEASURES = {
    "macro_accuracy": (
        "macro accuracy",
        "each class's own accuracy, averaged over the classes in the test images",
    ),
    "macro_f1": (
        "macro F1",
        "each class's F1, averaged over the classes in the test images, as in WILDS",
    ),
    "worst_group_accuracy": ("worst group", "accuracy of the group that is the worst, its name"),
}


def cells(results: dict, measure: str = "macro_accuracy") -> Cells:
    """Return the table of a measure of `MEASURES` on all domains; no lines for results without it.

    Domains without labels, and of the worst group those without groups, are left out; the name of
    the group that is the worst, in most seeds, stands beside its accuracy.
    """
    found, dumb = lines_of(results["rows"]), not_measured(results["rows"])
    known = lambda row: bool(row) and row.get(f"{measure}_mean") is not None
    there = {d for line in found for d, row in line.rows.items() if known(row)}
    domains = {
        d: h for d, h in named_domains(results, found).items() if d in there and d not in dumb
    }
    told = lambda row: spread(row, measure) + _group(row, measure) if known(row) else ""
    return [MEASURES[measure][0], *domains.values()], [
        [line.name, *(told(line.rows.get(d)) for d in domains)]
        for line in found
        if any(known(line.rows.get(d)) for d in domains)
    ]


def _group(row: dict, measure: str) -> str:
    """Name the group that is the worst in most seeds, " (Asia)"; "" of other measures."""
    names = row.get("worst_groups") if measure == "worst_group_accuracy" else None
    return f" ({max(dict.fromkeys(names), key=names.count)})" if names else ""


def tables(results: dict) -> list[Cells]:
    """Return `cells` of all measures that the results hold."""
    tables = [cells(results, measure) for measure in MEASURES]
    return [table for table in tables if table[1]]


def sentences(results: dict) -> list[str]:
    """Say what these measures are, without full stops."""
    told = dict(MEASURES.values())
    names = [header[0] for header, _ in tables(results)]
    return [f"{name} in %: {told[name]}" for name in names]


def named_domains(results: dict, found: list[Line]) -> dict[str, str]:
    """Map domains, the source first, then the target, to the heads of their columns."""
    source, target = results["data"]["source"], results["data"]["target"]
    marks = {source: " (source)", target: " (target)"}
    domains = dict.fromkeys(domain for line in found for domain in line.rows)
    ordered = sorted(domains, key=lambda d: (d != source, d != target))
    return {d: d + marks.get(d, "") for d in ordered}
