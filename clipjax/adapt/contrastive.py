"""CLIP's contrastive stage: symmetric InfoNCE with a learned temperature.

Radford et al. 2021 (arXiv 2103.00020, figure 3). Where several texts of a batch are true of one
image (equal captions, or a hypernym that also fits), all of them count as positives, as in UniCL
(Yang et al. 2022, arXiv 2204.03610, equation 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import Axis
from clipjax.adapt.method import Backbone, Classes, Method, class_weights
from clipjax.adapt.step import Loss


class TwoTowers(NamedTuple):
    """The pure functions contrastive training needs; any user's model fits."""

    encode_image: Callable  # (params, inputs, rng) -> [B, P], normalised
    encode_text: Callable  # (params, tokens) -> [B, P], normalised
    scale: Callable  # (params) -> scalar factor on cosine similarities


def info_nce(
    image: jax.Array, text: jax.Array, scale: jax.Array, positives: jax.Array | None = None
) -> jax.Array:
    """Symmetric cross-entropy over the similarities of a batch.

    Args:
      image: normalised embeddings, float [B, P].
      text: normalised embeddings, float [B, P]; row i belongs to image i.
      scale: factor on the cosine similarities (inverse temperature), scalar.
      positives: bool [B, B], [i, j] says that text j is true of image i; the diagonal when None.

    Returns:
      The mean of the image-to-text and the text-to-image loss, in nats.

    >>> import jax.numpy as jnp
    >>> round(float(info_nce(jnp.eye(2), jnp.eye(2), 1.0)), 4)  # log(1 + 1/e)
    0.3133
    """
    logits = (scale * image @ text.T).astype(jnp.float32)
    if positives is None:
        positives = jnp.eye(len(logits), dtype=bool)
    return 0.5 * (_one_way(logits, positives) + _one_way(logits.T, positives.T))


def _one_way(logits: jax.Array, positives: jax.Array) -> jax.Array:
    """Cross-entropy of each row of logits [N, B] with its positives [N, B], the mean of it."""
    positives = positives.astype(jnp.float32)
    targets = positives / jnp.maximum(positives.sum(axis=1, keepdims=True), 1.0)
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits, axis=1), axis=1))


def true_pairs(text_id: jax.Array, image_text_ids: jax.Array) -> jax.Array:
    """Which texts of a batch are true of which images.

    Args:
      text_id: int [B], the number of the text drawn for each image.
      image_text_ids: int [B, K], the numbers of all texts known to be true of it, padded with -1.

    >>> import jax.numpy as jnp
    >>> true_pairs(jnp.array([3, 5]), jnp.array([[3, 5], [5, -1]])).tolist()
    [[True, True], [False, True]]
    """
    return jnp.any(image_text_ids[:, None, :] == text_id[None, :, None], axis=-1)


def make_loss(model: TwoTowers, axis_name: Axis = None) -> Loss:
    """The method: batch = {"inputs", "tokens" [B, T], "text_id" [B], "text_ids" [B, K]}.

    With `axis_name`, the axis that `jax.pmap` or `jax.shard_map` maps, a device compares its own
    images with the texts of all devices and its own texts with all images; the mean over devices is
    the whole batch's loss. (Under `jax.jit` a batch that is cut over devices needs nothing of
    this.)
    """

    def loss(params, batch, rng, progress):
        del progress
        image = model.encode_image(params, batch["inputs"], rng)
        text = model.encode_text(params, batch["tokens"])
        scale, ids, known = model.scale(params), batch["text_id"], batch["text_ids"]
        if axis_name is None:
            texts, positives = text, true_pairs(ids, known)
            value = info_nce(image, text, scale, positives)
        else:
            # The gradient of a gathered row is the sum of what all devices make of it.
            images, texts, all_ids, all_known = jax.lax.all_gather(
                (image, text, ids, known), axis_name, tiled=True
            )
            positives, backwards = true_pairs(all_ids, known), true_pairs(ids, all_known).T
            value = 0.5 * _one_way((scale * image @ texts.T).astype(jnp.float32), positives)
            value += 0.5 * _one_way((scale * text @ images.T).astype(jnp.float32), backwards)
        best = jnp.argmax(image @ texts.T, axis=1)
        hit = jnp.take_along_axis(positives, best[:, None], axis=1)
        return value, {"scale": scale, "batch_accuracy": jnp.mean(hit)}

    return loss


def make_method(
    backbone: Backbone, classes: Classes | None = None, *, axis_name: Axis = None
) -> Method:
    """Contrastive training of both towers of a backbone; no study brings the pairs it reads.

    Its predictions are zero-shot classification by the classes' prompts. `axis_name`: as
    `make_loss`.
    """
    del classes
    towers = TwoTowers(
        backbone.encode["image"],
        lambda params, tokens: backbone.encode["text"](params, tokens),
        backbone.scale,
    )

    def predict(params, inputs, texts):
        weights = class_weights(backbone, params, texts.tokens)
        return backbone.scale(params) * towers.encode_image(params, inputs, None) @ weights.T

    return Method(
        init=lambda rng: {},
        loss=make_loss(towers, axis_name),
        predict=predict,
        reads=("pairs",),
        towers=("image", "text"),
        per_example=False,
    )
