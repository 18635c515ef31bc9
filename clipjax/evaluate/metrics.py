"""Accuracy that counts every example exactly once.

Labels are integers from 0 to K - 1. Others that count raise ValueError; if traced, they give NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from clipjax.adapt.checks import check_labels, known_labels
from clipjax.data.unlabelled import NO_LABEL, labelled


def accuracy(logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Return the share of examples whose largest logit is the label, float32 [...].

    Logits are [..., N, K], labels int [N]; mask, bool [N], is False on padding, which does not
    count. All padding gives 0.

    >>> float(accuracy(jnp.eye(3), jnp.array([0, 1, 1]), jnp.array([True, True, False])))
    1.0
    """
    _, hits, mask, known = _compared(logits, labels, mask)
    hits = jnp.sum(hits, axis=-1).astype(jnp.float32)
    return jnp.where(known, hits / jnp.maximum(jnp.sum(mask), 1), jnp.nan)


def macro_accuracy(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Return the balanced accuracy: mean over classes with examples, shapes as of `accuracy`.

    >>> float(macro_accuracy(jnp.eye(3)[jnp.array([0, 0, 0, 0])], jnp.array([0, 0, 0, 1])))
    0.5
    """
    labels, hits, mask, known = _compared(logits, labels, mask)
    classes = logits.shape[-1]
    n = jnp.zeros(classes, int).at[labels].add(mask)
    right = jnp.zeros((*hits.shape[:-1], classes), int).at[..., labels].add(hits)
    each = right.astype(jnp.float32) / jnp.maximum(n, 1)  # 0 of a class without examples
    return jnp.where(known, each.sum(axis=-1) / jnp.maximum((n > 0).sum(), 1), jnp.nan)


def macro_f1(logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Return the mean F1 of the classes with examples, shapes as of `accuracy`.

    WILDS' definition (Koh et al. 2021, arXiv 2012.07421; scikit-learn's macro F1 with the labels
    that occur as its `labels`): a class that is answered and has no example does not count.

    >>> answers = jnp.eye(4)[jnp.array([0, 1, 1, 3, 2])]
    >>> round(float(macro_f1(answers, jnp.array([0, 0, 1, 1, 2]))), 6)
    0.722222
    """
    labels, hits, mask, known = _compared(logits, labels, mask)
    classes = logits.shape[-1]
    n = jnp.zeros(classes, int).at[labels].add(mask)
    answers = jax.nn.one_hot(jnp.argmax(logits, axis=-1), classes, dtype=int)
    said = (answers * mask[:, None]).sum(axis=-2)
    right = jnp.zeros((*hits.shape[:-1], classes), int).at[..., labels].add(hits)
    each = 2 * right.astype(jnp.float32) / jnp.maximum(n + said, 1)
    each = jnp.where(n > 0, each, 0)
    return jnp.where(known, each.sum(axis=-1) / jnp.maximum((n > 0).sum(), 1), jnp.nan)


def worst_group(
    logits: ArrayLike, labels: ArrayLike, groups: ArrayLike
) -> tuple[float, int] | None:
    """Return the lowest accuracy among groups with examples, and that group, the first of equals.

    Logits are [N, K], labels and groups int [N]; examples of a group below 0 are of none. None
    where no example is of a group.

    >>> worst_group(np.eye(2)[[0, 0, 1, 1]], [0, 1, 1, 1], [2, 2, 5, -1])
    (0.5, 2)
    """
    groups, hits = np.asarray(groups), np.argmax(logits, axis=-1) == np.asarray(labels)
    n = np.bincount(groups[groups >= 0])
    if not len(n):
        return None
    right = np.bincount(groups[groups >= 0], hits[groups >= 0])
    each = np.where(n > 0, right / np.maximum(n, 1), np.inf)
    return float(each.min()), int(each.argmin())


def _compared(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return labels within 0..K-1, hits [..., N], mask [N] and whether all labels are valid []."""
    check_labels(logits, labels, mask)
    labels, known = known_labels(labels, logits.shape[-1], mask)
    mask = jnp.ones(labels.shape, bool) if mask is None else mask.astype(bool)
    return labels, (jnp.argmax(logits, axis=-1) == labels) & mask, mask, known.all()


def per_class_accuracy(logits: ArrayLike, labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Return the accuracy of each class, [N, K] and int [N] -> float64 [K]; NaN without examples.

    >>> per_class_accuracy(np.eye(3)[[0, 1, 1]], np.array([0, 0, 1]), 3)
    array([0.5, 1. , nan])
    """
    labels = np.asarray(labels)
    check_labels(np.zeros((len(labels), num_classes)), labels)
    hits = labels[np.argmax(logits, axis=-1) == labels]
    right, n = (np.bincount(x, minlength=num_classes) for x in (hits, labels))
    return np.divide(right, n, out=np.full(num_classes, np.nan), where=n > 0)


def calibration_error(logits: jax.Array, labels: jax.Array, bins: int = 15) -> jax.Array:
    """Return the expected calibration error, [N, K] and int [N] -> float32 [].

    The distance of confidence and accuracy, averaged over `bins` equal ranges of confidence,
    weighted by their counts (Guo et al. 2017, arXiv 1706.04599, equation 3).

    >>> sure = jnp.array([[100.0, 0.0], [100.0, 0.0]])
    >>> float(calibration_error(sure, jnp.array([0, 1])))  # certain, and wrong half of the time
    0.5
    """
    _, hits, _, known = _compared(logits, labels)
    confidence = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).max(axis=-1)
    which = jnp.clip(jnp.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = jnp.zeros(bins).at[which].add(confidence - hits.astype(jnp.float32))
    return jnp.where(known, jnp.abs(gaps).sum() / len(labels), jnp.nan)


def disagreement(logits: jax.Array) -> jax.Array:
    """Return the share of examples on which two members differ, [M, N, K] -> [], mean of pairs.

    >>> members = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    >>> round(float(disagreement(members)), 4)
    0.6667
    """
    answers = jnp.argmax(logits, axis=-1)
    members = len(answers)
    differ = (answers[:, None] != answers[None]).mean(axis=-1)
    return differ.sum() / max(1, members * (members - 1))


def top_class_share(logits: jax.Array) -> jax.Array:
    """Return the share of examples that get the most predicted class, [N, K] -> float32 [].

    >>> float(top_class_share(jnp.eye(4)[jnp.array([0, 0, 0, 2])]))
    0.75
    """
    answers = jnp.argmax(logits, axis=-1)
    return jnp.zeros(logits.shape[-1]).at[answers].add(1.0).max() / len(answers)


def most_frequent(labels: ArrayLike) -> float | None:
    """Return the accuracy of always answering the most frequent label, int [N]; None of no labels.

    >>> most_frequent([3, 0, 3, 1, NO_LABEL]), most_frequent([NO_LABEL])
    (0.5, None)
    """
    known = np.asarray(labels)[labelled(labels)]
    if not len(known):
        return None
    return round(float(np.unique(known, return_counts=True)[1].max() / len(known)), 6)


def accuracy_if_labelled(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return `accuracy` on the examples whose label is not NO_LABEL, NaN if none has one.

    >>> float(accuracy_if_labelled(jnp.eye(2), jnp.array([0, NO_LABEL])))
    1.0
    """
    known = labels != NO_LABEL
    return jnp.where(known.any(), accuracy(logits, labels, known), jnp.nan)


def one_class_macro(labels: ArrayLike) -> float | None:
    """Return the macro accuracy of always answering one class, int [N]; None of no labels.

    >>> one_class_macro([3, 0, 3, 1])
    0.333333
    """
    known = np.asarray(labels)[labelled(labels)]
    return round(1 / len(np.unique(known)), 6) if len(known) else None


def domain_gap(source_accuracy: float, target_accuracy: float) -> float:
    """Return source minus target accuracy in percentage points.

    >>> round(domain_gap(0.84, 0.58), 1)
    26.0
    """
    return 100.0 * (source_accuracy - target_accuracy)


def harmonic_mean(one: float, two: float) -> float:
    """Return 2 a b / (a + b): of base and new accuracy, where both must be high; 0 of zeros.

    >>> round(harmonic_mean(85.48, 77.08), 2)
    81.06
    """
    return 2 * one * two / (one + two) if one + two else 0.0
