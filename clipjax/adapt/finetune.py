"""Supervised fine-tuning on the source domain: smoothed cross-entropy, the target unused."""

from __future__ import annotations

import jax.numpy as jnp

from clipjax.adapt.dann import DannModel
from clipjax.adapt.losses import masked_mean, smoothed_cross_entropy
from clipjax.adapt.step import Loss


def make_loss(model: DannModel, *, label_smoothing: float = 0.0) -> Loss:
    """The method: batch = {"source": {"inputs", "label", "mask"?}}; other entries are ignored."""

    def loss(params, batch, rng, progress):
        del progress
        source = batch["source"]
        logits = model.classify(params, model.features(params, source["inputs"], rng))
        mask = source.get("mask")
        value = smoothed_cross_entropy(logits, source["label"], label_smoothing, mask)
        hit = (jnp.argmax(logits, axis=-1) == source["label"]).astype(jnp.float32)
        accuracy = masked_mean(hit.reshape(-1, hit.shape[-1]).mean(axis=0), mask)
        return value, {"class_loss": value, "source_accuracy": accuracy}

    return loss
