"""Tip-Adapter: what labelled images are near is added to CLIP's own answer; nothing trains.

Zhang et al. 2022 (ECCV, arXiv 2207.09519) and their code's main.py, utils.py: logits of a feature f
of length 1 are

    s f.t_k + ratio sum_i exp(-sharpness (1 - f.F_i)) V_ik

with CLIP's scale s and class weights t, the labelled images' features F as keys and their labels,
one-hot, as values V. Ratio (the code's alpha) and sharpness (its beta) are those of a grid that are
best on the source's validation images. (The code looks for ImageNet's on the test images.)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.choice import check_several, numbers
from clipjax.adapt.gda import check_counts
from clipjax.adapt.linear import checked, count_classes
from clipjax.adapt.method import VALIDATION, Backbone, Classes, ClosedForm, check_classes
from clipjax.adapt.moments import sum_blocks

PyTree = Any
EACH_CLASS = "a cache"
LARGEST, STEPS = (7.0, 3.0), (200, 20)  # of sharpness and ratio, as for ImageNet


def affinity(x: jax.Array, keys: jax.Array, values: jax.Array, sharpness: Any) -> jax.Array:
    """Logits of a cache [N, K]: how near features [N, P] are to keys [M, P] of values [M, K].

    >>> keys = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> values = jax.nn.one_hot(jnp.array([0, 1, 1]), 2)
    >>> found = affinity(jnp.array([[0.8, 0.6]]), keys, values, 5.5)
    >>> [round(float(x), 4) for x in found[0]]
    [0.3329, 0.9133]
    """
    return jnp.exp(-sharpness * (1 - x @ keys.T)) @ values


def cache_logits(params: PyTree, x: jax.Array, texts: Classes) -> jax.Array:
    """CLIP's logits [N, K] of features [N, P], and `ratio` times those of the cache."""
    near = affinity(x, params["keys"], params["values"], params["sharpness"])
    return texts.scale * x @ jnp.asarray(texts.weights, jnp.float32).T + params["ratio"] * near


def published_grid(largest: float, count: int) -> tuple[float, ...]:
    """The numbers that the published code tries: from 0.1 in `count` steps up to below `largest`.

    >>> published_grid(2.1, 4)
    (0.1, 0.6, 1.1, 1.6)
    """
    return tuple(round(i * (largest - 0.1) / count + 0.1, 10) for i in range(count))


def searched(cache: PyTree, held: PyTree, texts: Classes, grid: tuple, block: int = 1024) -> PyTree:
    """The cache with the "ratio" and "sharpness" that are best on validation images.

    Args:
      cache: "keys" [M, P], "values" [M, K].
      held: "inputs" [N, P], "label" [N]; not read where the grid is one pair.
      texts: the classes.
      grid: ratios and sharpnesses. Of pairs as good as each other the first is taken, in the order
        of sharpnesses, then ratios, as the published code does.
      block: validation images at once.
    """
    ratios, sharpnesses = (jnp.asarray(each, jnp.float32) for each in grid)
    if len(ratios) == len(sharpnesses) == 1:
        return cache | {"ratio": ratios[0], "sharpness": sharpnesses[0]}
    weights = jnp.asarray(texts.weights, jnp.float32)

    def part(real, rows, truth):
        own, near = texts.scale * rows @ weights.T, 1 - rows @ cache["keys"].T

        def right(sharpness):
            logits = own + ratios[:, None, None] * (jnp.exp(-sharpness * near) @ cache["values"])
            return (jnp.argmax(logits, axis=-1) == truth) @ real

        return jax.lax.map(right, sharpnesses)

    best = jnp.argmax(sum_blocks(part, (held["inputs"], held["label"]), block).reshape(-1))
    row, column = best // len(ratios), best % len(ratios)
    return cache | {"ratio": ratios[column], "sharpness": sharpnesses[row]}


def grid_of(
    ratios: tuple[float, ...],
    sharpnesses: tuple[float, ...],
    largest: tuple[float, float],
    steps: tuple[int, int],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The ratios and the sharpnesses to try; ValueError for any that are none."""
    if len(largest) != 2 or len(steps) != 2 or min(*largest, *steps) <= 0:
        told = f"largest is {largest!r} and steps {steps!r}"
        raise ValueError(f"{told}; give a pair of positive numbers each, of sharpness and ratio.")
    if ratios != () and sharpnesses != () and (largest, steps) != (LARGEST, STEPS):
        told = "largest and steps are of a grid, and ratios and sharpnesses are given"
        raise ValueError(f"{told}; leave out one pair of them.")
    pairs = zip(("sharpnesses", "ratios"), (sharpnesses, ratios), largest, steps, strict=True)
    found = {
        name: numbers(name, given, least=0.0) if given != () else published_grid(top, count)
        for name, given, top, count in pairs
    }
    return found["ratios"], found["sharpnesses"]


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    ratios: tuple[float, ...] = (),
    sharpnesses: tuple[float, ...] = (),
    largest: tuple[float, float] = LARGEST,
    steps: tuple[int, int] = STEPS,
) -> ClosedForm:
    """A cache of the source's features, few or all of them (`data.shots`).

    Args:
      ratios, sharpnesses: those tried; where none are given, the published grid. With one of each
        no validation image is read.
      largest, steps: of that grid, for sharpness and ratio: the upper end and the number. The code
        has (7, 3), up to (13, 13) on some data, and (200, 20).

    ValueError: negative or no numbers; a single class; in the fit, a missing or empty part, a
    class without source images.
    """
    check_several(classes)
    grid = grid_of(ratios, sharpnesses, largest, steps)
    single = len(grid[0]) == len(grid[1]) == 1
    reads = ("source",) if single else ("source", VALIDATION)

    @jax.jit
    def solve(x, labels, held, weights, scale):
        texts = classes._replace(weights=weights, scale=scale)
        cache = {"keys": x, "values": jax.nn.one_hot(labels, len(classes.names))}
        return {"tip": searched(cache, held, texts, grid)}

    def fit(data, texts):
        found = checked(data, len(texts.names), *reads)
        source = found["source"]
        check_counts(count_classes(source["label"], len(texts.names)), texts.names, EACH_CLASS)
        held = found.get(VALIDATION, {})
        weights, scale = np.asarray(texts.weights, np.float32), np.float32(texts.scale)
        return solve(source["inputs"], source["label"], held, weights, scale)

    def predict(params, embeddings, texts):
        check_classes(classes, texts)
        return cache_logits(params, embeddings, texts)

    return ClosedForm(fit, predict, reads=reads, each_class=EACH_CLASS)
