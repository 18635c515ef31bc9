"""CLIP-Adapter: a bottleneck whose output is mixed with CLIP's image feature; texts stay.

Gao et al. 2021 (IJCV 2024, arXiv 2110.04544) and their code's clip_adapter.py: of a feature f

    A(f) = relu(U relu(D f)),  f' = ratio A(f) + (1 - ratio) f,  logits s cos(f', t_k)

with CLIP's scale s and class weights t, D to a quarter of the width and U back, without biases:
A(c f) is c A(f) for c > 0, so it does not matter that f has length 1 here and not there.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.choice import check_several
from clipjax.adapt.losses import class_loss
from clipjax.adapt.method import Backbone, Classes, Compared, Method, in_two_steps

PyTree = Any


def adapted(adapter: PyTree, f: jax.Array, ratio: float) -> jax.Array:
    """Features [B, P] of any length through the adapter, float32 [B, P] of length 1.

    >>> f = jnp.array([[3.0, 4.0]])
    >>> adapter = {"down": jnp.ones((2, 1)), "up": jnp.array([[-1.0, 1.0]])}
    >>> [round(float(x), 4) for x in adapted(adapter, f, 0.2)[0]]
    [0.4626, 0.8866]
    """
    found = jax.nn.relu(jax.nn.relu(f @ adapter["down"]) @ adapter["up"])
    mixed = ratio * found + (1 - ratio) * f
    return mixed / jnp.maximum(jnp.linalg.norm(mixed, axis=-1, keepdims=True), 1e-12)


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    ratio: float = 0.2,
    reduction: int = 4,
    label_smoothing: float = 0.0,
) -> Method:
    """An adapter on image features, trained by cross-entropy; it takes any classes by their texts.

    Args:
      ratio: share of the adapter's output, 0 to 1; 0 is zero-shot.
      reduction: the bottleneck is the width divided by it.
      label_smoothing: of the cross-entropy.

    ValueError: a ratio outside of 0 to 1, a reduction that leaves no bottleneck, a single class.
    """
    check_several(classes)
    width = jnp.shape(classes.weights)[-1]
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio is {ratio}; give a share of the adapter's output, 0 to 1.")
    if not isinstance(reduction, int) or reduction < 1:
        raise ValueError(f"reduction is {reduction!r}; give a whole number, 1 or more.")
    narrow = max(1, width // reduction)
    embed = backbone.encode["image"]

    def init(rng):
        down, up = jax.random.split(rng)
        # As torch's nn.Linear starts: uniform, within 1 / sqrt(inputs).
        uniform = lambda key, *shape: (
            jax.random.uniform(key, shape, jnp.float32, -1, 1) * shape[0] ** -0.5
        )
        return {"adapter": {"down": uniform(down, width, narrow), "up": uniform(up, narrow, width)}}

    def features(params, inputs, rng=None):
        return adapted(params["adapter"], embed(params, inputs, rng), ratio)

    def compare(params, source, rng):
        text = jnp.asarray(classes.weights, jnp.float32)
        image = features(params, source["inputs"], rng)
        return Compared(image, text, source["label"], jnp.asarray(classes.scale, jnp.float32))

    def judge(params, seen, batch, rng, progress):
        return class_loss(seen.logits, batch["source"], label_smoothing)

    def predict(params, inputs, texts):
        weights = jnp.asarray(texts.weights, jnp.float32)
        return texts.scale * features(params, inputs) @ weights.T

    two = {"compare": compare, "judge": judge}
    return Method(init, in_two_steps(compare, judge), predict, features=features, **two)
