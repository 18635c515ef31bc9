"""Batch nuclear-norm maximisation (Cui et al. 2020, arXiv 2003.12237): sure and varied answers.

The loss is -|P|_* / n, with P the class probabilities of n target images (equation 12) and |P|_*
the sum of its singular values: it bounds both the Frobenius norm, large where answers are sure, and
the rank, large where they differ. A weight of 1 is the authors'.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method
from clipjax.adapt.pair import Domain, clean, paired_method, with_term
from clipjax.adapt.step import Loss


@jax.custom_vjp
def nuclear_norm(matrix: jax.Array) -> jax.Array:
    """The sum of the singular values of a matrix [N, K].

    Its gradient is U V', finite also where singular values are equal, where that of a singular
    value decomposition is not; where some are 0 it is the smallest subgradient.

    >>> import jax, jax.numpy as jnp
    >>> float(nuclear_norm(jnp.diag(jnp.array([3.0, 4.0]))))
    7.0
    >>> jax.grad(nuclear_norm)(jnp.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return jnp.sum(jnp.linalg.svd(matrix, compute_uv=False))


def _forward(matrix):
    u, values, v = jnp.linalg.svd(matrix, full_matrices=False)
    there = values > 1e-6 * jnp.maximum(values[..., :1], 1e-30)
    return jnp.sum(values), (u * there) @ v


nuclear_norm.defvjp(_forward, lambda direction, g: (g * direction,))


def make_loss(
    model: DannModel,
    *,
    weight: float = 1.0,
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """The class loss minus `weight` times the nuclear norm of the target's answers, per image.

    ValueError: a negative weight.
    """

    def term(source: Domain, target: Domain):
        return batch_nuclear_norm(target.shares, target.weight)

    options = {"weight": weight, "label_smoothing": label_smoothing, "joined": joined}
    return with_term(model, "nuclear_loss", term, **options)


def batch_nuclear_norm(shares: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """-|P|_* / n of probabilities [N, K]; rows whose weight [N] is 0 do not count.

    >>> import jax.numpy as jnp
    >>> float(batch_nuclear_norm(jnp.eye(3)))
    -1.0
    """
    weight = jnp.ones(len(shares), jnp.float32) if weight is None else weight
    return -nuclear_norm(clean(shares, weight)) / jnp.maximum(jnp.sum(weight != 0), 1)


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, joined: bool | None = None, **options: Any
) -> Method:
    """Batch nuclear-norm maximisation on a backbone; `options` are those of `make_loss`."""
    return paired_method(backbone, head, make_loss, joined=joined, **options)
