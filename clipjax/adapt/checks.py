"""Checks of batches and logits: JAX silently takes an index out of range for another one, or NaN.

Wrong shapes and dtypes, and wrong labels that are no tracers, are a ValueError; wrong labels known
only on the device turn loss, accuracy and gradients into NaN (`known_labels`).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def check_domain(batch: Mapping[str, Mapping], name: str, *keys: str) -> Mapping[str, Any]:
    """Return `batch[name]`; ValueError if it is missing, lacks one of `keys`, or is empty."""
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
    """Raise ValueError for weights, or a mask, whose shape is not [examples]."""
    if jnp.shape(weight) != (examples,):
        raise ValueError(
            f"the {what} has shape {jnp.shape(weight)}, but there are {examples} examples; give "
            f"[{examples}]."
        )


def check_labels(logits: jax.Array, labels: jax.Array, weight: jax.Array | None = None) -> None:
    """Refuse labels int [N] that do not fit logits [..., N, K], except where a weight [N] is 0.

    Raises:
      ValueError: the shapes do not fit, the labels are no integers, or one whose value is known is
        outside 0..K-1.
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
    for given in (labels, weight):  # are all values known here?
        traced = isinstance(given, jax.core.Tracer)
        if traced or not getattr(given, "is_fully_addressable", True):
            return
    values = np.asarray(labels)
    values = values if weight is None else values[np.asarray(weight) != 0]
    outside = values[(values < 0) | (values >= classes)]
    if len(outside):
        raise ValueError(
            f"a label is {outside[0]}, but the logits are of {classes} classes, numbered from 0 to "
            f"{classes - 1}; number them so, and set the mask to False where there is no label."
        )


def known_labels(
    labels: jax.Array, classes: int, weight: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Labels [N] within 0..K-1 to pick logits with, and bool [N] that tells which are right.

    It is False where a label whose weight is not 0 is no class: results must be NaN there, so that
    nothing trains on another class unseen.

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

    Raises ValueError for other shapes and fewer logits than domains.
    """
    shape = jnp.shape(values)
    if len(shape) == 1:
        values, shape = values[:, None], (*shape, 1)
    if len(shape) == 2 and shape[1] == 1 and domains == 2:
        return jnp.concatenate([jnp.zeros_like(values), values], axis=1)
    if len(shape) != 2 or shape[1] < domains:
        raise ValueError(
            f"the discriminator gives an array of shape {jnp.shape(values)} for {domains} domains; "
            f"it must give logits [N, {domains}]{', or one logit [N, 1]' * (domains == 2)}."
        )
    return values
