"""Prototypes: class means of features as a linear head (Snell et al. 2017, arXiv 1703.05175).

-|f - c|^2 is 2 c.f - |c|^2 up to a constant of f (their section 2.3), so class means are a linear
head with weights 2 c and biases -|c|^2, which is exported and trained on as any other.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.gda import check_counts
from clipjax.adapt.linear import (
    checked,
    count_classes,
    linear_head,
    linear_logits,
    predict_linear,
)
from clipjax.adapt.method import Backbone, Classes, ClosedForm

PyTree = Any
EACH_CLASS = "a prototype"


def check_temperature(temperature: float) -> None:
    """Raise ValueError for a negative factor."""
    if temperature < 0:
        raise ValueError(
            f"temperature is {temperature}; give a factor above 0, or 0 for the usual."
        )


def set_means(features: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """The mean [N, F] of each class of a support set [N, S, F]; weight [N, S] is 0 on padding.

    A class without examples gets zeros.
    """
    if weight is None:
        return features.mean(axis=1)
    total = jnp.sum(jnp.where(weight[..., None] > 0, features, 0), axis=1)
    return total / jnp.maximum(jnp.sum(weight > 0, axis=1), 1)[:, None]


def prototype_head(means: jax.Array, temperature: Any = 1.0) -> PyTree:
    """Class means [N, F] as a linear head: its softmax is that of -temperature |f - c|^2.

    >>> import jax, jax.numpy as jnp
    >>> head = prototype_head(jnp.array([[0.8, 0.4], [-0.3, 0.9]]))
    >>> share = jax.nn.softmax(linear_logits(head, jnp.array([[0.8, 0.6]])))
    >>> round(float(share[0, 0]), 6)
    0.779026
    """
    return linear_head(2 * temperature * means.T, -temperature * jnp.sum(means**2, axis=1))


def make_method(backbone: Backbone, classes: Classes, *, temperature: float = 0.0) -> ClosedForm:
    """The class means of the source's features, few or all of them (`data.shots`), as a head.

    Squared distances of features of length 1 lie between 0 and 4, and their softmax is flat: they
    are multiplied by `temperature`, by default 0, which means CLIP's own scale. (The paper has 1;
    answers do not depend on it, probabilities do.)

    ValueError: a negative temperature; in the fit, a missing or empty source, a class without
    images.
    """
    check_temperature(temperature)
    factor = lambda texts: temperature or jnp.asarray(texts.scale, jnp.float32)

    @jax.jit
    def solve(x, labels, factor):
        member = jax.nn.one_hot(labels, len(classes.names), axis=0)
        means = jnp.matmul(member, x, precision="highest")
        means = means / jnp.maximum(member.sum(axis=1), 1)[:, None]
        return {"prototypes": prototype_head(means, factor)}

    def fit(data, texts):
        found = checked(data, len(texts.names), "source")["source"]
        check_counts(count_classes(found["label"], len(texts.names)), texts.names, EACH_CLASS)
        return solve(found["inputs"], found["label"], factor(texts))

    def episode(params, support, inputs, weight=None):
        return linear_logits(prototype_head(set_means(support, weight), factor(classes)), inputs)

    more = {"texts": not temperature, "each_class": EACH_CLASS}
    return ClosedForm(fit, predict_linear(classes), episode=episode, **more)
