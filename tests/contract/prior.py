"""A head on features centred by the target's mean, and the target's mean zero-shot answer."""

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import class_loss, weigh
from clipjax.adapt.method import Method


def make_method(backbone, classes, *, strength=0.5):
    embed = backbone.encode["image"]

    def init(rng):
        shape = jnp.shape(classes.weights)
        return {"classifier": 0.1 * jax.random.normal(rng, (shape[1], shape[0]))}

    def start(data, texts, own):
        target = data["target"]
        prior = jax.nn.softmax(target["zero_shot"]).mean(axis=0)
        known = {"mean": target["inputs"].mean(axis=0), "prior": prior}
        return {**own, "known": known, "size": jnp.float32(data["source"]["label"].mean())}

    def logits(params, inputs, rng=None):
        known = params["known"]
        away = embed(params, inputs, rng) - known["mean"]
        return away @ params["classifier"] - strength * jnp.log(known["prior"])

    def loss(params, batch, rng, progress):
        source = weigh(batch)["source"]
        return class_loss(logits(params, source["inputs"], rng), source, 0.0)

    return Method(
        init,
        loss,
        lambda params, inputs, texts: logits(params, inputs),
        reads=("source", "target", "zero_shot"),
        start=start,
        constants=("known", "size"),
    )
