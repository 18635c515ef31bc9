"""A trained method as a CLIP with heads alone: what an export can hold of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt import align
from clipjax.adapt.linear import linear_head
from clipjax.adapt.step import merge
from clipjax.errors import ConfigError
from clipjax.evaluate.choice import ZERO_SHOT
from clipjax.model.backbone import as_linear
from clipjax.model.clip import tell_clamped
from clipjax.model.heads import Heads, fold_affine, predict
from clipjax.model.hf.load import load_clip
from clipjax.study.encode import Encoded
from clipjax.study.trainer import trainers

PyTree = Any
_PARTS = ("clip", "adapter", "classifier", "discriminator")

_REMEDY = "export another method, or restore this one by `clipjax.study.run` of the same workdir"
_LINEAR = {"classifier", "layer_0"}  # what a closed form's linear head is made of


class Beyond(ConfigError):
    """A method answers with more than any export holds."""


class Folded(NamedTuple):
    """What answers as a method does, on embeddings of length 1."""

    clip: PyTree  # parameters of the CLIP, in the dtype they were stored in
    heads: Heads
    params: PyTree  # of the heads
    trained_encoder: bool
    texts: bool  # whether the CLIP's own text tower makes the same classifier of the prompts


def folded(texts: Encoded, workdir: Any, method: str, position: int, variant: str = "") -> Folded:
    """Return a method of a finished run, or zero-shot, as heads; "" is the method's own variant.

    Heads are taken as they are, behind an alignment's map, which goes into their first layer, and
    CLIP's text classifier as the class embeddings that it gives; factors beside the towers' kernels
    are merged with these. Anything else (learned prompts, a closed form of its own) is measured:
    where its logits are affine in the embedding, it is a linear head. Beyond: it is more than that.
    """
    plan = texts.plan
    stored = load_clip(plan.model, image_size=plan.study.encoder.image_size or None)[1]
    # The parameters that were compared, each in the dtype it is stored in.
    own = jax.tree.map(lambda value, like: value.astype(like.dtype), plan.params, stored)
    one_prompt = np.shape(plan.tokens)[1] == 1
    if method == ZERO_SHOT:
        heads = Heads(len(plan.dataset.classes), class_bias=False)
        kernel = texts.scale * jnp.asarray(texts.text_weights, jnp.float32).T
        same = one_prompt and not tell_clamped(float(own["logit_scale"]))
        return Folded(own, heads, {"classifier": {"layer_0": {"kernel": kernel}}}, False, same)
    made = plan.methods[method]
    merged = getattr(made.kind, "merged", None) if made.config.align == "none" else None
    if "image" in getattr(made.kind, "alters", ()) and merged is None:
        told = f"{method!r} alters the image tower by parameters of its own, as learned tokens"
        raise Beyond(f"{told}, which no export holds; {_REMEDY}.")
    (trainer,) = (t for t in trainers(texts, workdir) if method in t.names)
    trained = trainer.restored()[method]
    params = trained.variants[variant] if variant else trained.params
    whole = jax.tree.map(lambda x: x[position], params)
    one = {key: value for key, value in whole.items() if key in _PARTS}
    tuned = one.pop("clip", {})
    clip, heads, by_texts = _overlay(own, tuned), made.heads, False
    if merged is not None:
        clip = merged({**whole, "clip": clip})["clip"]
        by_texts = one_prompt and not tell_clamped(float(clip["logit_scale"]))
        heads, one = as_linear(plan.module, clip, texts.classes)
        return Folded(clip, heads, one, "image" in made.kind.alters, by_texts)
    layers = one.get("classifier")
    if heads is None and isinstance(layers, dict) and set(one) | set(layers) == _LINEAR:
        heads = Heads(len(plan.dataset.classes), class_bias="bias" in layers["layer_0"])
    aligned, encoder = made.config.align != "none", bool(tuned.get("vision"))
    if heads is not None:
        if heads.text:
            by_texts = not aligned and one_prompt and not tell_clamped(float(clip["logit_scale"]))
            heads, one = as_linear(plan.module, clip, texts.classes)
        if aligned:
            maps = whole[align.OWN]["target"]
            heads, one = fold_affine(heads, one, maps["mean"], maps["map"])
        if set(_PARTS).issuperset(whole):
            return Folded(clip, heads, one, encoder, by_texts)
    # It may compute more than heads do.
    params, width = merge(whole, trained.shared), plan.clip_config.projection_dim
    answer = lambda x: trained.answer(params, x)[0]
    if heads is not None and _alike(answer, lambda x: predict(heads, one, x), width):
        return Folded(clip, heads, one, encoder, by_texts)
    if (found := as_affine(answer, width)) is None:
        told = f"{method!r} answers with more than its heads (with {', '.join(sorted(whole))})"
        fault = "and not affinely in the embedding, as texts made for each image"
        raise Beyond(f"{told} {fault}: no export holds it; {_REMEDY}.")
    return Folded(clip, Heads(len(plan.dataset.classes)), found, encoder, False)


def as_affine(answer: Callable[[jax.Array], jax.Array], width: int) -> PyTree | None:
    """Return the linear head that gives the probabilities of `answer`; None if there is none.

    `answer` maps embeddings of length 1, [N, P], to logits; it is asked for both ends of every
    axis, and the head compared with it between them. Logits up to a constant of each image count:
    logarithms of probabilities are affine where logits are.

    >>> logits = lambda x: jax.nn.log_softmax(x @ jnp.array([[1.0, 2.0, 4.0], [3.0, 5.0, 9.0]]) - 1)
    >>> (3 * as_affine(logits, 2)["classifier"]["layer_0"]["kernel"]).round(3).tolist()
    [[-4.0, -1.0, 5.0], [-8.0, -2.0, 10.0]]
    >>> as_affine(lambda x: logits(x) ** 2, 2)
    """
    ends = np.eye(width, dtype=np.float32)
    plus, minus = (_centred(answer(each)) for each in (ends, -ends))
    kernel, bias = (plus - minus) / 2, ((plus + minus) / 2).mean(axis=0)
    head = linear_head(jnp.asarray(kernel), jnp.asarray(bias))
    return head if _alike(answer, lambda x: x @ kernel + bias, width) else None


def _centred(logits: Any) -> np.ndarray:
    logits = np.asarray(logits, np.float32)
    return logits - logits.mean(axis=1, keepdims=True)


def _alike(answer: Callable, other: Callable, width: int) -> bool:
    """Whether two functions of embeddings give the same probabilities."""
    x = np.random.default_rng(0).standard_normal((64, width)).astype(np.float32)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    wanted, found = _centred(answer(x)), _centred(other(x))
    return np.allclose(wanted, found, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def _overlay(params: dict, over: dict) -> dict:
    """Replace some parameters, dict by dict."""
    both = {k: _overlay(params[k], v) if isinstance(v, dict) else v for k, v in over.items()}
    return {**params, **both}
