"""Learned prompts (CoOp): context vectors instead of a template's words, everything else frozen."""

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.method import Method


def make_method(backbone, classes, *, length=2):
    width = lambda params: params["prompt"]["context"]

    def logits(params, inputs, texts, rng=None):
        tokens = jnp.asarray(texts.tokens)[:, 0]
        words = backbone.embed_tokens(params, tokens)
        context = jnp.broadcast_to(width(params), (len(words), length, words.shape[-1]))
        words = words.at[:, 1 : 1 + length].set(context)
        weights = backbone.encode["text"](params, tokens, words)
        return backbone.scale(params) * backbone.encode["image"](params, inputs, rng) @ weights.T

    def loss(params, batch, rng, progress):
        source = batch["source"]
        found = logits(params, source["inputs"], classes, rng)
        value = smoothed_cross_entropy(found, source["label"], weight=source.get("weight"))
        return value, {"class_loss": value}

    def init(rng, hidden=24):
        return {"prompt": {"context": 0.02 * jax.random.normal(rng, (length, hidden))}}

    return Method(init, loss, logits, towers=("image", "text"))
