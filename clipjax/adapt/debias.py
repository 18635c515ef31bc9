"""Zero-shot logits less the classes that they prefer (Wang et al. 2022, arXiv 2201.01490).

DebiasPL, equation 4: z - tau log p, where p is the mean zero-shot probability of unlabelled target
images. With the whole target at once there is no running mean.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.linear import (
    checked,
    mean_probability,
    predict_linear,
    with_bias,
    zero_shot_head,
)
from clipjax.adapt.method import Backbone, Classes, ClosedForm

PyTree = Any


def debias(logits: jax.Array, prior: jax.Array, tau: float = 0.5) -> jax.Array:
    """`logits - tau * log prior` of logits [..., K] and a prior [K].

    ValueError: a prior whose values are known is no distribution over the K classes.

    >>> import jax.numpy as jnp
    >>> round(float(debias(jnp.zeros(2), jnp.array([0.5, 0.5]), 1.0)[0]), 3)
    0.693
    """
    check_prior(prior, logits.shape[-1])
    return logits - tau * jnp.log(jnp.maximum(prior, 1e-20))


def check_prior(prior: jax.Array, classes: int) -> None:
    """Raise ValueError for a prior that is no distribution over the classes."""
    if jnp.shape(prior) != (classes,):
        raise ValueError(
            f"a prior of shape {jnp.shape(prior)} for {classes} classes; give one each."
        )
    if isinstance(prior, jax.core.Tracer):
        return
    values = np.asarray(prior, np.float64)
    if not (values >= 0).all() or abs(values.sum() - 1) > 1e-3:
        low, total = values.min(), values.sum()
        raise ValueError(
            f"a prior is no distribution: its least value is {low:.3g} and its sum {total:.3g}; "
            "divide counts by their sum."
        )


def debiased(head: PyTree, target: jax.Array, tau: float) -> PyTree:
    """A linear head less `tau` times the log of its mean prediction on target features [N, P]."""
    return with_bias(head, -tau * jnp.log(mean_probability(head, target)))


def check_tau(tau: float) -> None:
    """Raise ValueError for a negative strength."""
    if tau < 0:
        raise ValueError(f"tau is {tau}; it must not be negative.")


def make_method(
    backbone: Backbone, classes: Classes, *, tau: float = 0.5, others: tuple[float, ...] = (1.0,)
) -> ClosedForm:
    """Zero-shot debiased by the target's mean prediction: a variant for `tau` and for each of
    `others`.

    A target of a single class is the case to avoid: its mean prediction is that class, and
    debiasing takes it away.

    ValueError: a negative strength; in the fit, no target images.
    """
    for strength in (tau, *others):
        check_tau(strength)

    @jax.jit
    def solve(target, weights, scale):
        head = zero_shot_head(classes._replace(weights=weights, scale=scale))
        return [debiased(head, target, strength) for strength in (tau, *others)]

    def fit(data, texts):
        target = checked(data, len(texts.names), "target")["target"]["inputs"]
        heads = solve(target, jnp.asarray(texts.weights), texts.scale)
        return {f"tau_{t:g}": head for t, head in zip((tau, *others), heads, strict=True)}

    return ClosedForm(fit, predict_linear(classes), reads=("source", "target"))
