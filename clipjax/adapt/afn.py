"""Adaptive feature norm, stepwise (Xu et al. 2019, arXiv 1811.07456): larger norms transfer better.

SAFN: the mean over each domain of (|f| - (|f|_before + r))^2 with |f|_before the same norm without
a gradient (equation 6), so that every step enlarges every feature by a step of r. r = 1 and a
weight of 0.05 are the authors'.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import weighted_mean
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method
from clipjax.adapt.pair import Domain, clean, paired_method, with_term
from clipjax.adapt.step import Loss


def norms(x: jax.Array) -> jax.Array:
    """Lengths [N] of the rows of x [N, F]; at 0 the gradient is 0."""
    squares = jnp.sum(x.astype(jnp.float32) ** 2, axis=-1)
    there = squares > 0
    return jnp.where(there, jnp.sqrt(jnp.where(there, squares, 1.0)), 0.0)


def stepwise_norm(
    features: jax.Array, weight: jax.Array | None = None, delta: float = 1.0
) -> jax.Array:
    """Mean of (|f| - (|f| without gradient + delta))^2 over features [N, F].

    Its value is always delta^2; its gradient is what counts. `weight` float [N] is 0 on padding.

    >>> import jax, jax.numpy as jnp
    >>> jax.grad(stepwise_norm)(jnp.array([[0.0, 2.0]])).tolist()
    [[-0.0, -2.0]]
    """
    weight = jnp.ones(len(features), jnp.float32) if weight is None else weight
    found = norms(clean(features, weight))
    return weighted_mean((found - (jax.lax.stop_gradient(found) + delta)) ** 2, weight)


def make_loss(
    model: DannModel,
    *,
    weight: float = 0.05,
    delta: float = 1.0,
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """The class loss plus `weight` times the sum of `stepwise_norm` over both domains.

    ValueError: a negative weight.
    """

    def term(source: Domain, target: Domain):
        return sum(stepwise_norm(d.features, d.weight, delta) for d in (source, target))

    def described(source: Domain, target: Domain):
        mean = lambda d: weighted_mean(norms(clean(d.features, d.weight)), d.weight)
        return {"norm_source": mean(source), "norm_target": mean(target)}

    options = {"weight": weight, "label_smoothing": label_smoothing, "joined": joined}
    return with_term(model, "norm_loss", term, described=described, **options)


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, joined: bool | None = None, **options: Any
) -> Method:
    """Stepwise adaptive feature norm on a backbone; `options` are those of `make_loss`."""
    more = {"joined": joined, "per_example": True, "on_features": True}
    return paired_method(backbone, head, make_loss, **more, **options)
