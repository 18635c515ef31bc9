"""Gaussians of the target's classes, held near the texts (Zanella et al. 2025, arXiv 2501.03729).

StatA: target images are assigned to classes by zero-shot and by one Gaussian a class, mean mu_c and
diagonal covariance S_c, which are then fitted to the assignments z, ten times in turn:

    z ~ y exp(log N(f; mu_c, S_c) / temperature), y zero-shot's probabilities
    mu_c = norm(b_c m_c + (1 - b_c) t_c),  S_c = b_c V_c + (1 - b_c) (S_0 + (t_c - mu_c)^2)
    b_c = n_c / (alpha + n_c)

with the number n_c, mean m_c and spread V_c about mu_c of the assigned images: the fewer there are,
the nearer class c stays to its text t_c, so that absent classes do no harm. Labelled source images,
mapped onto the target, count as assigned ones of a smaller weight. S_0 is the spread of the
target's images about their texts under y. With `neighbours`, similar target images are drawn to the
same class while the Gaussians are fitted (`clipjax.adapt.neighbours`); what comes out is a
quadratic head in any case, which predicts new images one by one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.linear import checked, in_order, label_sums, linear_logits, zero_shot_head
from clipjax.adapt.method import Backbone, Classes, ClosedForm, check_classes
from clipjax.adapt.moments import check_match, domain_map, moments, sum_blocks
from clipjax.adapt.neighbours import nearest, settle

PyTree = Any
ANCHORS = ("text", "shared")


def gaussian_logits(params: PyTree, x: jax.Array) -> jax.Array:
    """Zero-shot's logits plus the classes' log densities over the temperature, [N, K]."""
    return linear_logits(params, x) + x**2 @ params["quadratic"]


def gaussian_head(own: PyTree, mean: jax.Array, variance: jax.Array, temperature: float) -> PyTree:
    """The quadratic head of a zero-shot head, means and diagonal variances [K, P]."""
    layer, precision = own["classifier"]["layer_0"], 1 / variance
    constant = jnp.sum(mean**2 * precision + jnp.log(variance), axis=1)
    return {
        "quadratic": -precision.T / (2 * temperature),
        "classifier": {
            "layer_0": {
                "kernel": layer["kernel"] + (mean * precision).T / temperature,
                "bias": layer["bias"] - constant / (2 * temperature),
            }
        },
    }


def assigned(predict, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over features [N, P]: of assignments [K], and of features and squares by them [K, P]."""

    def part(weight, rows):
        own = predict(rows) * weight[:, None]
        return jnp.sum(own, axis=0), own.T @ rows, own.T @ rows**2

    return sum_blocks(part, (x,))


def fit_stata(
    own: PyTree,
    texts: jax.Array,
    target: jax.Array,
    more: tuple[jax.Array, jax.Array, jax.Array],
    *,
    alpha: float,
    temperature: float,
    steps: int,
    shared: bool,
    neighbours: int = 0,
) -> PyTree:
    """The head after `steps` rounds.

    Args:
      own: the zero-shot head.
      texts: t, float32 [K, P] of length 1.
      target: float32 [N, P].
      more: sums as of `assigned`, of labelled examples by their weight; zeros for none.
      alpha, temperature: of the formulas above.
      shared: all classes have one covariance, as in TransCLIP (Zanella et al. 2024, arXiv
        2406.01837).
      neighbours: of each target image; with 0 no assignments [N, K] are kept.
    """
    counts, sums, squares = assigned(lambda x: jax.nn.softmax(linear_logits(own, x)), target)
    apart = squares - 2 * texts * sums + counts[:, None] * texts**2
    start = jnp.maximum(jnp.sum(apart, axis=0) / len(target), 1e-6)

    graph = nearest(target, neighbours) if neighbours and len(target) > 1 else None

    def turn(carry, _):
        mean, variance, z = carry
        head = gaussian_head(own, mean, variance, temperature)
        if graph is None:
            found = assigned(lambda x: jax.nn.softmax(gaussian_logits(head, x)), target)
        else:
            z = settle(gaussian_logits(head, target), z, graph)
            found = jnp.sum(z, axis=0), z.T @ target, z.T @ target**2
        counts, sums, squares = jax.tree.map(jnp.add, found, more)
        share = (counts / (alpha + counts))[:, None]
        real = jnp.maximum(counts, 1e-12)[:, None]
        mixed = share * sums / real + (1 - share) * texts
        # A sum of nearly opposite vectors has no direction: then the text's.
        length = jnp.linalg.norm(mixed, axis=1, keepdims=True)
        mean = jnp.where(length > 1e-6, mixed / jnp.maximum(length, 1e-6), texts)
        spread = (squares - 2 * mean * sums) / real + mean**2
        variance = share * spread + (1 - share) * (start + (texts - mean) ** 2)
        if shared:
            weight = (counts / jnp.maximum(jnp.sum(counts), 1e-12))[:, None]
            variance = jnp.broadcast_to(jnp.sum(weight * variance, axis=0), variance.shape)
        return (mean, jnp.maximum(variance, 1e-6), z), None

    answers = None if graph is None else jax.nn.softmax(linear_logits(own, target))
    first = (texts, jnp.broadcast_to(start, texts.shape), answers)
    (mean, variance, _), _ = jax.lax.scan(turn, first, None, length=steps)
    return gaussian_head(own, mean, variance, temperature)


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    alpha: float = 1.0,
    temperature: float = 50.0,
    steps: int = 10,
    source_weight: float = 0.1,
    anchor: str = "text",
    match: str = "coral",
    neighbours: int = 0,
) -> ClosedForm:
    """Variants "stata", with source images as anchors, and "target_only", without.

    Args:
      alpha: images that a text weighs as much as.
      temperature: of the log densities.
      steps: rounds.
      source_weight: of a source image, in target images.
      anchor: "text", a covariance a class, or "shared", one for all.
      match: the source's map, as for `clipjax.adapt.logistic`.
      neighbours: target images that each one is drawn to, 3 in TransCLIP; their search takes time
        by the square of the target's images, and their assignments memory of images x classes.

    ValueError: an option out of range; in the fit, missing or empty parts.
    """
    check_match(match)
    if anchor not in ANCHORS:
        raise ValueError(f"anchor is {anchor!r}; known: {', '.join(ANCHORS)}.")
    if alpha <= 0 or temperature <= 0 or source_weight < 0 or steps < 1:
        raise ValueError("give positive alpha, temperature and steps, and no negative weight.")
    if neighbours < 0 or neighbours != int(neighbours):
        raise ValueError(f"neighbours is {neighbours}; give a number of images, or 0 for none.")
    count = len(classes.names)
    options = {"alpha": alpha, "temperature": temperature, "steps": int(steps)}
    options |= {"shared": anchor == "shared", "neighbours": int(neighbours)}

    @jax.jit
    def solve(x, labels, target, weights, scale):
        own = zero_shot_head(classes._replace(weights=weights, scale=scale))
        to_target = domain_map(moments(x), moments(target), match)

        def part(real, rows, truth):
            rows = (rows - to_target.shift) @ to_target.matrix + to_target.mean
            own = real * source_weight
            return label_sums(truth, count, own, own[:, None] * rows, own[:, None] * rows**2)

        more = sum_blocks(part, (x, labels))
        none = jax.tree.map(jnp.zeros_like, more)
        return {
            "stata": fit_stata(own, weights, target, more, **options),
            "target_only": fit_stata(own, weights, target, none, **options),
        }

    def fit(data, texts):
        found = checked(data, len(texts.names), "source", "target")
        weights = jnp.asarray(texts.weights, jnp.float32)
        parts = (*found["source"].values(), found["target"]["inputs"])
        return in_order(solve(*parts, weights, texts.scale), "stata")

    def predict(params, embeddings, texts):
        check_classes(classes, texts)
        return gaussian_logits(params, embeddings)

    return ClosedForm(fit, predict, reads=("source", "target"))
