"""SHOT-IM from the zero-shot classifier: certain and diverse answers on the target, near CLIP's.

Liang et al. 2020 (arXiv 2002.08546, equations 2 to 5 and 7), with the text classifier in place of
a source model, and a pull to its answers q:

    L = mean H(p) - H(mean p) + b KL(q || p) + w CE(p, pseudo-labels) + s CE(p, source)

Pseudo-labels are those of weighted centroids. With s = 0 no source image counts (source-free): a
study reads the source nevertheless. Use heads = {}: a linear head that starts at the texts.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.anchors import (
    check_teacher,
    divergence,
    entropy_of_mean,
    log_probabilities,
    mean_entropy,
)
from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import class_loss, smoothed_cross_entropy, weigh, weighted_mean
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone, with_head
from clipjax.adapt.step import Loss


def centroid_labels(
    features: jax.Array, logits: jax.Array, weight: jax.Array | None = None, rounds: int = 1
) -> jax.Array:
    """Labels int32 [N] of the nearest centroid by cosine, without gradient.

    Equations 4 and 5: centroids of features float [N, F], to which a 1 is appended and which are
    scaled to length 1, weighted by the answers; then `rounds` times of the labels so found. Classes
    that nobody is labelled with have no centroid. The paper's are of the whole target, these of a
    batch, which should be large.
    """
    features, logits = jax.lax.stop_gradient((features, logits))
    real = jnp.ones(len(features), bool) if weight is None else weight != 0
    features = jnp.where(real[:, None], features, 0).astype(jnp.float32)
    features = jnp.concatenate([features, jnp.ones((len(features), 1))], axis=1)
    features = features / jnp.linalg.norm(features, axis=1, keepdims=True)
    classes = jnp.shape(logits)[-1]
    labels = jnp.argmax(log_probabilities(logits, weight), axis=-1)
    share = jnp.exp(log_probabilities(logits, weight)) * real[:, None]
    for _ in range(rounds + 1):
        members = jax.nn.one_hot(labels, classes) * real[:, None]
        centroids = share.T @ features
        length = jnp.linalg.norm(centroids, axis=1, keepdims=True)
        near = features @ (centroids / jnp.maximum(length, 1e-12)).T
        labels = jnp.argmax(jnp.where(members.sum(axis=0) > 0, near, -jnp.inf), axis=-1)
        share = jax.nn.one_hot(labels, classes) * real[:, None]
    return labels


def make_loss(
    model: DannModel,
    *,
    anchor: float = 1.0,
    source_weight: float = 1.0,
    entropy_weight: float = 1.0,
    spread_weight: float = 1.0,
    pseudo_weight: float = 0.0,
    label_smoothing: float = 0.1,
) -> Loss:
    """The loss on {"source": {"inputs", "label"}, "target": {"inputs", "zero_shot"}}, "mask"s too.

    `anchor`, `pseudo_weight` (published: 0.3) and `source_weight` are b, w and s above.

    ValueError: a negative weight.
    """
    weights = (anchor, source_weight, entropy_weight, spread_weight, pseudo_weight)
    if min(weights) < 0:
        raise ValueError(f"the weights are {weights}; none may be negative.")

    def loss(params, batch, rng, progress):
        batch = weigh(batch)
        source = check_domain(batch, "source", "inputs", "label")
        target = check_domain(batch, "target", "inputs", "zero_shot")
        keys = (None, None) if rng is None else jax.random.split(rng)
        value, metrics = 0.0, {}
        if source_weight:
            features = model.features(params, source["inputs"], keys[0])
            found, metrics = class_loss(model.classify(params, features), source, label_smoothing)
            value = source_weight * found
        features, weight = model.features(params, target["inputs"], keys[1]), target.get("weight")
        logits = model.classify(params, features)
        check_teacher(target["zero_shot"], logits)
        certain, spread = mean_entropy(logits, weight), entropy_of_mean(logits, weight)
        away = weighted_mean(divergence(target["zero_shot"], logits, weight), weight)
        value = value + entropy_weight * certain - spread_weight * spread + anchor * away
        metrics |= {"entropy": certain, "diversity": spread, "kl_to_zero_shot": away}
        if pseudo_weight:
            labels = centroid_labels(features, logits, weight)
            metrics["pseudo_loss"] = smoothed_cross_entropy(logits, labels, weight=weight)
            value = value + pseudo_weight * metrics["pseudo_loss"]
        return value, metrics

    return loss


def make_method(backbone: Backbone, classes: Classes, *, head: Head, **options: Any) -> Method:
    """SHOT-IM on a backbone; `options` are those of `make_loss`."""
    loss = make_loss(on_backbone(backbone, head), **options)
    reads = ("source", "target", "zero_shot")
    return with_head(backbone, head, loss, reads=reads, per_example=False)
