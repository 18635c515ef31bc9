"""A dataset in a few lines: its domains, their images in each split, and its classes."""

import textwrap
from typing import Any

import numpy as np

from clipjax.data.splits import SPLITS
from clipjax.errors import DataError

WIDTH = 100  # columns of the list of classes


def summary(dataset: Any) -> str:
    """Return a table of the images of each domain and split, "-" where it has none, and classes.

    Labels are read, images are not.
    """
    count = lambda domain: [_count(dataset, domain, split) for split in SPLITS]
    counts = {domain: count(domain) for domain in dataset.domains}
    total = sum(count or 0 for row in counts.values() for count in row)
    lines = [
        f"{dataset.name}: {_many(total, 'image')}, {_many(len(counts), 'domain')}, "
        f"{_many(len(dataset.classes), 'class', 'classes')}"
    ]
    width = max(map(len, ("domain", *counts)))
    lines.append("  ".join(["domain".ljust(width), *(f"{split:>7}" for split in SPLITS)]))
    for domain, row in counts.items():
        cells = ("-" if count is None else f"{count:,}" for count in row)
        told = "  not all labelled" if dataset.unlabelled(domain) else ""
        lines.append("  ".join([domain.ljust(width), *(f"{cell:>7}" for cell in cells)]) + told)
    named = "classes: " + ", ".join(dataset.classes)
    lines += textwrap.wrap(named, WIDTH, subsequent_indent="  ", max_lines=4, placeholder=" ...")
    return "\n".join(lines)


def _count(dataset: Any, domain: str, split: str) -> int | None:
    """Return the number of images; None where the domain has no such split."""
    try:
        return len(np.asarray(dataset.source(domain, split).labels))
    except DataError:
        return None


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
