"""The anchored default: debiased zero-shot plus as much of an aligned source head as it has earned.

logits = z - tau log p_mean + w c h. z are CLIP's own logits, at the scale that it was trained to
be calibrated with, so that where it cannot tell the target's images apart its logits are flat and
weigh little. h is a head fitted to the source and mapped onto the target (`logistic`, `gda`), c
the factor that makes it calibrated on held-out source examples, w the weight, chosen without a
label of the target:

    w = min(1, accuracy of the head on held-out source, seen through the target's statistics
               / zero-shot's mean confidence on the target)

A product of experts (Hinton 2002), each as sure as it has a right to be. Both parts are linear,
so the blend is one linear head.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.debias import check_tau, debiased
from clipjax.adapt.gda import EACH_CLASS, check_counts, fit_gda
from clipjax.adapt.linear import (
    Examples,
    checked,
    count_classes,
    every,
    linear_head,
    linear_logits,
    predict_linear,
    zero_shot_head,
)
from clipjax.adapt.logistic import fit_logistic
from clipjax.adapt.method import Backbone, Classes, ClosedForm
from clipjax.adapt.moments import (
    DomainMap,
    check_match,
    domain_map,
    moments,
    sum_blocks,
    weighted_moments,
)

PyTree = Any
HEADS = ("logistic", "gda")
HELD_OUT = 16384  # source examples that the weight is chosen on, evenly spaced; no need of more


def fold_of(labels: jax.Array, folds: int) -> jax.Array:
    """The fold int [N] of each example: dealt out in turn, class after class."""
    order = jnp.argsort(labels, stable=True)
    dealt = jnp.arange(len(labels)) % folds
    return jnp.zeros_like(dealt).at[order].set(dealt)


def on_source(head: PyTree, to_target: DomainMap) -> PyTree:
    """A head for target features as one for source features, which it maps first."""
    layer = head["classifier"]["layer_0"]
    kernel = to_target.matrix @ layer["kernel"]
    bias = layer["bias"] + to_target.mean @ layer["kernel"] - to_target.shift @ kernel
    return linear_head(kernel, bias)


def calibration(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The factor c on logits [N, K] with the least cross-entropy, float32 [] from 1/16 to 16.

    Guo et al. 2017 (arXiv 1706.04599): temperature scaling, by 33 trials.
    """

    def cost(factor):
        logp = jax.nn.log_softmax(factor * logits)
        return -jnp.mean(jnp.take_along_axis(logp, labels[:, None], axis=1))

    factors = 2 ** jnp.linspace(-4.0, 4.0, 33)
    return factors[jnp.argmin(jax.lax.map(cost, factors))]


def mean_confidence(head: PyTree, x: jax.Array) -> jax.Array:
    """The mean largest probability on features [N, P]."""

    def part(weight, rows):
        return weight @ jnp.max(jax.nn.softmax(linear_logits(head, rows)), axis=1)

    return sum_blocks(part, (x,)) / len(x)


def choose_weight(accuracy: jax.Array, confidence: jax.Array) -> jax.Array:
    """The head's weight, of its held-out accuracy and zero-shot's confidence on the target.

    >>> choose_weight(0.2, 0.4).item(), choose_weight(0.5, 0.4).item()
    (0.5, 1.0)
    """
    return jnp.minimum(accuracy / confidence, 1.0)


class Recipe(NamedTuple):
    """How a head is fitted."""

    kind: str  # of `HEADS`
    classes: int
    match: str  # the source's map
    strength: float  # of "logistic"


@functools.partial(jax.jit, static_argnames="recipe")
def fit_head(
    examples: Examples, target: tuple[jax.Array, jax.Array], recipe: Recipe
) -> tuple[PyTree, PyTree]:
    """A head for target features, whose `moments` are given, and the same for source features."""
    source = weighted_moments(examples.inputs, examples.weight)
    to_target = domain_map(source, target, recipe.match)
    if recipe.kind == "gda":
        found = fit_gda(examples, recipe.classes, to_target, source)
    else:
        found, _ = fit_logistic(examples, recipe.classes, recipe.strength, to_target, source[1])
    return found, on_source(found, to_target)


def held_out_logits(
    x: jax.Array, labels: jax.Array, target: tuple[jax.Array, jax.Array], recipe: Recipe, folds: int
) -> tuple[jax.Array, jax.Array]:
    """(logits, labels) of source examples, each by a head that was fitted without its fold.

    At most `HELD_OUT` examples, evenly spaced. ValueError: fewer examples than folds.
    """
    if len(x) < folds:
        raise ValueError(f"{len(x)} source examples for {folds} folds; give more of them.")
    step = -(-len(x) // HELD_OUT)
    x, labels = x[::step], labels[::step]
    fold, logits = fold_of(labels, folds), jnp.zeros((len(x), recipe.classes))
    for each in range(folds):
        others = Examples(x, labels, (fold != each).astype(jnp.float32))
        answers = linear_logits(fit_head(others, target, recipe)[1], x)
        logits = jnp.where((fold == each)[:, None], answers, logits)
    return logits, labels


@jax.jit
def blended(
    head: PyTree,
    own: PyTree,
    target: jax.Array,
    held_out: tuple[jax.Array, jax.Array],
    tau: jax.Array | float,
    weight: jax.Array | float | None,
) -> PyTree:
    """The blend of an aligned head and zero-shot's `own` head, and what was "chosen".

    `held_out` are the logits and labels of `held_out_logits`, `target` features [N, P]; a `weight`
    replaces that of `choose_weight`.
    """
    logits, labels = held_out
    accuracy = jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))
    confidence, factor = mean_confidence(own, target), calibration(logits, labels)
    w = choose_weight(accuracy, confidence) if weight is None else jnp.float32(weight)
    chosen = {"weight": w, "factor": factor, "accuracy": accuracy, "confidence": confidence}
    both = jax.tree.map(lambda a, b: a + w * factor * b, debiased(own, target, tau), head)
    return both | {"chosen": chosen}


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    kind: str = "logistic",
    weight: float | None = None,
    tau: float = 0.5,
    match: str = "coral",
    strength: float = 0.02,
    folds: int = 4,
) -> ClosedForm:
    """Debiased zero-shot and an aligned head of `HEADS`, with a weight chosen for the pair.

    Its parameters hold "chosen" too: the weight, the factor that calibrates the head, the head's
    accuracy on held-out source and zero-shot's confidence.

    Args:
      kind: of the head, "logistic" or "gda".
      weight: w in place of the chosen one; 0 is debiased zero-shot.
      tau: of debiasing.
      match, strength: of the head, as for `clipjax.adapt.logistic`.
      folds: of the source, each held out once.

    Raises:
      ValueError: an unknown head or map, a number out of range; in the fit, missing or empty
        parts, fewer source examples than folds, and for "gda" a class without source images.
    """
    check_match(match)
    check_tau(tau)
    if kind not in HEADS:
        raise ValueError(f"kind is {kind!r}; known: {', '.join(HEADS)}.")
    if strength <= 0 or folds < 2 or (weight is not None and weight < 0):
        raise ValueError("give a positive strength, at least 2 folds and a weight of at least 0.")
    recipe = Recipe(kind, len(classes.names), match, strength)

    def fit(data, texts):
        found = checked(data, recipe.classes, "source", "target")
        (x, labels), target = found["source"].values(), found["target"]["inputs"]
        if kind == "gda":
            check_counts(count_classes(labels, recipe.classes), texts.names)
        statistics = jax.jit(moments)(target)
        held_out = held_out_logits(x, labels, statistics, recipe, folds)
        head, _ = fit_head(every(x, labels), statistics, recipe)
        return {"blend": blended(head, zero_shot_head(texts), target, held_out, tau, weight)}

    each = EACH_CLASS if kind == "gda" else ""
    return ClosedForm(fit, predict_linear(classes), reads=("source", "target"), each_class=each)
