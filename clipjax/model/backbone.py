"""CLIP and its heads as the pure functions that methods take (`clipjax.adapt.method`)."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import Backbone, Classes, Head, Words, check_classes, class_weights
from clipjax.model.clip import CLIP, clamp_logit_scale, normalize
from clipjax.model.heads import Heads, as_model, init_heads, member_logits, predict
from clipjax.model.image_model import ImageModel, NoTexts

PyTree = Any
# tower -> pattern of its layer groups, and its parameters in the tree.
TOWERS = {"image": "clip/vision/.*", "text": "clip/(text/.*|logit_scale)"}
_PARTS = {
    "image": ("vision", "visual_projection"),
    "text": ("text", "text_projection", "logit_scale"),
}


def make_backbone(
    module: CLIP | ImageModel,
    look: Callable[[jax.Array, jax.Array | None], jax.Array],
    cached: Collection[str] = (),
    words: Mapping[str, Words] = {},
) -> Backbone:
    """Wrap a CLIP as pure functions over trees that hold its parameters as "clip".

    `look` maps (uint8 pixels [B, S, S, 3], rng or None) to the input of the image tower, augmented
    if there is an rng; `cached` are towers whose embeddings are made beforehand; `words` are texts
    that prompts start from. Of a model without a text tower whatever asks for texts, or their
    scale, raises ConfigError.
    """
    # A tree may hold one tower's parameters alone.
    images = module.clone(config=dataclasses.replace(module.config, text=None))

    def image(params, inputs, rng=None, prompts=None, deep=None):
        if "image" in cached:
            return inputs
        clip, more = {"params": params["clip"]}, {"prompts": prompts, "deep": deep}
        more = {key: value for key, value in more.items() if value is not None}
        return normalize(images.apply(clip, look(inputs, rng), **more, method="encode_image"))

    if module.config.text is None:
        absent = NoTexts().absent
        encode = {"image": image, "text": absent}
        return Backbone(encode, absent, absent, TOWERS, frozenset(cached), sizes=module.config)
    texts = module.clone(config=dataclasses.replace(module.config, vision=None))

    def text(params, tokens, embeddings=None, deep=None):
        clip = {"params": params["clip"]}
        return normalize(texts.apply(clip, tokens, embeddings, deep, method="encode_text"))

    def scale(params):
        return jnp.exp(clamp_logit_scale(params["clip"]["logit_scale"].astype(jnp.float32)))

    return Backbone(
        encode={"image": image, "text": text},
        scale=scale,
        embed_tokens=lambda params, tokens: params["clip"]["text"]["token_embedding"][tokens],
        towers=TOWERS,
        cached=frozenset(cached),
        sizes=module.config,
        words=words,
    )


def tower_params(clip_params: PyTree, towers: Collection[str]) -> PyTree:
    """Select the parameters of some towers; unused ones would be decayed and saved, never learn."""
    keys = [key for tower, parts in _PARTS.items() if tower in towers for key in parts]
    return {key: clip_params[key] for key in keys if key in clip_params}


def image_program(
    module: CLIP | ImageModel, normalised: Callable[[jax.Array], jax.Array]
) -> Callable[[PyTree, jax.Array], jax.Array]:
    """(params with "clip", uint8 pixels [B, S, S, 3]) -> embeddings [B, P]: one program for all.

    What else `params` hold, which differs between methods, is no argument of it.
    """
    encode = jax.jit(make_backbone(module, lambda pixels, rng: normalised(pixels)).encode["image"])
    own = lambda params: {"clip": tower_params(params["clip"], ("image",))}
    return lambda params, pixels: encode(own(params), pixels)


def make_head(heads: Heads, backbone: Backbone, classes: Classes) -> Head:
    """Make heads over a backbone: MLPs, or CLIP's text tower as classifier (`heads.text`)."""
    model = as_model(heads)
    example = np.zeros((1, np.shape(classes.weights)[-1]), np.float32)
    init = lambda rng: init_heads(heads, rng, example, classes.weights, classes.scale)

    def text_logits(params, embeddings, texts):
        weights = class_weights(backbone, params, texts.tokens)
        return backbone.scale(params) * embeddings @ weights.T

    def head_logits(function, params, embeddings, texts):
        check_classes(classes, texts)
        return function(heads, params, embeddings)

    if heads.text:
        model = model._replace(classify=lambda params, x: text_logits(params, x, classes))
        members = lambda params, x, texts: text_logits(params, x, texts)[None]
        towers, answer = ("text",), text_logits
    else:
        members = functools.partial(head_logits, member_logits)
        towers, answer = (), functools.partial(head_logits, predict)
    domains = 0 if heads.discriminator is None else heads.num_domains
    return Head(init, model, members, answer, towers, domains, heads.members)


def as_linear(module: CLIP, clip_params: PyTree, classes: Classes) -> tuple[Heads, PyTree]:
    """Return the text classifier as a linear head on image embeddings, (heads, parameters)."""
    backbone, params = make_backbone(module, lambda pixels, rng: pixels), {"clip": clip_params}
    kernel = backbone.scale(params) * class_weights(backbone, params, classes.tokens).T
    heads = Heads(num_classes=len(classes.names), class_bias=False)
    return heads, {"classifier": {"layer_0": {"kernel": kernel}}}
