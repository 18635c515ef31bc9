"""Supervised fine-tuning on the source domain: smoothed cross-entropy, the target unused."""

from __future__ import annotations

import jax.numpy as jnp

from clipjax.adapt.dann import DannModel
from clipjax.adapt.losses import diversity_hinge, masked_mean, smoothed_cross_entropy
from clipjax.adapt.step import Loss


def make_loss(
    model: DannModel,
    *,
    label_smoothing: float = 0.0,
    diversity_weight: float = 0.0,
    diversity_margin: float = 0.5,
    axis_name: str | None = None,
) -> Loss:
    """The method: batch = {"source": {"inputs", "label", "mask"?}}; other entries are ignored.

    Where `model.classify` gives the logits of an ensemble, [M, B, K], each member has its own
    cross-entropy (their mean is minimised); `diversity_weight` times `diversity_hinge` is added.
    `axis_name`: see `clipjax.adapt.losses`.

    Raises:
      ValueError: a negative weight or margin.
    """
    if diversity_weight < 0 or diversity_margin < 0:
        raise ValueError("diversity_weight and diversity_margin must not be negative.")

    def loss(params, batch, rng, progress):
        del progress
        source = batch["source"]
        logits = model.classify(params, model.features(params, source["inputs"], rng))
        mask = source.get("mask")
        value = smoothed_cross_entropy(logits, source["label"], label_smoothing, mask, axis_name)
        hit = (jnp.argmax(logits, axis=-1) == source["label"]).astype(jnp.float32)
        accuracy = masked_mean(hit.reshape(-1, hit.shape[-1]).mean(axis=0), mask, axis_name)
        metrics = {"class_loss": value, "source_accuracy": accuracy}
        if diversity_weight:
            if logits.ndim != 3:
                raise ValueError("diversity_weight needs an ensemble: heads with members > 1.")
            spread = diversity_hinge(logits, diversity_margin, mask, axis_name)
            metrics["diversity_loss"] = spread
            value = value + diversity_weight * spread
        return value, metrics

    return loss
