"""CLIP-LoRA: low-rank factors beside the attention projections of both towers, which stay.

Zanella and Ben Ayed 2024 (CVPRW, arXiv 2405.18541) and their code's loralib, after Hu et al. 2021
(arXiv 2106.09685): a projection with kernel W [D, M] becomes

    x W + c drop(x) A B,  A [D, r], B [r, M],  c = strength / sqrt(r)

A starts as torch's linear layers do, uniform within 1 / sqrt(D), B at 0, so that the start is CLIP
itself. `scaling="standard"` is LoRA's own and the paper's, c = strength / r; the code has the root
(Kalajdzievski 2023, arXiv 2312.03732). Training is by cross-entropy of both towers on one template.
Without dropout the factors are merged, W + c A B, as a function of the parameters: nothing is ever
added to W and taken away again, and an export holds the sum.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.choice import check_several
from clipjax.adapt.losses import class_loss
from clipjax.adapt.method import Backbone, Classes, Compared, Method, class_weights, in_two_steps

PyTree = Any
SCALINGS: dict[str, Callable[[int], float]] = {"rs": lambda r: r**-0.5, "standard": lambda r: 1 / r}
TOWERS = {"image": "vision", "text": "text"}  # -> its name in the parameters
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def places(lora: PyTree) -> Iterator[tuple[tuple[str, ...], PyTree]]:
    """Where factors are, as (tower, block, projection), and these; in the order of jax.tree."""
    for tower, blocks in sorted(lora.items()):
        for block, projections in sorted(blocks.items()):
            for projection, factors in sorted(projections.items()):
                yield (tower, block, projection), factors


def changed(clip: PyTree, lora: PyTree, change: Callable[[PyTree, PyTree, int], PyTree]) -> PyTree:
    """CLIP's parameters with `change(layer, factors, number)` in place of projections.

    Towers that are not among the parameters are left out.
    """
    clip = dict(clip)
    for number, ((tower, block, projection), factors) in enumerate(places(lora)):
        if tower in clip:
            inside = clip[tower][block]["self_attn"]
            layer = change(inside[projection], factors, number)
            attention = {**inside, projection: layer}
            whole = {**clip[tower][block], "self_attn": attention}
            clip[tower] = {**clip[tower], block: whole}
    return clip


def merged(params: PyTree, factor: float) -> PyTree:
    """Parameters whose towers have `factor` times the products of the factors in their kernels."""

    def add(layer, factors, _):
        kernel = layer["kernel"]
        more = factor * jnp.matmul(factors["a"], factors["b"], precision="highest")
        return {**layer, "kernel": (kernel.astype(jnp.float32) + more).astype(kernel.dtype)}

    return {**params, "clip": changed(params["clip"], params["lora"], add)}


def branched(params: PyTree, factor: float, rng: jax.Array, dropout: float) -> PyTree:
    """Parameters whose towers run the factors as branches with dropout (`Dense`)."""

    def put(layer, factors, number):
        key = jax.random.key_data(jax.random.fold_in(rng, number))
        branch = {
            "a": factors["a"],
            "b": factor * factors["b"],
            "key": key,
            "dropout": jnp.float32(dropout),
        }
        return {**layer, "branch": branch}

    return {**params, "clip": changed(params["clip"], params["lora"], put)}


def _check_names(scaling: str, tower: str, projections: tuple[str, ...]) -> None:
    """Raise ValueError for unknown names."""
    if scaling not in SCALINGS:
        raise ValueError(f"scaling is {scaling!r}; known: {', '.join(SCALINGS)}.")
    if tower not in ("both", *TOWERS):
        raise ValueError(f"tower is {tower!r}; known: both, {', '.join(TOWERS)}.")
    if not projections or isinstance(projections, str) or set(projections) - set(PROJECTIONS):
        known = ", ".join(PROJECTIONS)
        raise ValueError(f"projections is {projections!r}; give a tuple of {known}.")


def _check_numbers(
    backbone: Backbone, alters: tuple[str, ...], rank: int, strength: float, dropout: float
) -> None:
    """Raise ValueError for numbers out of range; a tower's width is known once a model is open."""
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is {rank!r}; give a whole number, 1 or more.")
    if strength <= 0:
        raise ValueError(f"strength is {strength}; give a positive number, or nothing is learned.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; give a share of 0 to below 1.")
    for each in alters if backbone.sizes else ():
        width = getattr(backbone.sizes, TOWERS[each]).hidden_size
        if rank > width:
            told = f"rank is {rank}, and the {each} tower's projections are of rank {width}"
            raise ValueError(f"{told}; give a lower one.")


def _factors(
    rng: jax.Array, sizes: Any, alters: tuple[str, ...], projections: tuple[str, ...], rank: int
) -> PyTree:
    """Factors at the start: tower -> block -> projection -> {"a": [D, r], "b": zeros [r, D]}."""
    lora, number = {}, 0
    for part in (TOWERS[each] for each in alters):
        size = getattr(sizes, part)
        width, bound = size.hidden_size, size.hidden_size**-0.5
        blocks = lora.setdefault(part, {})
        for i in range(size.num_hidden_layers):
            made = blocks.setdefault(f"block_{i}", {})
            for name in projections:
                key, number = jax.random.fold_in(rng, number), number + 1
                a = jax.random.uniform(key, (width, rank), jnp.float32, -bound, bound)
                made[name] = {"a": a, "b": jnp.zeros((rank, width))}
    return lora


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    rank: int = 2,
    strength: float = 1.0,
    scaling: str = "rs",
    dropout: float = 0.25,
    tower: str = "both",
    projections: tuple[str, ...] = PROJECTIONS[:3],
    label_smoothing: float = 0.0,
) -> Method:
    """Low-rank factors, trained by cross-entropy; it takes any classes by their texts.

    Args:
      rank: r.
      strength: the paper's alpha.
      scaling: "rs", strength / sqrt(rank), or "standard", strength / rank.
      dropout: share of a branch's inputs that are dropped in training; 0 merges there too.
      tower: "both", "image" or "text"; with "text" image features are cached.
      projections: of `PROJECTIONS`, in every block.
      label_smoothing: of the cross-entropy.

    ValueError: an unknown name, numbers out of range, a rank above a tower's width, one class.
    """
    check_several(classes)
    _check_names(scaling, tower, projections)
    alters = tuple(TOWERS) if tower == "both" else (tower,)
    _check_numbers(backbone, alters, rank, strength, dropout)
    factor = strength * SCALINGS[scaling](rank)
    embed = backbone.encode["image"]
    init = lambda rng: {"lora": _factors(rng, backbone.sizes, alters, projections, rank)}

    def effective(params, rng=None):
        if rng is None or not dropout:
            return merged(params, factor)
        return branched(params, factor, jax.random.fold_in(rng, 1), dropout)

    def compared(params, inputs, texts, rng=None, label=None):
        whole = effective(params, rng)
        text = class_weights(backbone, whole, texts.tokens)
        return Compared(embed(whole, inputs, rng), text, label, backbone.scale(params))

    def compare(params, source, rng):
        return compared(params, source["inputs"], classes, rng, source["label"])

    def judge(params, seen, batch, rng, progress):
        return class_loss(seen.logits, batch["source"], label_smoothing)

    return Method(
        init=init,
        loss=in_two_steps(compare, judge),
        predict=lambda *given: compared(*given).logits,
        features=lambda params, inputs, rng=None: embed(effective(params), inputs, rng),
        compare=compare,
        judge=judge,
        embed=lambda params, pixels: embed(effective(params), pixels),
        towers=("image", "text"),
        alters=alters,
        merged=lambda params: merged(params, factor),
    )
