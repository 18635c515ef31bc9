"""CMKD: cross-modal knowledge distillation under a class-balanced Gini impurity.

Zhou & Zhou 2024, "Unsupervised Domain Adaption Harnessing Vision-Language Pre-training" (IEEE
TCSVT, arXiv 2408.02192). A task head p learns from labelled source images, and on the target from
itself and from CLIP's text head q, each as far as KL(q || p) allows:

    L = CE(p, source) + l1 r [GI(p; c) + GI((p + q) / 2; 1 - c)] + l2 CE(q, source) + l3 r GI(q)
    c = exp(-KL(q || p)) of each image,  GI(p; c) = sum_i c_i (1 - sum_k p_ik^2 / sum_j p_jk)

with no gradient through c, through q in the mixture or through the sums over j, and the ramp
r = 2 / (1 + exp(-10 t)) - 1 of progress t. Where embeddings are cached q is the cached zero-shot
answer, and the terms of q alone, which have no parameters there, are left out. Use heads = {}: a
linear head that starts at the texts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.anchors import check_teacher, divergence, log_probabilities
from clipjax.adapt.checks import check_domain
from clipjax.adapt.grl import lambda_schedule
from clipjax.adapt.losses import class_loss, smoothed_cross_entropy, weigh, weighted_mean
from clipjax.adapt.method import Backbone, Classes, Head, Method, with_head
from clipjax.adapt.step import Loss

PyTree = Any
# (params, inputs, rng) -> (task logits, text logits), both [B, K].
TwoHeads = Callable[[PyTree, jax.Array, jax.Array | None], tuple[jax.Array, jax.Array]]


def gini(
    probabilities: jax.Array,
    coefficient: jax.Array | float = 1.0,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Class-balanced Gini impurity, a sum over the batch as published; float32 [].

    It compares the examples of a batch, and wants more of them than there are classes.

    Args:
      probabilities: float [N, K].
      coefficient: of each example, float [N].
      weight: float [N] of `weigh`; where it is 0 the example does not count.

    >>> import jax.numpy as jnp
    >>> float(gini(jnp.eye(3))), round(float(gini(jnp.full((3, 3), 1 / 3))), 4)
    (0.0, 2.0)
    """
    real = jnp.ones(len(probabilities), bool) if weight is None else weight != 0
    p = jnp.where(real[:, None], probabilities, 0)
    size = jax.lax.stop_gradient(jnp.maximum(jnp.sum(p, axis=0), 1e-12))
    impurity = coefficient * (1 - jnp.sum(p * (p / size), axis=-1))
    return jnp.sum(jnp.where(real, impurity, 0))


def gini_terms(
    logits: jax.Array, text_logits: jax.Array, weight: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """(GI(p; c), GI((p + q) / 2; 1 - c)) of task logits (p) and text logits (q) [N, K]."""
    p = jnp.exp(log_probabilities(logits, weight))
    q = jax.lax.stop_gradient(jnp.exp(log_probabilities(text_logits, weight)))
    agreed = jax.lax.stop_gradient(jnp.exp(-divergence(text_logits, logits, weight)))
    return gini(p, agreed, weight), gini((p + q) / 2, 1 - agreed, weight)


def make_loss(
    two_heads: TwoHeads,
    *,
    gini_weight: float = 0.25,
    text_weight: float = 0.1,
    text_gini_weight: float = 0.025,
    source_weight: float = 1.0,
    anchor: float = 0.0,
    label_smoothing: float = 0.1,
    encoder_free: bool = True,
) -> Loss:
    """The loss on {"source": {"inputs", "label"}, "target": {"inputs", "zero_shot"}}, "mask"s too.

    `gini_weight`, `text_weight`, `text_gini_weight` are l1, l2, l3 (published: .25, .1, .025; a
    tenth of l1 and l3 on DomainNet's 345 classes). Beyond the paper:
    `source_weight` on the first term, and `anchor` times the mean KL(zero-shot || p) on the target.
    `encoder_free` is whether q is of the encoder as it trains, and not "zero_shot".

    ValueError: a negative weight.
    """
    weights = (gini_weight, text_weight, text_gini_weight, source_weight, anchor)
    if min(weights) < 0:
        raise ValueError(f"the weights are {weights}; none may be negative.")
    ramp = lambda_schedule("ganin", gamma=10.0)

    def loss(params, batch, rng, progress):
        batch = weigh(batch)
        source = check_domain(batch, "source", "inputs", "label")
        target = check_domain(batch, "target", "inputs", "zero_shot")
        keys = (None, None) if rng is None else jax.random.split(rng)
        logits, by_text = two_heads(params, source["inputs"], keys[0])
        value, metrics = class_loss(logits, source, label_smoothing)
        value = source_weight * value
        seen, texts = two_heads(params, target["inputs"], keys[1])
        weight, r = target.get("weight"), ramp(progress)
        texts = texts if encoder_free else target["zero_shot"]
        check_teacher(target["zero_shot"], seen)
        own, mixed = gini_terms(seen, texts, weight)
        value = value + gini_weight * r * (own + mixed)
        metrics |= {"task_gini": own, "mixed_gini": mixed, "ramp": r}
        if anchor:
            away = weighted_mean(divergence(target["zero_shot"], seen, weight), weight)
            metrics["kl_to_zero_shot"] = away
            value = value + anchor * away
        if encoder_free:
            named = smoothed_cross_entropy(by_text, source["label"], weight=source.get("weight"))
            of_texts = gini(jnp.exp(log_probabilities(texts, weight)), weight=weight)
            value = value + text_weight * named + text_gini_weight * r * of_texts
            metrics |= {"text_loss": named, "text_gini": of_texts}
        return value, metrics

    return loss


def with_texts(backbone: Backbone, classes: Classes, head: Head) -> TwoHeads:
    """The head's logits and those of the zero-shot class weights, of the same embeddings."""

    def two_heads(params, inputs, rng=None):
        crop, drop = (None, None) if rng is None else jax.random.split(rng)
        seen = backbone.encode["image"](params, inputs, crop)
        logits = head.model.classify(params, head.model.features(params, seen, drop))
        return logits, classes.scale * seen @ jnp.asarray(classes.weights).T

    return two_heads


def make_method(backbone: Backbone, classes: Classes, *, head: Head, **options: Any) -> Method:
    """CMKD on a backbone; `options` are those of `make_loss` but `encoder_free`."""
    free = "image" not in backbone.cached
    loss = make_loss(with_texts(backbone, classes, head), **{"encoder_free": free} | options)
    reads = ("source", "target", "zero_shot")
    return with_head(backbone, head, loss, reads=reads, per_example=False)
