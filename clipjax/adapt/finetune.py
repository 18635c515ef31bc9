"""Supervised fine-tuning on the source domain: smoothed cross-entropy, the target unused."""

from __future__ import annotations

from typing import Any

from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import diversity_hinge, label_accuracy, smoothed_cross_entropy, weigh
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone, with_head
from clipjax.adapt.step import Loss


def make_loss(
    model: DannModel,
    *,
    label_smoothing: float = 0.0,
    diversity_weight: float = 0.0,
    diversity_margin: float = 0.5,
) -> Loss:
    """The method: batch = {"source": {"inputs", "label", "mask"?}}; other entries are ignored.

    Rows that the mask leaves out may hold anything; labels and shapes that do not fit end as
    `clipjax.adapt.dann.dann_loss` says.

    Where `model.classify` gives the logits of an ensemble, [M, B, K], each member has its own
    cross-entropy (their mean is minimised); `diversity_weight` times `diversity_hinge` is added.

    Raises:
      ValueError: a negative weight or margin.
    """
    if diversity_weight < 0 or diversity_margin < 0:
        raise ValueError("diversity_weight and diversity_margin must not be negative.")

    def loss(params, batch, rng, progress):
        del progress
        source = check_domain(weigh(batch), "source", "inputs", "label")
        label, weight = source["label"], source.get("weight")
        logits = model.classify(params, model.features(params, source["inputs"], rng))
        value = smoothed_cross_entropy(logits, label, label_smoothing, weight)
        accuracy = label_accuracy(logits, label, weight)
        metrics = {"class_loss": value, "source_accuracy": accuracy}
        if diversity_weight:
            if logits.ndim != 3:
                raise ValueError("diversity_weight needs an ensemble: heads with members > 1.")
            spread = diversity_hinge(logits, diversity_margin, weight)
            metrics["diversity_loss"] = spread
            value = value + diversity_weight * spread
        return value, metrics

    return loss


def make_method(backbone: Backbone, classes: Classes, *, head: Head, **options: Any) -> Method:
    """Fine-tuning on a backbone; `options` are `make_loss`'s."""
    del classes  # the head's
    return with_head(backbone, head, make_loss(on_backbone(backbone, head), **options))
