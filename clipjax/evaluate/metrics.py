"""Accuracy that counts every example exactly once."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def accuracy(logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Share of examples whose largest logit is the label, float32 [].

    Args:
      logits: float [..., N, K].
      labels: int [N].
      mask: bool [N], False on padding, which then does not count. All padding gives 0.

    >>> import jax.numpy as jnp
    >>> float(accuracy(jnp.eye(3), jnp.array([0, 1, 1]), jnp.array([True, True, False])))
    1.0
    """
    correct = jnp.argmax(logits, axis=-1) == labels
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    hits = jnp.sum(correct & mask, axis=-1).astype(jnp.float32)
    return hits / jnp.maximum(jnp.sum(mask), 1)


def per_class_accuracy(logits: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Accuracy of each class, float32 [K]; NaN for a class without examples."""
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    hits = jnp.zeros(num_classes).at[labels].add(correct)
    return hits / jnp.zeros(num_classes).at[labels].add(1.0)


def domain_gap(source_accuracy: float, target_accuracy: float) -> float:
    """Source minus target accuracy in percentage points (the report's Table 6).

    >>> round(domain_gap(0.84, 0.58), 1)
    26.0
    """
    return 100.0 * (source_accuracy - target_accuracy)
