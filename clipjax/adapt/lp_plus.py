"""LP++: a linear probe that learns how much of each class's text it takes.

Huang et al. 2024 (CVPR, arXiv 2404.02285) and their code's linear_probe_p2.py: logits of a feature
f of length 1 are

    w_k.f + b_k + a_k f.t_k

with class weights t, without CLIP's scale, by full-batch descent on the mean cross-entropy of N
images. Everything comes from the data: w_k starts as the sum of its images' features, all a as 250
times the mean over classes of the mean cosine of a class's images and its text; the rate of w and b
is 4 N / lambda_max(F'F), with momentum 0.9; after every tenth step a takes one of its own, of rate
N / (4 max_k sum_i (f_i.t_k)^2). The epoch of 300 that is best on the validation images is taken, of
equal ones the last.

Two differences. The code never clears the gradient of a, so that it grows over the run
(`accumulates=True`); descent by blocks of coordinates, which the paper derives, takes that of the
present step. And its biases start at random, these at 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.choice import check_several
from clipjax.adapt.gda import check_counts, class_means
from clipjax.adapt.linear import (
    checked,
    count_classes,
    every,
    linear_head,
    linear_logits,
    predict_linear,
)
from clipjax.adapt.losses import label_accuracy, smoothed_cross_entropy
from clipjax.adapt.method import VALIDATION, Backbone, Classes, ClosedForm

PyTree = Any
EACH_CLASS = "LP++"


class Probe(NamedTuple):
    """What LP++ trains."""

    weights: jax.Array  # [K, P]
    bias: jax.Array  # [K]
    alpha: jax.Array  # [K]

    def head(self, texts: jax.Array) -> PyTree:
        """The probe beside class weights [K, P] as one linear head."""
        return linear_head((self.weights + self.alpha[:, None] * texts).T, self.bias)


def first_probe(x: jax.Array, labels: jax.Array, texts: jax.Array) -> Probe:
    """Where training starts: features [N, P] of labels [N], class weights [K, P]."""
    counts, means = class_means(every(x, labels), len(texts))
    seen = counts > 0
    cosines = jnp.sum(means * texts, axis=1)
    alpha = 250 * jnp.sum(jnp.where(seen, cosines, 0)) / jnp.sum(seen)
    return Probe(means * counts[:, None], jnp.zeros(len(texts)), jnp.full(len(texts), alpha))


def rates(x: jax.Array, texts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rates of weights and of alpha for features [N, P] and class weights [K, P]."""
    small = x.T @ x if len(x) > x.shape[1] else x @ x.T  # of the same largest eigenvalue
    largest = jnp.sum((x @ texts.T) ** 2, axis=0).max()
    return 4 * len(x) / jnp.linalg.eigvalsh(small)[-1], len(x) / (4 * largest)


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    iterations: int = 300,
    interval: int = 10,
    momentum: float = 0.9,
    accumulates: bool = False,
) -> ClosedForm:
    """LP++ on the source's features, few or all of them (`data.shots`).

    Parameters are a linear head of all three terms, with "alpha" [K] and the "epoch" taken.

    Args:
      iterations: full-batch steps.
      interval: of weights, to one of alpha.
      momentum: of the weights.
      accumulates: whether alpha's gradient is summed over the run, as in the published code.

    ValueError: numbers out of range, a single class; in the fit, a missing or empty part, a class
    without source images.
    """
    check_several(classes)
    if min(iterations, interval) < 1 or not 0 <= momentum < 1:
        told = f"iterations={iterations}, interval={interval}, momentum={momentum}"
        raise ValueError(f"{told}; give whole numbers above 0, and a momentum of 0 to below 1.")

    @jax.jit
    def solve(source, held, texts):
        x, labels = source["inputs"], source["label"]
        rate, rate_alpha = rates(x, texts)
        value = lambda probe: smoothed_cross_entropy(linear_logits(probe.head(texts), x), labels)

        def one(carry, step):
            probe, speed, summed, best, best_score = carry
            slope = jax.grad(value)(probe)
            speed = jax.tree.map(lambda v, g: momentum * v + g, speed, slope)
            summed = summed + slope.alpha if accumulates else slope.alpha
            due = (step + 1) % interval == 0
            probe = Probe(
                probe.weights - rate * speed.weights,
                probe.bias - rate * speed.bias,
                probe.alpha - jnp.where(due, rate_alpha, 0) * summed,
            )
            score = label_accuracy(linear_logits(probe.head(texts), held["inputs"]), held["label"])
            better = score >= best_score
            best = jax.tree.map(lambda b, p: jnp.where(better, p, b), best, (probe, step + 1))
            return (probe, speed, summed, best, jnp.maximum(score, best_score)), None

        start = first_probe(x, labels, texts)
        still = jax.tree.map(jnp.zeros_like, start)
        carry = start, still, still.alpha, (start, jnp.int32(0)), jnp.float32(0)
        (_, _, _, (probe, epoch), _), _ = jax.lax.scan(one, carry, jnp.arange(iterations))
        return {"lp_plus": probe.head(texts) | {"alpha": probe.alpha, "epoch": epoch}}

    def fit(data, texts):
        found = checked(data, len(texts.names), "source", VALIDATION)
        counts = count_classes(found["source"]["label"], len(texts.names))
        check_counts(counts, texts.names, EACH_CLASS)
        return solve(*found.values(), np.asarray(texts.weights, np.float32))

    reads = ("source", VALIDATION)
    return ClosedForm(fit, predict_linear(classes), reads=reads, each_class=EACH_CLASS)
