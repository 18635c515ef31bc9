"""CLIP's contrastive stage: symmetric InfoNCE with a learned temperature.

Radford et al. 2021 (arXiv 2103.00020, figure 3). All texts of a batch that are true of an image
count as positives, as in UniCL (Yang et al. 2022, arXiv 2204.03610, equation 3). A teacher's
features of the images can be a second target: what a linear map of the embeddings must give.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import Axis
from clipjax.adapt.method import Backbone, Classes, Method, class_weights
from clipjax.adapt.step import Loss

PyTree = Any


class TwoTowers(NamedTuple):
    """The pure functions that contrastive training needs."""

    encode_image: Callable  # (params, inputs, rng) -> [B, P], normalised
    encode_text: Callable  # (params, tokens) -> [B, P], normalised
    scale: Callable  # (params) -> scalar factor on cosine similarities


def info_nce(
    image: jax.Array, text: jax.Array, scale: jax.Array, positives: jax.Array | None = None
) -> jax.Array:
    """Symmetric cross-entropy over the similarities of a batch, in nats.

    Args:
      image, text: normalised embeddings, float [B, P]; row i of both is a pair.
      scale: factor on the cosine similarities (inverse temperature), scalar.
      positives: bool [B, B], whether text j is true of image i; the diagonal by default.

    >>> import jax.numpy as jnp
    >>> round(float(info_nce(jnp.eye(2), jnp.eye(2), 1.0)), 4)  # log(1 + 1/e)
    0.3133
    """
    logits = (scale * image @ text.T).astype(jnp.float32)
    if positives is None:
        positives = jnp.eye(len(logits), dtype=bool)
    return 0.5 * (_one_way(logits, positives) + _one_way(logits.T, positives.T))


def _one_way(logits: jax.Array, positives: jax.Array) -> jax.Array:
    """Mean cross-entropy of rows of logits [N, B] with their positives [N, B]."""
    positives = positives.astype(jnp.float32)
    targets = positives / jnp.maximum(positives.sum(axis=1, keepdims=True), 1.0)
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits, axis=1), axis=1))


def true_pairs(text_id: jax.Array, image_text_ids: jax.Array) -> jax.Array:
    """Bool [images, texts]: whether a text of the batch is true of an image.

    `text_id` int [B] is the number of the text drawn for each image, `image_text_ids` int [B, K]
    are the numbers of all that are known to be true of it, padded with -1.

    >>> import jax.numpy as jnp
    >>> true_pairs(jnp.array([3, 5]), jnp.array([[3, 5], [5, -1]])).tolist()
    [[True, True], [False, True]]
    """
    return jnp.any(image_text_ids[:, None, :] == text_id[None, :, None], axis=-1)


def feature_distance(
    params: PyTree, image: jax.Array, teacher: jax.Array, taught: jax.Array
) -> jax.Array:
    """Mean squared distance of a linear map of embeddings [B, P] to teacher features [B, D].

    Images whose `taught`, bool [B], is False count as 0; `params` is {"kernel" [P, D], "bias"}.
    """
    apart = jnp.sum((image @ params["kernel"] + params["bias"] - teacher) ** 2, axis=1)
    return jnp.mean(jnp.where(taught, apart, 0.0))


def make_loss(model: TwoTowers, axis_name: Axis = None, distill: float = 0.0) -> Loss:
    """The loss on batch = {"inputs", "tokens" [B, T], "text_id" [B], "text_ids" [B, K]}.

    `distill` times `feature_distance` is added, of `params["distill"]` and the batch's "teacher"
    [B, D] and "taught" [B].

    With `axis_name`, the axis that `jax.pmap` or `jax.shard_map` maps, each device compares its own
    images and texts with those of all devices; the mean over devices is the whole batch's loss.
    """

    def loss(params, batch, rng, progress):
        image = model.encode_image(params, batch["inputs"], rng)
        text = model.encode_text(params, batch["tokens"])
        scale, ids, known = model.scale(params), batch["text_id"], batch["text_ids"]
        if axis_name is None:
            texts, positives = text, true_pairs(ids, known)
            value = info_nce(image, text, scale, positives)
        else:
            own = (image, text, ids, known)
            images, texts, all_ids, all_known = jax.lax.all_gather(own, axis_name, tiled=True)
            positives, backwards = true_pairs(all_ids, known), true_pairs(ids, all_known).T
            value = 0.5 * _one_way((scale * image @ texts.T).astype(jnp.float32), positives)
            value += 0.5 * _one_way((scale * text @ images.T).astype(jnp.float32), backwards)
        best = jnp.argmax(image @ texts.T, axis=1)
        hit = jnp.take_along_axis(positives, best[:, None], axis=1)
        metrics = {"scale": scale, "batch_accuracy": jnp.mean(hit)}
        if distill:
            teacher = batch["teacher"], batch["taught"]
            metrics["apart"] = feature_distance(params["distill"], image, *teacher)
            value += distill * metrics["apart"]
        return value, metrics

    return loss


def make_method(
    backbone: Backbone,
    classes: Classes | None = None,
    *,
    axis_name: Axis = None,
    distill: float = 0.0,
    widths: tuple[int, int] = (0, 0),
) -> Method:
    """Contrastive training of a backbone's towers, on pairs; predicts by the classes' prompts.

    With `distill`, `widths` are those of the embeddings and of the teacher's features.
    """
    towers = TwoTowers(backbone.encode["image"], backbone.encode["text"], backbone.scale)

    def predict(params, inputs, texts):
        weights = class_weights(backbone, params, texts.tokens)
        return backbone.scale(params) * towers.encode_image(params, inputs, None) @ weights.T

    def init(rng):
        linear = {"kernel": jnp.zeros(widths), "bias": jnp.zeros(widths[1:])}
        return {"distill": linear} if distill else {}

    return Method(
        init=init,
        loss=make_loss(towers, axis_name, distill),
        predict=predict,
        reads=("pairs",),
        towers=("image", "text"),
        per_example=False,
    )
