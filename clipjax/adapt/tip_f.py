"""Tip-Adapter-F: Tip-Adapter (`clipjax.adapt.tip`) whose keys train, by cross-entropy.

Zhang et al. 2022 (ECCV, arXiv 2207.09519) and their code's main.py. Ratio and sharpness are those
that are best on the validation images with the keys as they come, and stay. (The code starts from a
pair given for each dataset, looks again after training, and takes the epoch and the pair that are
best on the test images.)
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_domain
from clipjax.adapt.choice import check_several
from clipjax.adapt.linear import checked
from clipjax.adapt.losses import class_loss, weigh
from clipjax.adapt.method import VALIDATION, Backbone, Classes, Method, check_classes
from clipjax.adapt.tip import LARGEST, STEPS, cache_logits, grid_of, searched

PyTree = Any


def in_slots(x: jax.Array, labels: jax.Array, classes: int, shots: int) -> PyTree:
    """A cache of `shots` places a class: the first features [N, P] of each, in order.

    "keys" [K shots, P] and "values" [K shots, K], both 0 where a class has fewer images.
    """
    order = jnp.argsort(labels, stable=True)
    x, labels = x[order], labels[order]
    place = jnp.arange(len(labels)) - jnp.searchsorted(labels, labels, side="left")
    slots = jnp.where(place < shots, labels * shots + place, classes * shots)
    empty = lambda width: jnp.zeros((classes * shots, width), jnp.float32)
    hot = jax.nn.one_hot(labels, classes)
    keys, values = (empty(r.shape[1]).at[slots].set(r, mode="drop") for r in (x, hot))
    return {"keys": keys, "values": values}


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    shots: int,
    ratios: tuple[float, ...] = (),
    sharpnesses: tuple[float, ...] = (),
    largest: tuple[float, float] = LARGEST,
    steps: tuple[int, int] = STEPS,
    label_smoothing: float = 0.0,
) -> Method:
    """A cache of the source's features whose keys train; options are those of `tip`.

    Args:
      shots: labelled images a class, of `data.shots`: the places of the cache.
      ratios, sharpnesses, largest, steps: as of `tip`.
      label_smoothing: of the cross-entropy.

    ValueError: negative or no numbers, no shots, a single class.
    """
    check_several(classes)
    if shots < 1:
        raise ValueError("it keeps a key for each labelled image of a class; set data.shots.")
    grid = grid_of(ratios, sharpnesses, largest, steps)
    start_reads = () if len(grid[0]) == len(grid[1]) == 1 else (VALIDATION,)
    count, width = len(classes.names), jnp.shape(classes.weights)[-1]
    embed = backbone.encode["image"]

    def init(rng):
        keys, zero = jnp.zeros((count * shots, width), jnp.float32), jnp.float32(0)
        values = jnp.zeros((count * shots, count), jnp.float32)
        return {"keys": keys, "cache": {"values": values, "ratio": zero, "sharpness": zero}}

    def start(data, texts, own):
        found = checked(data, count, "source", *start_reads)
        cache = in_slots(*found["source"].values(), count, shots)
        cache = searched(cache, found.get(VALIDATION, {}), texts, grid)
        return {"keys": cache.pop("keys"), "cache": cache}

    def logits(params, inputs, texts, rng=None):
        cache = params["cache"] | {"keys": params["keys"]}
        return cache_logits(cache, embed(params, inputs, rng), texts)

    def loss(params, batch, rng, progress):
        source = check_domain(weigh(batch), "source", "inputs", "label")
        found = logits(params, source["inputs"], classes, rng)
        return class_loss(found, source, label_smoothing)

    def predict(params, inputs, texts):
        check_classes(classes, texts)
        return logits(params, inputs, texts)

    more = {"start_reads": start_reads, "constants": ("cache",)}
    return Method(init, loss, predict, start=start, **more)
