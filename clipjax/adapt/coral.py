"""Deep CORAL: second moments of source and target are drawn together.

Sun & Saenko 2016 (arXiv 1607.01719, equation 1): |C_s - C_t|^2 / (4 d^2), with covariances C over a
batch (divided by n - 1, equations 2 and 3) and the Frobenius norm. The paper compares the logits
(AlexNet's fc8), later code the features in front of them.

A batch may be cut over devices (`parallel="jit"`, where XLA sums over all of it), not into
microbatches or the shares of `pmap`: the loss is the square of a difference of means, so the mean
of the parts' losses is another one (larger by the parts' own scatter).
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method
from clipjax.adapt.pair import Domain, clean, mean_members, paired_method, with_term
from clipjax.adapt.step import Loss


def batch_moments(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean [F] and unbiased covariance [F, F] of the rows of x [N, F] whose weight is not 0."""
    x, total = clean(x.astype(jnp.float32), weight), jnp.sum(weight)
    share = weight / jnp.where(total > 0, total, 1.0)
    count = jnp.sum(weight != 0)
    mean = share @ x
    away = clean(x - mean, weight)
    return mean, (share[:, None] * away).T @ away * (count / jnp.maximum(count - 1, 1))


def coral_loss(
    source: jax.Array,
    target: jax.Array,
    weights: tuple[jax.Array, jax.Array] | None = None,
    *,
    means: bool = False,
) -> jax.Array:
    """|C_s - C_t|^2 / (4 d^2) of features [N, d] and [M, d].

    Args:
      weights: float [N] and [M], 0 on padding.
      means: DomainBed's form (Gulrajani & Lopez-Paz 2021, arXiv 2007.01434): |m_s - m_t|^2 / d +
        |C_s - C_t|^2 / d^2.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> float(coral_loss(x, 2 * x)), float(coral_loss(x, x + 1, means=True))
    (2.25, 1.0)
    """
    ones = lambda x: jnp.ones(len(x), jnp.float32)
    weights = (ones(source), ones(target)) if weights is None else weights
    (m_s, c_s), (m_t, c_t) = map(batch_moments, (source, target), weights)
    apart = jnp.mean((c_s - c_t) ** 2)
    return jnp.mean((m_s - m_t) ** 2) + apart if means else apart / 4


def make_loss(
    model: DannModel,
    *,
    weight: float = 1.0,
    means: bool = False,
    on: str = "features",
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """The class loss plus `weight` times `coral_loss` of the adapted features, or of the logits.

    ValueError: a negative weight, or `on` is neither "features" nor "logits".
    """
    if on not in ("features", "logits"):
        raise ValueError(f"on is {on!r}; give 'features' or 'logits'.")
    of = lambda domain: domain.features if on == "features" else mean_members(domain.logits)

    def term(source: Domain, target: Domain):
        weights = (source.weight, target.weight)
        return coral_loss(of(source), of(target), weights, means=means)

    options = {"weight": weight, "label_smoothing": label_smoothing, "joined": joined}
    return with_term(model, "coral_loss", term, **options)


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, joined: bool | None = None, **options: Any
) -> Method:
    """Deep CORAL on a backbone; `options` are those of `make_loss`."""
    more = {"joined": joined, "on_features": options.get("on") != "logits"}
    return paired_method(backbone, head, make_loss, **more, **options)
