"""A dataset in a few lines: its domains, their images in each split, and its classes."""

import textwrap
from typing import Any

import numpy as np

from clipjax.data.splits import SPLITS
from clipjax.data.unlabelled import labelled
from clipjax.errors import DataError

WIDTH = 100  # columns of the list of classes


def summary(dataset: Any) -> str:
    """Return a table of the images of each domain and split, "-" where it has none, and classes.

    Labels are read, images are not.
    """
    read = lambda domain: [_labels(dataset, domain, split) for split in SPLITS]
    labels = {domain: read(domain) for domain in dataset.domains}
    counts = {name: [None if x is None else len(x) for x in row] for name, row in labels.items()}
    total = sum(count or 0 for row in counts.values() for count in row)
    lines = [
        f"{dataset.name}: {_many(total, 'image')}, {_many(len(counts), 'domain')}, "
        f"{_many(len(dataset.classes), 'class', 'classes')}"
    ]
    width = max(map(len, ("domain", *counts)))
    lines.append("  ".join(["domain".ljust(width), *(f"{split:>7}" for split in SPLITS)]))
    for domain, row in counts.items():
        cells = ("-" if count is None else f"{count:,}" for count in row)
        told = ""
        if dataset.unlabelled(domain):
            some = any(labelled(x).any() for x in labels[domain] if x is not None)
            told = "  not all labelled" if some else "  no labels"
        lines.append("  ".join([domain.ljust(width), *(f"{cell:>7}" for cell in cells)]) + told)
    named = "classes: " + ", ".join(dataset.classes)
    lines += textwrap.wrap(named, WIDTH, subsequent_indent="  ", max_lines=4, placeholder=" ...")
    return "\n".join(lines)


def _labels(dataset: Any, domain: str, split: str) -> np.ndarray | None:
    """Return the labels of a split; None where the domain has no such split."""
    try:
        return np.asarray(dataset.source(domain, split).labels)
    except DataError:
        return None


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
