"""Supervised fine-tuning on the source domain: smoothed cross-entropy, the target unused."""

from typing import Any

from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import class_loss, diversity_hinge, weigh
from clipjax.adapt.method import (
    Backbone,
    Classes,
    DannModel,
    Head,
    Method,
    by_texts,
    compare_classes,
    on_backbone,
    with_head,
)
from clipjax.adapt.step import Loss


def make_loss(
    model: DannModel,
    *,
    label_smoothing: float = 0.0,
    diversity_weight: float = 0.0,
    diversity_margin: float = 0.5,
) -> Loss:
    """The loss on batch = {"source": {"inputs", "label", "mask"?}}; the rest of it is ignored.

    Members of an ensemble (logits [M, B, K]) each have their own cross-entropy; `diversity_weight`
    times `diversity_hinge` is added. Batches are checked as by `dann_loss`.

    ValueError: a negative weight or margin.
    """
    if diversity_weight < 0 or diversity_margin < 0:
        raise ValueError("diversity_weight and diversity_margin must not be negative.")

    def loss(params, batch, rng, progress):
        source = check_domain(weigh(batch), "source", "inputs", "label")
        logits = model.classify(params, model.features(params, source["inputs"], rng))
        value, metrics = class_loss(logits, source, label_smoothing)
        if diversity_weight:
            if logits.ndim != 3:
                raise ValueError("diversity_weight needs an ensemble: heads with members > 1.")
            spread = diversity_hinge(logits, diversity_margin, source.get("weight"))
            metrics["diversity_loss"] = spread
            value = value + diversity_weight * spread
        return value, metrics

    return loss


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, templates: str = "all", **options: Any
) -> Method:
    """Fine-tuning on a backbone; `options` are those of `make_loss`.

    `templates`, of a text classifier: what an image is compared with in training, the mean of all
    prompts of each class, or "class", one of them drawn anew for each class in every step (the
    cross-entropy that FLYP is compared with, Goyal et al. 2023, arXiv 2212.00638). It predicts by
    all of them. ValueError: drawn templates of another classifier.
    """
    made = with_head(backbone, head, make_loss(on_backbone(backbone, head), **options))
    if templates != "all" and "text" not in head.towers:
        fault = f"templates={templates} is of a text classifier"
        raise ValueError(f"{fault}; use heads = {{'text': True}}, or leave it out.")
    if "text" not in head.towers or options.get("diversity_weight"):
        return made
    smoothing = options.get("label_smoothing", 0.0)

    def judge(params, seen, batch, rng, progress):
        return class_loss(seen.logits, batch["source"], smoothing)

    return by_texts(backbone, head, compare_classes(backbone, classes, templates), judge)
