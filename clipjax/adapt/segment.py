"""Segmentation from frozen maps: a decoder, what it is told of the domain, and its pixel loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.domain import controlled, domain_embedding
from clipjax.adapt.pixels import pixel_cross_entropy

PyTree = Any


class Segmenter(NamedTuple):
    """A decoder as pure functions of `rows`.

    Rows are {"inputs": maps float [B, h * w * C], "embedding": images float32 [B, P] of length 1,
    "condition": int32 [B], the true domain}, and in training "label" uint8 [B, H, W].
    """

    init: Callable[[jax.Array], PyTree]  # rng -> parameters
    # (params, batch, rng, progress) -> (scalar, metrics), with rows as batch["source"].
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    # (params, rows, rng) -> logits float32 [B, h', w', K], which `rng` shuffles W for.
    logits: Callable[..., jax.Array]


def make_segmenter(
    decoder: Any,
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array],
    shape: tuple[int, int, int],
    *,
    descriptions: jax.Array | None = None,
    texts: jax.Array | None = None,
    scale: float | jax.Array = 1.0,
    control: str = "none",
    class_weights: jax.Array | None = None,
    normaliser: str = "weights",
) -> Segmenter:
    """Make a segmenter of a Flax decoder (`clipjax.model.decoders`).

    Args:
      decoder: its module.
      resize: (logits, size) -> logits of the labels' size.
      shape: h, w and C of the maps.
      descriptions: float32 [D, P]; None for a decoder that is told nothing of the domain.
      texts: of the classes, float32 [K, P], for decoders that take them.
      scale, control: as of `clipjax.adapt.domain`.
      class_weights, normaliser: as of `clipjax.adapt.pixels.pixel_cross_entropy`.
    """
    more = {} if texts is None else {"texts": texts}

    def run(params, rows, rng, apply):
        maps = rows["inputs"].astype(jnp.float32).reshape(-1, *shape)
        if descriptions is None:
            return apply(params, [maps], **more)
        seen = domain_embedding(rows["embedding"], descriptions, scale)
        told = controlled(seen, descriptions, control, rng, rows["condition"])
        return apply(params, [maps], told, **more)

    def logits(params, rows, rng):
        return run(
            params["decoder"], rows, rng, lambda p, *a, **k: decoder.apply({"params": p}, *a, **k)
        )

    def init(rng):
        width = 1 if descriptions is None else descriptions.shape[1]
        height, across, channels = shape
        rows = {
            "inputs": jnp.zeros((2, height * across * channels)),
            "embedding": jnp.zeros((2, width)),
            "condition": jnp.zeros(2, jnp.int32),
        }
        made = run(None, rows, rng, lambda _, *a, **k: decoder.init(rng, *a, **k))
        return {"decoder": made["params"]}

    def loss(params, batch, rng, progress):
        rows = batch["source"]
        answer = resize(logits(params, rows, rng), rows["label"].shape[1:])
        mask = rows["weight"] > 0 if "weight" in rows else None
        value = pixel_cross_entropy(answer, rows["label"], class_weights, normaliser, mask)
        return value, {"class_loss": value}

    return Segmenter(init, loss, logits)
