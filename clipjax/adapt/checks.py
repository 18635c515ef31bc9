"""Refuses batches and logits that a loss would misread: shapes when traced, values when known.

JAX takes an index that lies outside for another one, or for NaN, without a word. What shapes and
dtypes tell is a ValueError while a step is traced, and so are labels that are no tracers. Labels
that are known on the device only turn loss, accuracy and gradients into NaN (`known_labels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def check_domain(batch: Mapping[str, Mapping], name: str, *keys: str) -> Mapping[str, Any]:
    """One domain of a batch, `batch[name]`.

    Raises:
      ValueError: the batch does not have it, it lacks one of `keys`, or has no example.
    """
    if name not in batch:
        raise ValueError(f"the batch has no {name!r}; it has {_listed(batch)}.")
    part = batch[name]
    for key in keys:
        if key not in part:
            raise ValueError(f"batch[{name!r}] has no {key!r}; it has {_listed(part)}.")
        for leaf in jax.tree.leaves(part[key]):
            if jnp.ndim(leaf) and not jnp.shape(leaf)[0]:
                raise ValueError(
                    f"batch[{name!r}][{key!r}] is empty, shape {jnp.shape(leaf)}; a step needs "
                    "examples of this domain."
                )
    return part


def _listed(keys: Mapping) -> str:
    return ", ".join(map(repr, keys)) or "nothing"


def check_weight(weight: jax.Array, examples: int, what: str = "weight") -> None:
    """Refuses weights, or a mask, that would be broadcast.

    Raises:
      ValueError: the shape is not [examples].
    """
    if jnp.shape(weight) != (examples,):
        raise ValueError(
            f"the {what} has shape {jnp.shape(weight)}, but there are {examples} examples; give "
            f"[{examples}]."
        )


def check_labels(logits: jax.Array, labels: jax.Array, weight: jax.Array | None = None) -> None:
    """Refuses labels that do not fit class logits.

    Args:
      logits: [..., N, K].
      labels: int [N]; where the weight is 0 they may be anything.
      weight: float [N] or None.

    Raises:
      ValueError: the shapes do not fit each other, the labels are no whole numbers, or one of
        them, where they are known, lies outside 0..K-1.
    """
    if jnp.ndim(logits) < 2:
        raise ValueError(
            f"logits of shape {jnp.shape(logits)} are not [examples, classes]; a head of one logit "
            "has the shape [N, 1], and is for domains only: for two classes give two."
        )
    rows, classes = jnp.shape(logits)[-2:]
    kind = jnp.result_type(labels)
    if jnp.shape(labels) != (rows,) or not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(
            f"labels are {kind} of shape {jnp.shape(labels)}, but the logits are of {rows} "
            f"examples: give one whole number each, int [{rows}] (of one-hot rows "
            "labels.argmax(-1))."
        )
    if weight is not None:
        check_weight(weight, rows)
    outside = _outside(labels, weight, classes)
    if outside is not None:
        raise ValueError(
            f"a label is {outside}, but the logits are of {classes} classes, numbered from 0 to "
            f"{classes - 1}; number them so, and set the mask to False where there is no label."
        )


def _outside(labels: jax.Array, weight: jax.Array | None, classes: int) -> int | None:
    """The first label that is no class, where values are known."""
    given = [x for x in (labels, weight) if x is not None]
    if any(isinstance(x, jax.core.Tracer) for x in given):
        return None
    if not all(getattr(x, "is_fully_addressable", True) for x in given):
        return None
    values = np.asarray(labels)
    values = values if weight is None else values[np.asarray(weight) != 0]
    wrong = values[(values < 0) | (values >= classes)]
    return int(wrong[0]) if wrong.size else None


def known_labels(
    labels: jax.Array, classes: int, weight: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Labels to pick logits with, and which of them are to be trusted.

    Args:
      labels: int [N].
      classes: K.
      weight: float [N] or None.

    Returns:
      (labels within 0..K-1, bool [N]: False where one that counts is no class, and the result is to
      be NaN, so that nothing trains on another class unseen).

    >>> import jax.numpy as jnp
    >>> labels, weight = jnp.array([1, 3, -100]), jnp.array([1.5, 1.5, 0.0])
    >>> [x.tolist() for x in known_labels(labels, 3, weight)]
    [[1, 0, 0], [True, False, True]]
    """
    if weight is not None:
        labels = jnp.where(weight != 0, labels, 0)
    inside = (labels >= 0) & (labels < classes)
    return jnp.where(inside, labels, 0), inside


def domain_logits(values: jax.Array, domains: int) -> jax.Array:
    """A discriminator's output as logits [N, D]; one logit z, [N, 1] or [N], means [0, z].

    The softmax of [0, z] is the sigmoid of z, the probability of domain 1.

    Raises:
      ValueError: another shape, or fewer logits than domains.
    """
    shape = jnp.shape(values)
    if len(shape) == 1:
        values, shape = values[:, None], (*shape, 1)
    if len(shape) == 2 and shape[1] == 1 and domains == 2:
        return jnp.concatenate([jnp.zeros_like(values), values], axis=1)
    if len(shape) != 2 or shape[1] < domains:
        raise ValueError(
            f"the discriminator gives an array of shape {jnp.shape(values)} for {domains} domains; "
            f"it must give logits [N, {domains}]" + (", or one logit [N, 1]." * (domains == 2))
        )
    return values
