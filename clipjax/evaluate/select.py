"""Criteria for picking a checkpoint or a setting without target labels.

Those on logits of unlabelled target examples are higher where the model is better, so that `max`
selects; `proxy_a_distance` tells how far apart two domains' features are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def _entropy(logp: jax.Array) -> jax.Array:
    """Entropy of distributions given as log-probabilities, [..., K] -> [...]; 0 log 0 is 0."""
    some = jnp.isfinite(logp)
    logp = jnp.where(some, logp, 0.0)
    return -jnp.sum(jnp.where(some, jnp.exp(logp) * logp, 0.0), axis=-1)


def negative_entropy(logits: jax.Array) -> jax.Array:
    """Minus the mean prediction entropy, in nats, [N, K] -> [] (Morerio et al. 2018, arXiv
    1711.10288).

    >>> import jax.numpy as jnp
    >>> round(float(negative_entropy(jnp.zeros((3, 2)))), 4)
    -0.6931
    """
    return -jnp.mean(_entropy(jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)))


def information_maximization(logits: jax.Array) -> jax.Array:
    """Mutual information of input and prediction, in nats, [N, K] -> [].

    Entropy of the mean prediction minus mean entropy: confident and diverse predictions score high
    (Musgrave et al. 2022, arXiv 2208.07360, "IM"), one class for everything scores zero.

    >>> import jax.numpy as jnp
    >>> round(float(information_maximization(100 * jnp.eye(4))), 4)
    1.3863
    """
    mean = jnp.mean(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), axis=0)
    spread = -jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-12)))
    return spread + negative_entropy(logits)


def soft_neighbourhood_density(logits: jax.Array, temperature: float = 0.05) -> jax.Array:
    """How dense the neighbourhoods of the predictions are, [N, K] -> [].

    Entropy of each example's softmax over its similarities to all others (Saito et al. 2021, arXiv
    2108.10860, equations 1-3), similarities being those of normalised probability vectors. High
    where examples lie in large tight clusters, as they do when classes are told apart.

    >>> import jax.numpy as jnp
    >>> clusters = 100 * jnp.repeat(jnp.eye(2), 3, axis=0)  # two groups of three
    >>> round(float(soft_neighbourhood_density(clusters)), 4)  # ln 2: two equal neighbours each
    0.6931
    """
    p = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    p = p / jnp.linalg.norm(p, axis=-1, keepdims=True)
    similarity = jnp.where(jnp.eye(len(p), dtype=bool), -jnp.inf, p @ p.T / temperature)
    return jnp.mean(_entropy(jax.nn.log_softmax(similarity, axis=-1)))


def proxy_a_distance(source: np.ndarray, target: np.ndarray, *, seed: int = 0) -> float:
    """How easily a linear classifier tells two domains apart: 0 not at all, 2 always.

    2 (1 - 2 error) of a logistic regression trained on one half and tested on the other (Ben-David
    et al. 2006; Ganin et al. 2016, section 5.1.5). Both domains get equally many examples.

    Args:
      source: float [N, F].
      target: float [M, F].
      seed: of the halves.

    Returns:
      The distance, cut to [0, 2]: a classifier worse than chance tells nothing.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    n = min(len(source), len(target)) // 2 * 2
    if n < 4:
        raise ValueError(f"{n} examples a domain are too few for a proxy A-distance; give 4.")
    one, two = (np.asarray(x)[rng.permutation(len(x))[:n]] for x in (source, target))
    halves = [np.concatenate([one[i::2], two[i::2]]) for i in (0, 1)]
    domain = np.repeat([0, 1], n // 2)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    error = 1.0 - classifier.fit(halves[0], domain).score(halves[1], domain)
    return float(np.clip(2.0 * (1.0 - 2.0 * error), 0.0, 2.0))
