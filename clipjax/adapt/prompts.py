"""Zero-shot with other texts: the prompt set that unlabelled target images choose, or all of them.

A set that fits a style by its name may fit a CLIP badly, and nobody has labels to see it. So sets
are scored by the mutual information of image and answer on the target's images: the entropy of the
mean answer minus the mean entropy (Shi & Sha 2012, arXiv 1206.6438), which wants answers that are
certain and diverse. An ensemble needs no choice: the mean of the sets' class weights (Radford et
al. 2021, section 3.1.4, of single prompts).
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.debias import check_tau, debiased
from clipjax.adapt.linear import (
    checked,
    linear_head,
    linear_logits,
    mean_probability,
    predict_linear,
)
from clipjax.adapt.method import PROMPTS, Backbone, Classes, ClosedForm
from clipjax.adapt.moments import sum_blocks

PyTree = Any
TAKES = ("chosen", "texts", "logits")
# Those of `clipjax.model.prompts` but "ensemble", whose 80 texts a class take long to encode.
SETS = (
    "name", "simple", "drawings", "real", "sketch", "quickdraw", "painting", "clipart", "infograph",
    "cartoon", "render", "flat", "stencil",
)  # fmt: skip


def information(head: PyTree, x: jax.Array) -> jax.Array:
    """Mutual information of image and answer of a linear head on features [N, P], in nats."""

    def part(weight, rows):
        logp = jax.nn.log_softmax(linear_logits(head, rows))
        return weight @ -jnp.sum(jnp.exp(logp) * logp, axis=1)

    mean = mean_probability(head, x)
    return -jnp.sum(mean * jnp.log(mean)) - sum_blocks(part, (x,)) / len(x)


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    take: str = "chosen",
    sets: tuple[str, ...] = SETS,
    tau: float = 0.0,
) -> ClosedForm:
    """Linear heads of prompt sets, as variants.

    "chosen" is zero-shot with the set of the most `information` on the target; "texts" has the mean
    of the sets' class weights, each again of length 1, and "logits" the mean of their logits, which
    is the same without that length. Parameters hold "scores" too, float32 [sets], in their order.

    Args:
      take: the variant that is the method's own result.
      sets: names of prompt sets, or templates with {}, two at least.
      tau: of debiasing each head by the target's mean answer, as `clipjax.adapt.debias`.

    Raises:
      ValueError: an unknown `take`, fewer than two sets, a set twice, a negative tau; in the fit,
        no target images.
    """
    check_tau(tau)
    if take not in TAKES:
        raise ValueError(f"take is {take!r}; known: {', '.join(TAKES)}.")
    if isinstance(sets, str) or len(sets) < 2 or len(set(sets)) < len(sets):
        raise ValueError(f"sets is {sets!r}; give a tuple of two prompt sets or more, each once.")

    @jax.jit
    def solve(target, weights, scale):
        head = lambda w: linear_head(scale * w.T, jnp.zeros(w.shape[0]))
        scores = jnp.stack([information(head(w), target) for w in weights])
        mean = jnp.mean(weights, axis=0)
        length = jnp.linalg.norm(mean, axis=1, keepdims=True)
        texts = mean / jnp.maximum(length, 1e-12)
        found = {"chosen": weights[jnp.argmax(scores)], "texts": texts, "logits": mean}
        made = {name: debiased(head(w), target, tau) for name, w in found.items()}
        return {name: params | {"scores": scores} for name, params in made.items()}

    def fit(data, texts):
        target = checked(data, len(texts.names), "target")["target"]["inputs"]
        weights = jnp.stack([jnp.asarray(data[PROMPTS][name], jnp.float32) for name in sets])
        made = solve(target, weights, texts.scale)
        return {name: made[name] for name in (take, *(x for x in TAKES if x != take))}

    reads = ("source", "target", *(f"{PROMPTS}/{name}" for name in sets))
    return ClosedForm(fit, predict_linear(classes), reads=reads)
