"""Calibrated self-distillation: the head learns CLIP's zero-shot answers at a fitted temperature.

Deng & Jia 2023 (arXiv 2305.11092) distil CLIP's calibrated answers on the target; Westfechtel et
al. 2023 calibrate such a teacher for domain adaptation:

    L = CE(softmax(z / T - d log m), p) on the target + s CE(p, source)

of cached zero-shot logits z, where m is the mean of softmax(z / T) over the batch: d > 0 takes the
teacher's preference for some classes away (Wang et al. 2022, arXiv 2201.01490). T is fitted on the
source half of each batch: by the likelihood of its labels, or so that the largest probability is
0.9 in the mean. Use heads = {}: a linear head that starts at the texts.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.anchors import (
    check_teacher,
    confident_temperature,
    fit_temperature,
    log_probabilities,
    soft_cross_entropy,
)
from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import class_loss, weigh
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone, with_head
from clipjax.adapt.step import Loss

CALIBRATIONS = ("likelihood", "confidence", "none")


def debiased(logits: jax.Array, strength: float, weight: jax.Array | None = None) -> jax.Array:
    """Log-probabilities [N, K] less `strength` times the logarithm of their mean probability.

    They are not normalised. The mean is of the batch, without examples whose weight is 0.
    """
    logp = log_probabilities(logits, weight)
    p = jnp.exp(logp)
    mean = jnp.mean(p if weight is None else p * weight[:, None], axis=0)
    return logp - strength * jnp.log(jnp.maximum(mean, 1e-12))


def make_loss(
    model: DannModel,
    *,
    calibration: str = "likelihood",
    confidence: float = 0.9,
    source_weight: float = 1.0,
    distill_weight: float = 1.0,
    debias: float = 0.0,
    label_smoothing: float = 0.1,
) -> Loss:
    """The loss on {"source": {"inputs", "label", "zero_shot"}, "target": {"inputs", "zero_shot"}}.

    Both may have a "mask". `calibration` is "likelihood" (`fit_temperature`), "confidence" (mean
    largest probability `confidence`, `confident_temperature`) or "none" (T = 1); `debias` is d and
    `source_weight` s above. Batches should hold some 100 examples, of which T and m are statistics.

    ValueError: an unknown calibration, a share outside (0, 1), or a negative weight.
    """
    if calibration not in CALIBRATIONS:
        known = ", ".join(CALIBRATIONS)
        raise ValueError(f"unknown calibration {calibration!r}; known: {known}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a share between 0 and 1.")
    if min(source_weight, distill_weight, debias) < 0:
        raise ValueError("source_weight, distill_weight and debias must not be negative.")

    def temperature(source):
        logits, weight = source["zero_shot"], source.get("weight")
        if calibration == "likelihood":
            return fit_temperature(logits, source["label"], weight)
        if calibration == "confidence":
            return confident_temperature(logits, confidence, weight)
        return jnp.float32(1.0)

    def loss(params, batch, rng, progress):
        batch = weigh(batch)
        source = check_domain(batch, "source", "inputs", "label", "zero_shot")
        target = check_domain(batch, "target", "inputs", "zero_shot")
        keys = (None, None) if rng is None else jax.random.split(rng)
        logits = model.classify(params, model.features(params, source["inputs"], keys[0]))
        value, metrics = class_loss(logits, source, label_smoothing)
        heat = temperature(source)
        weight = target.get("weight")
        taught = jax.nn.softmax(debiased(target["zero_shot"] / heat, debias, weight))
        logits = model.classify(params, model.features(params, target["inputs"], keys[1]))
        check_teacher(target["zero_shot"], logits)
        away = soft_cross_entropy(logits, taught, weight)
        metrics |= {"distill_loss": away, "temperature": heat}
        return source_weight * value + distill_weight * away, metrics

    return loss


def make_method(backbone: Backbone, classes: Classes, *, head: Head, **options: Any) -> Method:
    """Distillation on a backbone; `options` are those of `make_loss`."""
    loss = make_loss(on_backbone(backbone, head), **options)
    reads = ("source", "target", "zero_shot")
    return with_head(backbone, head, loss, reads=reads, per_example=False)
