"""FixMatch: confident answers to images as they are label the same images, strongly altered.

Sohn et al. 2020 (arXiv 2001.07685, equations 3 and 4), between domains:

    L = CE(p, source) + w mean 1[max q >= t] CE(p of the strong view, argmax q)

q answers the weak view: the zero-shot logits of the image as it came, the head's own answer to it,
or the mean of both. The strong view is what the phase's `augment` makes (RandAugment and cutout
with `augment = {"ops": 2, "magnitude": 10, "cutout": 0.5}`), with the head's dropout. Where
embeddings are cached there are no pixels to alter: the strong view is then dropout and Gaussian
`noise` on the embedding, in units of its length.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.anchors import check_teacher, log_probabilities
from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import class_loss, weigh, weighted_mean
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method, on_backbone, with_head
from clipjax.adapt.step import Loss

TEACHERS = ("both", "head", "zero_shot")


def pseudo_label_loss(
    strong: jax.Array, answers: jax.Array, threshold: float, weight: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """(loss, share labelled): equation 4 of logits [N, K] and probabilities `answers` [N, K].

    No gradient reaches the answers; those below the threshold count as 0 in the mean.
    """
    answers = jax.lax.stop_gradient(answers)
    if weight is not None:
        answers = jnp.where(weight[:, None] != 0, answers, 0)
    sure = (jnp.max(answers, axis=-1) >= threshold).astype(jnp.float32)
    label = jnp.argmax(answers, axis=-1)
    logp = log_probabilities(strong, weight)
    picked = jnp.take_along_axis(logp, label[:, None], axis=-1)[:, 0]
    return weighted_mean(-sure * picked, weight), weighted_mean(sure, weight)


def make_loss(
    model: DannModel,
    *,
    threshold: float = 0.95,
    pseudo_weight: float = 1.0,
    teacher: str = "both",
    label_smoothing: float = 0.1,
) -> Loss:
    """The loss on {"source": {"inputs", "label"}, "target": {"inputs", "zero_shot"}}, "mask"s too.

    `model.features` gives the weak view without an rng, and the strong one with it. `threshold` is
    of probabilities; `teacher` is "zero_shot", "head" or "both".

    ValueError: an unknown teacher, a threshold outside [0, 1], or a negative weight.
    """
    if teacher not in TEACHERS:
        raise ValueError(f"unknown teacher {teacher!r}; known: {', '.join(TEACHERS)}.")
    if not 0 <= threshold <= 1 or pseudo_weight < 0:
        found = f"threshold={threshold}, pseudo_weight={pseudo_weight}"
        raise ValueError(f"{found}; give a threshold from 0 to 1, and a weight of at least 0.")

    def answers(params, target):
        found = []
        if teacher != "head":
            found.append(target["zero_shot"])
        if teacher != "zero_shot":
            found.append(model.classify(params, model.features(params, target["inputs"], None)))
        probabilities = [jnp.exp(log_probabilities(each)) for each in found]
        return sum(probabilities) / len(probabilities)

    def loss(params, batch, rng, progress):
        batch = weigh(batch)
        source = check_domain(batch, "source", "inputs", "label")
        target = check_domain(batch, "target", "inputs", "zero_shot")
        logits = model.classify(params, model.features(params, source["inputs"], None))
        value, metrics = class_loss(logits, source, label_smoothing)
        check_teacher(target["zero_shot"], logits)
        taught = answers(jax.lax.stop_gradient(params), target)
        strong = model.classify(params, model.features(params, target["inputs"], rng))
        found, share = pseudo_label_loss(strong, taught, threshold, target.get("weight"))
        metrics |= {"pseudo_loss": found, "pseudo_labelled": share}
        return value + pseudo_weight * found, metrics

    return loss


def noisy(model: DannModel, noise: float) -> DannModel:
    """A model over embeddings [N, P] that adds noise of the given length if there is an rng."""

    def features(params, inputs, rng=None):
        if rng is None or not noise:
            return model.features(params, inputs, rng)
        one, two = jax.random.split(rng)
        added = jax.random.normal(one, inputs.shape) * noise / inputs.shape[-1] ** 0.5
        moved = inputs + added
        length = jnp.linalg.norm(moved, axis=-1, keepdims=True)
        return model.features(params, moved / jnp.maximum(length, 1e-12), two)

    return model._replace(features=features)


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, noise: float = 0.3, **options: Any
) -> Method:
    """FixMatch on a backbone; `noise` where embeddings are cached; `options`: `make_loss`'s.

    ValueError: negative noise, and as `make_loss`.
    """
    if noise < 0:
        raise ValueError(f"noise is {noise}; it must not be negative.")
    model = on_backbone(backbone, head)
    loss = make_loss(noisy(model, noise) if "image" in backbone.cached else model, **options)
    return with_head(backbone, head, loss, reads=("source", "target", "zero_shot"))
