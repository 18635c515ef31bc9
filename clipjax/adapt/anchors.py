"""Loss terms of methods that stay near the zero-shot answer: entropies, divergences, temperatures.

All are in nats and take logits [N, K] and the weights [N] of `clipjax.adapt.losses.weigh`: what
padding holds reaches neither values nor gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import weighted_mean
from clipjax.adapt.varying import alike

_TINY = 1e-12
WIDEST = 32.0  # temperatures are fitted between 1 / WIDEST and WIDEST


def log_probabilities(logits: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Log-softmax in float32, [N, K]; uniform where the weight is 0.

    ValueError: logits that are not [N, K], as an ensemble's.
    """
    if jnp.ndim(logits) != 2:
        shape = jnp.shape(logits)
        raise ValueError(f"logits of shape {shape} are not [N, K]; set heads.members to 1.")
    if weight is not None:
        logits = jnp.where(weight[:, None] != 0, logits, 0)
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def check_teacher(teacher: jax.Array, logits: jax.Array) -> None:
    """Raise ValueError for a teacher's logits [N, K] of another number of classes than others'."""
    theirs, own = jnp.shape(teacher)[-1], jnp.shape(logits)[-1]
    if theirs != own:
        raise ValueError(
            f"zero-shot logits of {theirs} classes teach a head of {own}; take them from texts of "
            "the head's own classes, in its order."
        )


def soft_cross_entropy(
    logits: jax.Array, targets: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
    """Mean cross-entropy to probabilities `targets` [N, K].

    >>> import jax.numpy as jnp
    >>> round(float(soft_cross_entropy(jnp.zeros((1, 4)), jnp.full((1, 4), 0.25))), 4)
    1.3863
    """
    logp = log_probabilities(logits, weight)
    if weight is not None:
        targets = jnp.where(weight[:, None] != 0, targets, 0)
    return weighted_mean(-jnp.sum(targets * logp, axis=-1), weight)


def divergence(teacher: jax.Array, logits: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """KL(q || p) of each example, [N], of a teacher's logits (q) and others (p)."""
    logq, logp = log_probabilities(teacher, weight), log_probabilities(logits, weight)
    return jnp.sum(jnp.exp(logq) * (logq - logp), axis=-1)


def mean_entropy(logits: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Mean entropy of single answers: low where they are certain."""
    logp = log_probabilities(logits, weight)
    return weighted_mean(-jnp.sum(jnp.exp(logp) * logp, axis=-1), weight)


def entropy_of_mean(logits: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Entropy of the mean answer of a batch: high where all classes are named alike often."""
    p = jnp.exp(log_probabilities(logits, weight))
    mean = jnp.mean(p if weight is None else p * weight[:, None], axis=0)
    return -jnp.sum(mean * jnp.log(jnp.maximum(mean, _TINY)))  # at 0 the bare log has no gradient


def fit_temperature(
    logits: jax.Array, labels: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
    """The T that minimises the cross-entropy of softmax(logits / T), float32 []; no gradient.

    Guo et al. 2017 (arXiv 1706.04599), section 4.2. Labels of rows whose weight is 0 may be
    anything. The loss is convex in 1 / T, so the sign of its derivative is bisected.
    """
    real = jnp.ones(len(logits)) if weight is None else weight
    logits = jnp.where(real[:, None] != 0, logits, 0).astype(jnp.float32)
    labels = jnp.where(real != 0, labels, 0)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]

    def slope(inverse):  # of the loss by 1 / T: mean logit of the answer less the label's
        answered = jnp.sum(jax.nn.softmax(inverse * logits, axis=-1) * logits, axis=-1)
        return weighted_mean(answered - own, real)

    return _bisected(slope, logits)


def confident_temperature(
    logits: jax.Array, share: float, weight: jax.Array | None = None
) -> jax.Array:
    """The T at which the largest probability is `share` in the mean, float32 []; no gradient.

    As published for distilling CLIP under domain shift (Deng & Jia 2023, arXiv 2305.11092), where
    `share` is 0.9. No labels are needed.
    """
    real = jnp.ones(len(logits)) if weight is None else weight
    logits = jnp.where(real[:, None] != 0, logits, 0).astype(jnp.float32)

    def excess(inverse):
        largest = jnp.max(jax.nn.softmax(inverse * logits, axis=-1), axis=-1)
        return weighted_mean(largest, real) - share

    return _bisected(excess, logits)


def _bisected(rising: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
    """1 / x where a rising function of x is 0; an end where there is no such x."""
    span = jnp.log(jnp.float32(WIDEST))
    _, low, high = alike(like, -span, span)  # the loop's state must vary as what it computes

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = rising(jnp.exp(middle)) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, 24, halve, (low, high))
    return jax.lax.stop_gradient(jnp.exp(-(low + high) / 2))
