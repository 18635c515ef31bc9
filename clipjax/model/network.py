"""An encoder and its heads as one model, from pixels or from cached features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.dann import DannModel
from clipjax.model.clip import CLIP, normalize
from clipjax.model.heads import Heads, as_model, member_logits, predict

PyTree = Any


class Network(NamedTuple):
    """Pure functions over one tree: heads beside "clip" (what of the encoder a method needs)."""

    model: DannModel  # inputs: CLIP features
    pixel_model: DannModel  # inputs: uint8 [B, S, S, 3]; params["clip"] encodes them
    encode: Callable[[PyTree, jax.Array], jax.Array]  # (params, uint8 pixels) -> features [B, P]
    predict: Callable[[PyTree, jax.Array], jax.Array]  # (params, features) -> logits [B, K]
    members: Callable[[PyTree, jax.Array], jax.Array]  # (params, features) -> logits [M, B, K]


def needed_clip(heads: Heads, clip_params: PyTree) -> PyTree:
    """The part of CLIP's parameters that a method with these heads uses.

    What it does not use must not be in its tree: it would be decayed, saved and never learn.
    """
    if heads.text:
        return clip_params
    return {key: clip_params[key] for key in ("vision", "visual_projection")}


def class_weights(module: CLIP, clip_params: PyTree, tokens: np.ndarray) -> jax.Array:
    """Class weights from prompts as a function of the text tower, [K, prompts, T] -> [K, P].

    Normalise, mean, normalise, as `clipjax.model.text.zero_shot_classifier`, but differentiable.
    """
    classes, prompts, length = tokens.shape
    flat = jnp.asarray(tokens.reshape(-1, length))
    embedded = normalize(module.apply({"params": clip_params}, flat, method="encode_text"))
    return normalize(embedded.reshape(classes, prompts, -1).mean(axis=1))


def as_linear(module: CLIP, clip_params: PyTree, tokens: np.ndarray) -> tuple[Heads, PyTree]:
    """The text classifier as a linear head on image features, (heads, parameters)."""
    weights = class_weights(module, clip_params, tokens)
    scale = module.apply({"params": clip_params}, method="scale")
    heads = Heads(num_classes=len(tokens), class_bias=False)
    return heads, {"classifier": {"layer_0": {"kernel": scale * weights.T}}}


def make_network(
    module: CLIP,
    look: Callable[[jax.Array, jax.Array | None], jax.Array],
    heads: Heads,
    *,
    tokens: np.ndarray | None = None,
) -> Network:
    """Joins an encoder and heads.

    Args:
      module: the CLIP; heads without `text` use its image tower only.
      look: (uint8 pixels, rng or None) -> what the tower reads; augmented where there is an rng.
      heads: what sits on its features.
      tokens: int32 [K, prompts, T], the classes' prompts, for heads with `text`.
    """
    if not heads.text:
        config = dataclasses.replace(module.config, text=None)
        module = module.clone(config=config)
    on_features = as_model(heads)
    if heads.text:
        on_features = on_features._replace(classify=_text_classifier(module, tokens))

    def embed(params, images, rng=None):
        clip = {"params": params["clip"]}
        return normalize(module.apply(clip, look(images, rng), method="encode_image"))

    def features(params, images, rng=None):
        crop, drop = (None, None) if rng is None else jax.random.split(rng)
        return on_features.features(params, embed(params, images, crop), drop)

    if heads.text:
        members = lambda params, x: on_features.classify(params, x)[None]  # noqa: E731
        answer = on_features.classify
    else:
        members = lambda params, x: member_logits(heads, params, x)  # noqa: E731
        answer = lambda params, x: predict(heads, params, x)  # noqa: E731
    return Network(on_features, on_features._replace(features=features), embed, answer, members)


def _text_classifier(module: CLIP, tokens: np.ndarray | None) -> Callable:
    if tokens is None:
        raise ValueError("heads with text=True need the classes' prompts as tokens.")

    def classify(params, features):
        scale = module.apply({"params": params["clip"]}, method="scale")
        return scale * features @ class_weights(module, params["clip"], tokens).T

    return classify
