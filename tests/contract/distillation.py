"""Distillation: answers on target images stay near those of the encoder as it came."""

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import class_weights, on_backbone, with_head


def make_method(backbone, classes, *, head, anchor=1.0):
    model = on_backbone(backbone, head)

    def teach(teacher, inputs):
        weights = class_weights(backbone, teacher, classes.tokens)
        return backbone.scale(teacher) * backbone.encode["image"](teacher, inputs) @ weights.T

    def loss(params, batch, rng, progress):
        source, target = batch["source"], batch["target"]["inputs"]
        features = model.features(params, source["inputs"], rng)
        logits = model.classify(params, features)
        value = smoothed_cross_entropy(logits, source["label"], weight=source.get("weight"))
        taught = jax.nn.log_softmax(teach({"clip": params["teacher"]}, target))
        own = jax.nn.log_softmax(model.classify(params, model.features(params, target, rng)))
        away = jnp.mean(jnp.sum(jnp.exp(taught) * (taught - own), axis=-1))
        return value + anchor * away, {"class_loss": value, "away": away}

    return with_head(backbone, head, loss, reads=("source", "target", "teacher"))
