"""Prototypical networks: class means of a support set name the queries of its episode."""

import jax.numpy as jnp

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import on_backbone, with_head


def make_method(backbone, classes, *, head, way=2):
    model = on_backbone(backbone, head)

    def loss(params, batch, rng, progress):
        support = model.features(params, batch["support"]["inputs"], rng)
        means = support.reshape(way, -1, support.shape[-1]).mean(axis=1)  # class after class
        query = model.features(params, batch["source"]["inputs"], rng)
        logits = -jnp.sum((query[:, None] - means) ** 2, axis=-1)
        label = jnp.repeat(jnp.arange(way), len(query) // way)
        value = smoothed_cross_entropy(logits, label)
        return value, {"class_loss": value}

    return with_head(backbone, head, loss, reads=("source", "support"), per_example=False)
