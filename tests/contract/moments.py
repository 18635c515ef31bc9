"""Moment matching: the means of source and target features are drawn together."""

import jax.numpy as jnp

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import on_backbone, with_head


def make_method(backbone, classes, *, head, pull=1.0):
    model = on_backbone(backbone, head)

    def loss(params, batch, rng, progress):
        source = batch["source"]
        features = model.features(params, source["inputs"], rng)
        target = model.features(params, batch["target"]["inputs"], rng).mean(axis=0)
        weight = source.get("weight", jnp.ones(len(features)))[:, None]
        apart = jnp.sum((jnp.mean(features * weight, axis=0) - target) ** 2)
        logits = model.classify(params, features)
        value = smoothed_cross_entropy(logits, source["label"], weight=source.get("weight"))
        return value + pull * apart, {"class_loss": value, "apart": apart}

    return with_head(backbone, head, loss, reads=("source", "target"), per_example=False)
