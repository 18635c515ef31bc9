"""Gradual unfreezing (ULMFiT): an option of a method's entry, made into phases."""

import re
from collections.abc import Sequence
from typing import Any

from clipjax.errors import ConfigError
from clipjax.study.training import Unfreeze

HEADS = "heads"  # the first phase, in which all that thaws is frozen


def steps(order: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns that thaw one after the other.

    A range of blocks that falls is one pattern a block; one that rises thaws together.

    >>> steps(("clip/vision/block_3..2", "clip/vision/block_0..1"))
    ('clip/vision/block_3', 'clip/vision/block_2', 'clip/vision/block_0..1')
    """
    found = []
    for pattern in order:
        span = re.search(r"block_(\d+)\.\.(\d+)", pattern)
        if span and int(span[1]) > int(span[2]):
            blocks = range(int(span[1]), int(span[2]) - 1, -1)
            found += [pattern.replace(span[0], f"block_{i}") for i in blocks]
        else:
            found.append(pattern)
    return tuple(found)


def phases(
    given: Unfreeze, epochs: int, freeze: Sequence[str], where: str
) -> dict[str, dict[str, Any]]:
    """Return the phases, label -> fields: heads alone, then each pattern of the order beside.

    Args:
      given: the order, and the epochs of every phase but the last, which has the rest.
      epochs: of all phases together.
      freeze: what never thaws.
      where: of the entry, for errors.

    ConfigError: no order, a pattern named twice, or too few epochs.
    """
    order = steps(given.order)
    labels = [HEADS, *(re.sub(r"\W+", "_", p.removeprefix("clip/")).strip("_") for p in order)]
    if not order or len(set(labels)) < len(labels):
        wanted = "as in ('clip/vision/projection', 'clip/vision/block_5..0')"
        raise ConfigError(f"{where}.unfreeze.order is {given.order!r}; name groups once, {wanted}.")
    if (rest := epochs - given.epochs * len(order)) < 1:
        raise ConfigError(
            f"{where}: epochs={epochs} are too few for {len(labels)} phases, of "
            f"unfreeze.epochs={given.epochs} each but the last; give {epochs - rest + 1} or more."
        )
    lengths = [given.epochs] * len(order) + [rest]
    return {
        label: {"epochs": length, "freeze": (*freeze, *order[position:])}
        for position, (label, length) in enumerate(zip(labels, lengths, strict=True))
    }
