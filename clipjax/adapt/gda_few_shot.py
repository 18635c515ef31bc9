"""Gaussian discriminant analysis of few images, added to CLIP's own answer.

Wang et al. 2024 (ICLR, arXiv 2402.04087) and their code's main_few_shots.py: logits of a feature f
of length 1 are

    s f.t_k + alpha (w_k.f + b_k),  w_k = S^-1 mu_k,  b_k = log 1/K - mu_k.S^-1 mu_k / 2

with CLIP's scale s and class weights t, class means mu and the ridge estimate S^-1 = P ((N - 1) cov
+ tr(cov) I)^-1 of the covariance within classes (`clipjax.adapt.gda`). Alpha is that of a grid
which is best on the source's validation images.

New classes have no images. As in main_base2new.py, each takes the `neighbours` nearest features of
the others' images, and `copies` of its own class weight t_k: the mean of both is mu_k; S^-1 is the
mean over new classes of the estimate above of the neighbours about t_k. (That file estimates the
old classes' S^-1 without the ridge; here both are the same.)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.choice import check_several, numbers
from clipjax.adapt.gda import EACH_CLASS, check_counts, fit_gda
from clipjax.adapt.linear import checked, count_classes, every, linear_head, linear_logits
from clipjax.adapt.losses import label_accuracy
from clipjax.adapt.method import VALIDATION, Backbone, Classes, ClosedForm, check_classes
from clipjax.adapt.moments import domain_map, moments

PyTree = Any
ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
COPIES = 16


def beside_texts(head: PyTree, alpha: Any, texts: Classes) -> PyTree:
    """CLIP's own class weights, and `alpha` times a linear head, as one."""
    layer = head["classifier"]["layer_0"]
    kernel = texts.scale * jnp.asarray(texts.weights, jnp.float32).T
    return linear_head(kernel + alpha * layer["kernel"], alpha * layer["bias"])


def head_of_new(x: jax.Array, weights: jax.Array, neighbours: int, copies: int) -> PyTree:
    """The discriminant of classes without images, from features [N, P] of other classes' images.

    Args:
      x: the others' features.
      weights: class weights [K, P] of the new classes.
      neighbours: features that a class takes, N at most.
      copies: how often its class weight counts in its mean.
    """
    width, near = x.shape[1], min(neighbours, len(x))

    def add(total, own):
        taken = x[jax.lax.top_k(x @ own, near)[1]]
        apart = taken - own
        scatter = jnp.matmul(apart.T, apart, precision="highest")
        ridge = jnp.maximum(jnp.trace(scatter) / max(near - 1, 1), 1e-12)
        inverse = width * jnp.linalg.inv(scatter + ridge * jnp.eye(width))
        return total + inverse, (taken.sum(axis=0) + copies * own) / (near + copies)

    total, means = jax.lax.scan(add, jnp.zeros((width, width)), weights)
    kernel = total @ means.T / len(weights)
    return linear_head(kernel, -jnp.log(len(weights)) - jnp.sum(means * kernel.T, axis=1) / 2)


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    alphas: tuple[float, ...] = ALPHAS,
    neighbours: int = 64,
    copies: int = COPIES,
) -> ClosedForm:
    """The discriminant of the source's features, few or all of them (`data.shots`), and the texts.

    Args:
      alphas: those tried on validation images, of equally good ones the first; of a single one no
        image is read.
      neighbours: features that a class without images takes of others; for these all features are
        kept (4 N P bytes). 0: none are, and other classes are refused.
      copies: how often such a class's text counts beside them.

    ValueError: negative numbers, a single class; in the fit, a missing or empty part, a class
    without source images.
    """
    check_several(classes)
    grid = numbers("alphas", alphas, least=0.0)
    for name, number in (("neighbours", neighbours), ("copies", copies)):
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"{name} is {number!r}; give a whole number, 0 or more.")
    if not neighbours and copies != COPIES:
        raise ValueError(f"copies={copies} has no effect with neighbours=0; leave it out.")
    reads = ("source",) if len(grid) == 1 else ("source", VALIDATION)

    @jax.jit
    def solve(source, held, weights, scale):
        texts, x = classes._replace(weights=weights, scale=scale), source["inputs"]
        own = moments(x)
        same = domain_map(own, own, "none")
        plain = fit_gda(every(x, source["label"]), len(classes.names), same, own, few=True)
        alpha = jnp.float32(grid[0])
        if held:

            def right(alpha):
                logits = linear_logits(beside_texts(plain, alpha, texts), held["inputs"])
                return label_accuracy(logits, held["label"])

            tried = jnp.asarray(grid, jnp.float32)
            alpha = tried[jnp.argmax(jax.lax.map(right, tried))]
        head = beside_texts(plain, alpha, texts) | {"alpha": alpha}
        return {"gda_few_shot": head | ({"features": x} if neighbours else {})}

    def fit(data, texts):
        found = checked(data, len(texts.names), *reads)
        counts = count_classes(found["source"]["label"], len(texts.names))
        check_counts(counts, texts.names)
        weights, scale = np.asarray(texts.weights, np.float32), np.float32(texts.scale)
        return solve(found["source"], found.get(VALIDATION, {}), weights, scale)

    def predict(params, embeddings, texts):
        if texts.names == classes.names or not neighbours:
            check_classes(classes, texts)
            return linear_logits(params, embeddings)
        weights = jnp.asarray(texts.weights, jnp.float32)
        new = head_of_new(params["features"], weights, neighbours, copies)
        return linear_logits(beside_texts(new, params["alpha"], texts), embeddings)

    more = {"any_classes": neighbours > 0, "each_class": EACH_CLASS}
    return ClosedForm(fit, predict, reads=reads, **more)
