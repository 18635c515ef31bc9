"""Criteria for picking a checkpoint or a setting without target labels.

All take logits on unlabelled target examples. Higher is better for each, so that `max` selects.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def negative_entropy(logits: jax.Array) -> jax.Array:
    """Minus the mean prediction entropy, in nats, [N, K] -> [] (Morerio et al. 2018).

    >>> import jax.numpy as jnp
    >>> round(float(negative_entropy(jnp.zeros((3, 2)))), 4)
    -0.6931
    """
    logp = jax.nn.log_softmax(logits, axis=-1)
    return jnp.mean(jnp.sum(jnp.exp(logp) * logp, axis=-1))


def information_maximization(logits: jax.Array) -> jax.Array:
    """Mutual information of input and prediction, in nats, [N, K] -> [].

    Entropy of the mean prediction minus mean entropy: confident and diverse predictions score high
    (Musgrave et al. 2022, arXiv 2208.07360, "IM"), one class for everything scores zero.

    >>> import jax.numpy as jnp
    >>> round(float(information_maximization(100 * jnp.eye(4))), 4)
    1.3863
    """
    mean = jnp.mean(jax.nn.softmax(logits, axis=-1), axis=0)
    spread = -jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-12)))
    return spread + negative_entropy(logits)
