"""What Domino's parts gain over their controls, by seed, and what mixing of domains does."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.evaluate.report.charts import line_chart

Found = Mapping[str, Any]  # the content of segmentation.json
CONTROLS = ("constant", "shuffled", "oracle")
# Of a row and its controls.
_ALIKE = ("decoder", "stats", "classifier", "labels", "prompt", "norm", "scale", "lr")


def sides(found: Found) -> tuple[list[str], list[str]]:
    """Return the source, and the targets, without those that are not measured.

    >>> sides({"conditions": ["a", "b", "c"], "not_measured": {"a": "no masks"}})
    ([], ['b', 'c'])
    """
    kept = [[c for c in found["conditions"][part] if c not in found["not_measured"]]
            for part in (slice(1), slice(1, None))]  # fmt: skip
    return kept[0], kept[1]


def apart(row: Mapping, other: Mapping, conditions: list[str]) -> tuple[float, float]:
    """Return how much a row's mean mIoU over conditions is above another's, by seed, in points.

    Mean over seeds and its standard error, NaN of one seed.
    """
    mean = lambda each: 100 * np.mean([each["miou"][c] for c in conditions], axis=0)
    pairs = mean(row) - mean(other)
    error = pairs.std(ddof=1) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
    return float(pairs.mean()), float(error)


def gain(row: Mapping, other: Mapping, conditions: list[str]) -> str:
    """Write what `apart` computes; of one seed without an error."""
    mean, error = apart(row, other, conditions)
    return f"{mean:+.2f}" if np.isnan(error) else f"{mean:+.2f} ± {error:.2f}"


def controls_of(found: Found) -> dict[str, dict[str, str]]:
    """Return row that reads W off images -> {"no W" or a control: the row that has it}."""
    of = {name: row["fields"] for name, row in found["methods"].items()}
    tables = {}
    for name, fields in of.items():
        if not found["methods"][name]["against"] or fields["control"] != "none":
            continue
        alike = lambda other, fields=fields: all(other[key] == fields[key] for key in _ALIKE)
        own = {other["control"]: n for n, other in of.items() if n != name and alike(other)}
        if own:
            tables[name] = {"no W": found["methods"][name]["against"], **own}
    return tables


def grid(found: Found, conditions: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return what each row with W gains over no W and its controls on conditions, points ± error.

    Lines are empty where no row has a control.
    """
    header = ["method", "mIoU", *(f"- {name}" for name in ("no W", *CONTROLS))]
    lines = []
    for name, others in controls_of(found).items():
        row = found["methods"][name]
        told = [
            gain(row, found["methods"][others[key]], conditions) if key in others else ""
            for key in ("no W", *CONTROLS)
        ]
        lines.append([name, f"{100 * np.mean([row['miou'][c] for c in conditions]):.1f}", *told])
    return header, lines


def sentence(found: Found) -> str:
    """Say how many rows are apart from their controls by more than two standard errors; or ""."""
    (_, targets), told = sides(found), []
    if not targets or any(len(row["miou"][targets[0]]) < 2 for row in found["methods"].values()):
        return ""
    for control in ("constant", "shuffled"):
        pairs = [
            apart(found["methods"][name], found["methods"][others[control]], targets)
            for name, others in controls_of(found).items()
            if control in others
        ]
        if not pairs:
            continue
        above = sum(mean > 2 * error for mean, error in pairs)
        below = sum(-mean > 2 * error for mean, error in pairs)
        told.append(f"{above} are above and {below} below {control} W")
    if not told:
        return ""
    rows = f"Of {len(controls_of(found))} rows that read W off images {', '.join(told)}"
    return f"{rows}, on the mean of the targets by more than two standard errors"


def mixing(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return mIoU by share of the other domain's images, mean over seeds ± standard deviation.

    Of domains that are measured.
    """
    of, (source, targets) = found.get("mixing"), sides(found)
    if not of or not (source or targets):
        return [], []
    columns = {c: 100 * np.array(of["miou"][c]) for c in (*source, *targets)}  # [shares, seeds]
    if targets:
        columns["mean target"] = np.mean([columns[c] for c in targets], axis=0)
    if source and targets:
        before = columns[source[0]]
        columns["mIoU%"] = 100 * columns["mean target"] / np.where(before > 0, before, np.nan)
    lines = []
    for i, share in enumerate(of["shares"]):
        values = (column[i] for column in columns.values())
        lines.append([f"{100 * share:g} %", *map(_spread, values)])
    return [f"{of['domain']} images", *columns], lines


def _spread(values: np.ndarray) -> str:
    told = f"{values.mean():.1f}"
    return told if len(values) < 2 else f"{told} ± {values.std(ddof=1):.1f}"


def mixing_chart(found: Found) -> str:
    """Draw mIoU against the share of the other domain's images; "" of no mixing."""
    of, (source, targets) = found.get("mixing"), sides(found)
    if not of or not (source or targets):
        return ""
    series = {}
    for condition in (*source, *targets):
        values = 100 * np.array(of["miou"][condition])
        mean, spread = values.mean(axis=1), values.std(axis=1)
        series[condition] = [100 * np.array(of["shares"]), mean, mean - spread, mean + spread]
    title = f"{of['method']}: mIoU by the share of {of['domain']} images"
    label = f"{of['domain']} images in place of {found['conditions'][0]} ones, %"
    return line_chart(title, series, label, "mIoU, %", height=180, dots=True)
