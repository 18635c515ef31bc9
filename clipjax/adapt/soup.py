"""Model soups: means of the weights of several trained models (Wortsman et al. 2022).

arXiv 2203.05482: models that were fine-tuned from the same weights, with other rates, data or
seeds, lie in one basin, so that the mean of their weights is a model too, as cheap as one of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

PyTree = Any


def mean_of(models: Sequence[PyTree]) -> PyTree:
    """The mean of parameters, with equal weights, computed in float64; dtypes stay.

    >>> mean_of([{"w": np.float32([1, 2])}, {"w": np.float32([3, 6])}])["w"].tolist()
    [2.0, 4.0]
    """
    mean = lambda *x: np.mean([np.asarray(v, np.float64) for v in x], axis=0).astype(x[0].dtype)
    return jax.tree.map(mean, *models)


def greedy(
    models: Sequence[PyTree], scores: Sequence[float], score: Callable[[PyTree], float]
) -> tuple[PyTree, list[int]]:
    """The greedy soup (their recipe 1), and the positions of what is in it, best first.

    In order of their scores, the earlier of equals first, each model joins if the mean with it
    scores no less than the mean without it.

    Args:
      models: parameters of one structure, at least one.
      scores: `score` of each, as accuracy on held-out images.
      score: parameters -> the higher the better.

    >>> models = [np.float32(x) for x in (0.0, 4.0, 1.0)]
    >>> score = lambda x: -abs(float(x) - 1.5)
    >>> soup, taken = greedy(models, [score(x) for x in models], score)
    >>> float(soup), taken
    (1.0, [2])
    """
    order = sorted(range(len(models)), key=lambda i: -scores[i])
    taken, best, soup = order[:1], scores[order[0]], models[order[0]]
    for i in order[1:]:
        tried = mean_of([models[j] for j in (*taken, i)])
        if (found := score(tried)) >= best:
            taken, best, soup = [*taken, i], found, tried
    return soup, taken
