"""Statistics of the training set for decoders whose norms trained by those of batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from clipjax.adapt.precise import FIXED, precise_statistics
from clipjax.adapt.segment import Segmenter
from clipjax.adapt.step import merge

PyTree = Any


def with_statistics(
    made: Segmenter,
    params: PyTree,
    shared: PyTree,
    seeds: Sequence[int],
    passed: Callable[[int], Iterator[tuple[PyTree, int]]],
) -> PyTree:
    """Return parameters, stacked over seeds, with the exact statistics of their norms beside them.

    Args:
      made: whose norms are by the batch.
      params, shared: parameters of each seed, and what no step changes.
      seeds: in the order of the parameters.
      passed: seed -> rows of the whole training set, once, and how many of them count.

    They are a function of parameters and data, so that a run that goes on has the same.
    """

    @jax.jit
    def moments(params, shared, rows, number):
        return made.moments(merge(params, shared), rows, jax.random.key(number))

    found = []
    for place, seed in enumerate(seeds):
        own = jax.tree.map(lambda x, place=place: x[place], params)

        def of_rows(fixed, rows, number, own=own):
            known = own | ({FIXED: fixed} if fixed else {})
            return moments(known, shared, rows, number)

        found.append(precise_statistics(of_rows, lambda seed=seed: passed(seed), made.depth))
    return params | {FIXED: jax.tree.map(lambda *x: np.stack(x), *found)}
