"""Accuracy that counts every example exactly once.

Labels are whole numbers from 0 to K - 1. One that counts and is none is a ValueError, or NaN where
its value is traced.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from clipjax.adapt.checks import check_labels, known_labels


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
    check_labels(logits, labels, mask)
    _, known = known_labels(labels, logits.shape[-1], mask)
    correct = jnp.argmax(logits, axis=-1) == labels
    mask = jnp.ones(labels.shape, bool) if mask is None else mask.astype(bool)
    hits = jnp.sum(correct & mask, axis=-1).astype(jnp.float32)
    return jnp.where(known.all(), hits / jnp.maximum(jnp.sum(mask), 1), jnp.nan)


def macro_accuracy(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Mean of each class's accuracy, float32 []: a rare class counts as much as a frequent one.

    Of the classes that have examples; the others are left out. Also called balanced accuracy.

    Args:
      logits: float [..., N, K].
      labels: int [N].
      mask: bool [N], False on padding, which then does not count. All padding gives 0.

    >>> import jax.numpy as jnp
    >>> float(macro_accuracy(jnp.eye(3)[jnp.array([0, 0, 0, 0])], jnp.array([0, 0, 0, 1])))
    0.5
    """
    check_labels(logits, labels, mask)
    classes, right = logits.shape[-1], jnp.argmax(logits, axis=-1) == labels
    labels, known = known_labels(labels, classes, mask)
    mask = jnp.ones(labels.shape, bool) if mask is None else mask.astype(bool)
    n = jnp.zeros(classes, int).at[labels].add(mask)
    hits = jnp.zeros((*right.shape[:-1], classes), int).at[..., labels].add(right & mask)
    each = hits.astype(jnp.float32) / jnp.maximum(n, 1)  # 0 of a class without examples
    return jnp.where(known.all(), each.sum(axis=-1) / jnp.maximum((n > 0).sum(), 1), jnp.nan)


def per_class_accuracy(logits: ArrayLike, labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Accuracy of each class, float64 [K]; NaN for a class without examples.

    Args:
      logits: float [N, K].
      labels: int [N].
      num_classes: K.

    >>> import numpy as np
    >>> per_class_accuracy(np.eye(3)[[0, 1, 1]], np.array([0, 0, 1]), 3)
    array([0.5, 1. , nan])
    """
    labels = np.asarray(labels)
    check_labels(np.zeros((len(labels), num_classes)), labels)
    hits = labels[np.argmax(logits, axis=-1) == labels]
    right, n = (np.bincount(x, minlength=num_classes) for x in (hits, labels))
    return np.divide(right, n, out=np.full(num_classes, np.nan), where=n > 0)


def calibration_error(logits: jax.Array, labels: jax.Array, bins: int = 15) -> jax.Array:
    """Expected calibration error, float32 [] (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Predictions are put into `bins` equal ranges of confidence; the result is the mean distance of
    confidence and accuracy over bins, weighted by their counts.

    Args:
      logits: float [N, K].
      labels: int [N].
      bins: how many ranges.

    >>> import jax.numpy as jnp
    >>> sure = jnp.array([[100.0, 0.0], [100.0, 0.0]])
    >>> float(calibration_error(sure, jnp.array([0, 1])))  # certain, and wrong half of the time
    0.5
    """
    check_labels(logits, labels)
    _, known = known_labels(labels, logits.shape[-1])
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    confidence = probabilities.max(axis=-1)
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    which = jnp.clip(jnp.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = jnp.zeros(bins).at[which].add(confidence - correct)
    return jnp.where(known.all(), jnp.abs(gaps).sum() / len(labels), jnp.nan)


def disagreement(logits: jax.Array) -> jax.Array:
    """Share of examples on which two members of an ensemble answer differently, [M, N, K] -> [].

    Mean over all pairs of members; 0 for a single one.

    >>> import jax.numpy as jnp
    >>> members = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    >>> round(float(disagreement(members)), 4)
    0.6667
    """
    answers = jnp.argmax(logits, axis=-1)
    members = len(answers)
    differ = (answers[:, None] != answers[None]).mean(axis=-1)
    return differ.sum() / max(1, members * (members - 1))


def domain_gap(source_accuracy: float, target_accuracy: float) -> float:
    """Source minus target accuracy in percentage points (the report's Table 6).

    >>> round(domain_gap(0.84, 0.58), 1)
    26.0
    """
    return 100.0 * (source_accuracy - target_accuracy)
