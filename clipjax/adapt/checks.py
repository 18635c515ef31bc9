"""Checks of batches and logits: JAX silently takes an index out of range for another one, or NaN.

Wrong shapes and dtypes, and wrong labels that are no tracers, are a ValueError; wrong labels known
only on the device turn loss, accuracy and gradients into NaN (`known_labels`).
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def check_domain(batch: Mapping[str, Mapping], name: str, *keys: str) -> Mapping[str, Any]:
    """Return `batch[name]`; ValueError if it is missing, lacks one of `keys`, or is empty."""
    part = _entry(batch, name, "the batch")
    for key in keys:
        for leaf in jax.tree.leaves(_entry(part, key, f"batch[{name!r}]")):
            if not hasattr(leaf, "shape"):
                given = f"batch[{name!r}][{key!r}] holds {type(leaf).__name__}, no array"
                raise ValueError(f"{given}; give jnp.asarray of it.")
            if leaf.ndim and not leaf.shape[0]:
                raise ValueError(
                    f"batch[{name!r}][{key!r}] is empty, shape {leaf.shape}; a step needs "
                    "examples of this domain."
                )
    return part


def _entry(mapping: Any, key: str, where: str) -> Any:
    """Return an entry of a batch or of a part of it."""
    if not isinstance(mapping, Mapping):
        form = '{"source": {"inputs": ..., "label": ...}, "target": {"inputs": ...}}'
        kind = "array" if hasattr(mapping, "shape") else type(mapping).__name__
        raise ValueError(f"{where} is of type {kind}; a batch is {form}.")
    if key not in mapping:
        near = difflib.get_close_matches(key, [k for k in mapping if isinstance(k, str)], 1)
        hint = f" Rename {near[0]!r} to {key!r}." if near else ""
        raise ValueError(f"{where} has no {key!r}; it has {_listed(mapping)}.{hint}")
    return mapping[key]


def _listed(keys: Iterable) -> str:
    return ", ".join(map(repr, keys)) or "nothing"


def check_keys(part: Mapping[str, Any], name: str, known: Collection[str]) -> None:
    """Raise ValueError for a key that nothing reads, as a misspelt mask, which would not count."""
    if unknown := [key for key in part if key not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, 1)
        hint = f" Rename it to {near[0]!r}." if near else " Leave it out."
        raise ValueError(
            f"batch[{name!r}] has {unknown[0]!r}, which nothing reads; known: {_listed(known)}."
            f"{hint}"
        )


def check_rows(values: Any, rows: int, what: str) -> jax.Array:
    """Return an array whose first axis is that of `rows` examples; ValueError for any other."""
    if not hasattr(values, "shape"):
        raise ValueError(f"{what} gives a {type(values).__name__}; it must give an array.")
    if not values.ndim or len(values) != rows:
        raise ValueError(
            f"{what} gives an array of shape {values.shape} for {rows} examples; it must give one "
            f"row for each, [{rows}, ...]."
        )
    return values


def check_strength(lam: Any) -> None:
    """Raise ValueError for a strength of the reversal that is no scalar."""
    if callable(lam):
        raise ValueError("lam is a function; give its value, lam(step / total_steps).")
    if isinstance(lam, str) or jnp.ndim(lam):
        given = repr(lam) if isinstance(lam, str) else f"an array of shape {jnp.shape(lam)}"
        raise ValueError(f"lam is {given}; give a number, as lambda_schedule()(progress).")


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
