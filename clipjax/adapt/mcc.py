"""Minimum class confusion (Jin et al. 2020, arXiv 1912.03699): no domain loss, sure answers.

Y = softmax(target logits / T), weights W_i = 1 + exp(-H(Y_i)) of mean 1 (equation 4), confusion C =
Y' W Y (equation 5), its rows normalised (equation 7); the loss is the mean over classes of what is
off the diagonal (equation 8). T = 2.5 and a weight of 1 are the paper's; W has no gradient, as in
the authors' code.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method
from clipjax.adapt.pair import (
    Domain,
    certainty,
    clean,
    mean_members,
    paired_method,
    with_term,
)
from clipjax.adapt.step import Loss


def class_confusion(
    logits: jax.Array, weight: jax.Array | None = None, temperature: float = 2.5
) -> jax.Array:
    """The mean share of a class that goes to others, of target logits [N, K] or [M, N, K].

    `weight` float [N] is 0 on padding.

    >>> import jax.numpy as jnp
    >>> round(float(class_confusion(jnp.zeros((3, 4)))), 6), float(class_confusion(99 * jnp.eye(3)))
    (0.75, 0.0)
    """
    weight = jnp.ones(logits.shape[-2], jnp.float32) if weight is None else weight
    logits = jnp.where(weight[:, None] != 0, logits, 0).astype(jnp.float32)
    shares = clean(mean_members(jax.nn.softmax(logits / temperature, axis=-1)), weight)
    rows = certainty(shares, weight) * weight
    confusion = (rows[:, None] * shares).T @ shares
    confusion = confusion / jnp.maximum(confusion.sum(axis=1, keepdims=True), 1e-12)
    return (jnp.sum(confusion) - jnp.trace(confusion)) / len(confusion)


def make_loss(
    model: DannModel,
    *,
    weight: float = 1.0,
    temperature: float = 2.5,
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """The class loss plus `weight` times `class_confusion` of the target.

    ValueError: a negative weight, or a temperature that is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0.")

    def term(source: Domain, target: Domain):
        return class_confusion(target.logits, target.weight, temperature)

    options = {"weight": weight, "label_smoothing": label_smoothing, "joined": joined}
    return with_term(model, "confusion_loss", term, **options)


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, joined: bool | None = None, **options: Any
) -> Method:
    """Minimum class confusion on a backbone; `options` are those of `make_loss`."""
    return paired_method(backbone, head, make_loss, joined=joined, **options)
