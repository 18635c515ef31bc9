"""FLYP: fine-tune as CLIP was trained, images against prompts of their classes.

Goyal et al. 2023 (arXiv 2212.00638): symmetric InfoNCE over the batch, each image with one prompt
of its class, drawn anew in every step. The other images of a class count as negatives, as in the
authors' code. Use heads = {"text": True}: the tuned text tower classifies, by all prompts.
"""

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes, Head, Method, on_backbone, with_head

SAME_CLASS = ("negatives", "positives", "ignored")


def paired_loss(
    logits: jax.Array, same: jax.Array, same_class: str = "negatives", weight=None
) -> jax.Array:
    """Symmetric cross-entropy of a batch's similarities, in nats, float32 [].

    Args:
      logits: scaled similarities of images and texts, float [B, B]; row i of both is a pair.
      same: bool [B, B], whether the text of j is that of i.
      same_class: what such others are: "negatives" (FLYP), "positives" that share the target
        (UniCL, Yang et al. 2022), or "ignored", in no denominator.
      weight: float [B] whose mean is 1, 0 for padding, which is then in no denominator either.

    >>> logits, same = jnp.log(jnp.array([[2.0, 1.0], [1.0, 2.0]])), jnp.ones((2, 2), bool)
    >>> [round(float(paired_loss(logits, same, kind)), 4) for kind in SAME_CLASS]
    [0.4055, 0.752, 0.0]
    """
    weight = jnp.ones(len(logits)) if weight is None else weight
    pair = jnp.eye(len(logits), dtype=bool)
    there = jnp.broadcast_to(weight > 0, logits.shape) | pair
    if same_class == "ignored":
        there &= ~same | pair
    positives = (same & there | pair if same_class == "positives" else pair).astype(jnp.float32)
    targets = positives / positives.sum(axis=1, keepdims=True)

    def one_way(logits):
        logp = jax.nn.log_softmax(jnp.where(there, logits, -jnp.inf), axis=1)
        return jnp.mean(-jnp.sum(targets * jnp.where(there, logp, 0.0), axis=1) * weight)

    logits = logits.astype(jnp.float32)
    return 0.5 * (one_way(logits) + one_way(logits.T))


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, same_class: str = "negatives"
) -> Method:
    """FLYP on a backbone; classes whose prompts are all the same are one.

    ValueError: an unknown `same_class`, or heads without a text tower.
    """
    if same_class not in SAME_CLASS:
        raise ValueError(f"unknown same_class {same_class!r}; known: {', '.join(SAME_CLASS)}.")
    if "text" not in head.towers:
        raise ValueError("flyp compares with prompts; use heads = {'text': True}.")
    model = on_backbone(backbone, head)

    def loss(params, batch, rng, progress):
        source = check_domain(weigh(batch), "source", "inputs", "label")
        look, draw = jax.random.split(rng)
        tokens = np.asarray(classes.tokens)
        _, text_of = np.unique(tokens.reshape(len(tokens), -1), axis=0, return_inverse=True)
        label, weight = source["label"], source.get("weight")
        which = jax.random.randint(draw, label.shape, 0, tokens.shape[1])
        image = model.features(params, source["inputs"], look)
        text = backbone.encode["text"](params, jnp.asarray(tokens)[label, which])
        scale, ids = backbone.scale(params), jnp.asarray(text_of.reshape(-1))[label]
        logits = scale * image @ text.T
        value = paired_loss(logits, ids[:, None] == ids[None], same_class, weight)
        hit = ids[jnp.argmax(logits, axis=1)] == ids
        weight = jnp.ones(len(label)) if weight is None else weight
        return value, {"scale": scale, "batch_accuracy": jnp.mean(hit * weight)}

    return with_head(backbone, head, loss, per_example=False)
