"""Statistics of a whole training set, in place of those of batches that norms trained by."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

PyTree = Any
# Collections of a module's variables: statistics that are fixed, and those that a pass collects.
FIXED, MOMENTS = "statistics", "moments"
_KEYS = ("mean", "variance")


def merged(parts: Iterable[tuple[PyTree, float]]) -> PyTree:
    """Merge moments of parts of a set, in float64, to those of all as one, float32.

    Args:
      parts: (tree of {"mean", "variance"}, how many examples it is of); the variance is divided by
        their number, not by one less.

    Exact up to rounding for parts of any sizes, as the means' own spread is added. ValueError: no
    part, or none of any example.

    >>> moments = lambda *x: {"norm": {"mean": np.mean(x), "variance": np.var(x)}}
    >>> found = merged([(moments(1.0, 2.0), 2), (moments(6.0), 1)])["norm"]
    >>> float(found["mean"]), round(float(found["variance"]), 4)
    (3.0, 4.6667)
    """
    found = [(jax.tree.map(lambda x: np.asarray(x, np.float64), tree), n) for tree, n in parts]
    shares = np.array([count for _, count in found], np.float64)
    if not shares.sum():
        raise ValueError("there is no example to take statistics of.")
    shares /= shares.sum()

    def whole(*norms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        means, variances = (np.stack([norm[key] for norm in norms]) for key in _KEYS)
        mean = np.tensordot(shares, means, 1)
        variance = np.tensordot(shares, variances + (means - mean) ** 2, 1)
        return {"mean": np.float32(mean), "variance": np.float32(variance)}

    is_norm = lambda tree: isinstance(tree, dict) and set(tree) == set(_KEYS)
    return jax.tree.map(whole, *(tree for tree, _ in found), is_leaf=is_norm)


def precise_statistics(
    moments: Callable[[PyTree, PyTree, int], PyTree],
    batches: Callable[[], Iterator[tuple[PyTree, float]]],
    depth: int,
) -> PyTree:
    """Return mean and variance of every norm's input over a whole set, to be fixed as `FIXED`.

    What a norm reads depends on the norms before it, so there is a pass for each that follows
    another: then the set is one batch, whatever it was cut into.

    Args:
      moments: (statistics so far, {} at first; rows; number of the batch) -> tree of {"mean",
        "variance"} of what each norm reads of the rows, with the statistics in force.
      batches: opens a pass: (rows, how many of them count) of the whole set, the same every time.
      depth: how many norms follow each other at most.

    ValueError: a set without examples.
    """
    fixed: PyTree = {}
    for _ in range(depth):
        passed = enumerate(batches())
        fixed = merged((moments(fixed, rows, number), count) for number, (rows, count) in passed)
    return fixed
