"""Linear heads of closed-form methods: logits, their mean probabilities, and checked data."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.checks import check_domain, check_labels
from clipjax.adapt.method import VALIDATION, Classes, check_classes
from clipjax.adapt.moments import sum_blocks

PyTree = Any


class Examples(NamedTuple):
    """Labelled features of a fit."""

    inputs: jax.Array  # float32 [N, P]
    label: jax.Array  # int [N]
    weight: jax.Array  # float32 [N]: 1, or 0 of an example that is left out


def label_sums(labels: jax.Array, classes: int, *values: jax.Array) -> tuple[jax.Array, ...]:
    """Sums [K, ...] over the examples of each class of values [N, ...], by labels int [N].

    >>> import jax.numpy as jnp
    >>> label_sums(jnp.array([1, 1, 0]), 3, jnp.array([1.0, 2.0, 4.0]))[0].tolist()
    [4.0, 3.0, 0.0]
    """
    return tuple(jnp.zeros((classes, *x.shape[1:]), x.dtype).at[labels].add(x) for x in values)


def every(inputs: jax.Array, label: jax.Array) -> Examples:
    """All examples, none left out."""
    return Examples(inputs, label, jnp.ones(len(inputs), jnp.float32))


def linear_head(kernel: jax.Array, bias: jax.Array) -> PyTree:
    """A head of one layer, named as those that train are: kernel [P, K], bias [K]."""
    return {"classifier": {"layer_0": {"kernel": kernel, "bias": bias}}}


def linear_logits(params: PyTree, x: jax.Array) -> jax.Array:
    """Logits [N, K] of features [N, P]; ValueError: the head is of another width."""
    layer = params["classifier"]["layer_0"]
    if x.shape[-1] != (width := layer["kernel"].shape[0]):
        fault = f"features of width {x.shape[-1]} meet texts or a head of width {width}"
        raise ValueError(f"{fault}; take both from one model.")
    return x @ layer["kernel"] + layer["bias"]


def zero_shot_head(classes: Classes) -> PyTree:
    """CLIP's own prediction as a head: its class weights times its scale, no bias."""
    kernel = jnp.asarray(classes.weights, jnp.float32).T * classes.scale
    return linear_head(kernel, jnp.zeros(kernel.shape[1]))


def mean_probability(params: PyTree, x: jax.Array) -> jax.Array:
    """The mean prediction [K] over features [N, P], never 0."""

    def part(weight, rows):
        return weight @ jax.nn.softmax(linear_logits(params, rows))

    return jnp.maximum(sum_blocks(part, (x,)) / len(x), 1e-20)


def with_bias(params: PyTree, more: jax.Array) -> PyTree:
    """The head with `more` [K] added to its logits."""
    layer = params["classifier"]["layer_0"]
    return linear_head(layer["kernel"], layer["bias"] + more)


def in_order(variants: PyTree, first: str) -> PyTree:
    """The variants with `first` first: jit sorts them."""
    return {first: variants[first]} | variants


def predict_linear(made_for: Classes):
    """`predict` of a closed form whose parameters are a `linear_head` of these classes."""

    def predict(params, embeddings, classes):
        check_classes(made_for, classes)
        return linear_logits(params, embeddings)

    return predict


def checked(data: Mapping[str, Any], classes: int, *parts: str) -> Mapping[str, Any]:
    """Return the data of a fit, `parts` of "source", "validation" and "target", as arrays.

    Raises:
      ValueError: a part is missing or empty, the parts' widths differ, or labels are no classes.
    """
    found = {}
    for part in parts:
        keys = ("inputs",) if part == "target" else ("inputs", "label")
        if part == VALIDATION and not len(data.get(part, {}).get("label", (0,))):
            told = (
                "the source has no validation images with labels, and settings are chosen by them"
            )
            raise ValueError(f"{told}; give it some (a val split), or a single value of each.")
        rows = check_domain(data, part, *keys)
        found[part] = {key: jnp.asarray(rows[key]) for key in keys}
        if "label" in keys:
            logits = np.broadcast_to(np.float32(0), (len(rows["inputs"]), classes))
            check_labels(logits, rows["label"])
    widths = {part: rows["inputs"].shape[1] for part, rows in found.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"the features differ in width: {widths}; encode all alike.")
    return found


def count_classes(labels: jax.Array, classes: int) -> np.ndarray | None:
    """Examples of each class, int [K]; None where labels are traced."""
    if isinstance(labels, jax.core.Tracer):
        return None
    return np.bincount(np.asarray(labels), minlength=classes)
