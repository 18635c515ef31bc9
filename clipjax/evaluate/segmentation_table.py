"""What a segmentation run found: its table, its sentences, its page."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.data.masks import NO_MASKS
from clipjax.evaluate import segmentation_grid
from clipjax.evaluate.report.page import document
from clipjax.evaluate.report.segments import legend
from clipjax.evaluate.report.tables import Chapter, Grid, Note, Picture, Plates, Table

Found = Mapping[str, Any]  # the content of segmentation.json
NOT_MEASURED = "not measured"


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Write the mean of values over seeds, in %, and their standard deviation."""
    given = 100 * np.array(values)
    if len(given) < 2:
        return f"{given.mean():.{digits}f}"
    return f"{given.mean():.{digits}f} ± {given.std(ddof=1):.{digits}f}"


def cells(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return header and lines: mIoU of each method on the source, each target and their mean.

    The last line answers the most frequent class everywhere. Means are of what is measured.
    """
    conditions, (source, targets) = found["conditions"], segmentation_grid.sides(found)
    bare = found["classes"][0] == "background" and bool(source)
    kind = "source, validation" if found["split"] == "val" else "source"
    every = len(targets) == len(conditions) - 1
    header = ["method", f"{conditions[0]} ({kind})", *conditions[1:]]
    header += [f"mean {'' if every else 'measured '}target"] * bool(targets)
    header += ["mIoU%"] * bool(source and targets) + [f"{conditions[0]}, no background"] * bare
    lines = []
    for name, row in found["methods"].items():
        miou = row["miou"]
        line = [name, *(_spread(miou[c]) if c in miou else NOT_MEASURED for c in conditions)]
        mean = np.mean([miou[target] for target in targets], axis=0) if targets else None
        line += [_spread(mean)] if targets else []
        if source and targets:  # of a source that keeps nothing there is no share
            line.append(_spread(mean / np.array(miou[source[0]])) if all(miou[source[0]]) else "–")
        lines.append(line + ([_spread(row["foreground"][source[0]])] if bare else []))
    if constant := found["constant"]:
        told = [f"{100 * constant[c]:.1f}" if c in constant else "" for c in conditions]
        empty = [""] * (len(header) - len(told) - 1)
        lines.append([f"all {found['majority']}", *told, *empty])
    return header, lines


def paired(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return what Domino and its controls change against the same decoder without W, by seed.

    A line of means over seeds of the difference in mIoU points, and their standard error.
    """
    source, targets = segmentation_grid.sides(found)
    parts = [part for part in (source, targets) if part]
    lines = []
    for name, row in found["methods"].items() if parts else ():
        if not (against := row["against"]):
            continue
        other = found["methods"][against]
        told = [segmentation_grid.gain(row, other, where) for where in parts]
        lines.append([name, against, *told])
    header = ["method", "against", *(f"{c}, points" for c in source)]
    return header + ["mean target, points"] * bool(targets), lines


def note(found: Found) -> str:
    """Say what was measured, what trained and on which labels, without a full stop."""
    told = [found["note"], f"what trains: {found['trains']}", found["labels"]]
    if lost := found["not_measured"]:
        told.append(f"{', '.join(lost)}: {NO_MASKS}, not measured, answers are written")
    if found["majority_of"] not in (None, "train"):
        of = f"{found['majority']} is the most frequent class of the masks of"
        told.append(f"{of} {found['majority_of']} that are tested")
    return "; ".join(filter(None, told))


def reading(found: Found) -> str:
    """Say how well CLIP names the domains, without a full stop."""
    of = found["domain"]
    kind = "validation" if found["split"] == "val" else "test"
    named = f"No domain of the {kind} images has a description"
    if of["readout"] is not None:
        named = (
            f"CLIP names the true domain of {100 * of['readout']:.0f} % of the {kind} images "
            f"(chance {100 / of['descriptions']:.0f})"
        )
    nats, most = of["entropy"]["1"], np.log(of["descriptions"])
    return (
        f"{named}; without temperature alpha's entropy is {nats:.3f} of "
        f"{most:.3f} nats, and W moves by {100 * of['movement']['1']:.1f} % of its length over "
        f"images; with CLIP's own scale {of['entropy']['clip']:.3f} nats and "
        f"{100 * of['movement']['clip']:.0f} %"
    )


def named(found: Found, what: str = "named") -> tuple[list[str], list[list[str]]]:
    """Return for each condition the share of its images that CLIP gives each name, in %.

    With `what="alpha"` the mean of alpha with CLIP's own scale.
    """
    header = [f"condition, {what}", *(f"{name}, %" for name in found["descriptions"])]
    rows = found["domain"][what]
    return header, [[c, *(f"{100 * x:.1f}" for x in rows[c])] for c in found["conditions"]]


def per_class(found: Found) -> list[Table]:
    """Return a table for each method: IoU of each class in each condition, mean over seeds."""
    tables = []
    for name, row in found["methods"].items():
        lines = []
        for condition in row["iou"]:
            iou = np.array(row["iou"][condition], float)
            seen = [np.nanmean(column) if np.isfinite(column).any() else None for column in iou.T]
            lines.append([condition, *("-" if x is None else f"{100 * x:.1f}" for x in seen)])
        tables.append(
            Table(["condition", *found["classes"]], lines, f"{name}: IoU, %", folded=True)
        )
    return tables


def _grid(found: Found) -> list[Chapter]:
    """Return the chapters of controls and of mixing, where there are some."""
    chapters = []
    if tables := compared(found):
        told = segmentation_grid.sentence(found)
        items = [*tables, Note(f"{told}." if told else "")]
        chapters.append(Chapter("grid", "Against controls", items=items))
    if found.get("mixing"):
        items = [
            Grid([segmentation_grid.mixing_chart(found)], big=True),
            Table(*segmentation_grid.mixing(found), "mIoU, %"),
        ]
        chapters.append(Chapter("mixing", "Mixing of real and synthetic images", items=items))
    return chapters


def compared(found: Found) -> list[Table]:
    """Return tables of what rows with W gain over their controls, on targets and on the source."""
    source, targets = segmentation_grid.sides(found)
    parts = [("mean target", targets)] * bool(targets) + [(c, [c]) for c in source]
    made = [(what, *segmentation_grid.grid(found, of)) for what, of in parts]
    title = "{}: points, ± standard error".format
    return [Table(header, lines, title(what)) for what, header, lines in made if lines]


def page(found: Found, overlays: Mapping[str, str]) -> str:
    """Render segmentation.html; `overlays` maps conditions to pictures as data URIs."""
    first, bare = next(iter(found["methods"])), found["not_measured"]
    told = {c: "image, answer" if c in bare else "image, truth, answer" for c in overlays}
    pictures = [
        Picture(src, f"{c}: {told[c]}", f"{c}: {told[c]} of {first}")
        for c, src in overlays.items()
        if src
    ]
    plates = Plates(pictures, legend(found["classes"]))
    shown = Table(*cells(found), folded=False)
    pair = Table(*paired(found), folded=False)
    return document(
        "segmentation under domain shift",
        html.unescape(
            f"model {found['model']}{' (validation images)' * (found['split'] == 'val')}; "
            f"seeds {', '.join(map(str, found['seeds']))}"
        ),
        [],
        [
            Chapter("results", "mIoU, %", items=[shown, Note(note(found))]),
            Chapter("images", "Images, truths and answers", items=[plates]),
            Chapter("domino", "Against the same decoder without W", items=[pair]),
            *_grid(found),
            Chapter(
                "domain",
                "What CLIP says of the condition",
                items=[
                    Note(f"{reading(found)}."),
                    Table(*named(found), "images by the name that CLIP gives them, %"),
                    Table(*named(found, "alpha"), "alpha with CLIP's own scale, %"),
                ],
            ),
            Chapter("classes", "IoU of classes", items=per_class(found)),
        ],
    )
