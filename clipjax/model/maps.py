"""CLIP's image tower as a map: a vector for every patch, for images of any size."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.clip import VisionConfig, normalize, patchify
from clipjax.model.layers.dense import Dense, affine
from clipjax.model.layers.norm import LayerNorm
from clipjax.model.layers.positions import resized_positions, sincos_positions
from clipjax.model.transformer import ACTIVATIONS, Block, with_remat

LAST = ("state", "value")


class _Values(nn.Module):
    """What attention would add if every token saw itself alone: values and keys of [B, T, D]."""

    config: VisionConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        width = x.shape[-1]
        dense = lambda name: Dense(width, width**-0.5, self.dtype, name=name)
        return dense("out_proj")(dense("v_proj")(x)), dense("k_proj")(x)


class _ValueBlock(nn.Module):
    """A block whose attention matrix is the identity, [B, T, D] -> [B, T, D], and its keys."""

    config: VisionConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        cfg = self.config
        y = LayerNorm(cfg.layer_norm_eps, name="layer_norm1")(x).astype(self.dtype)
        values, keys = _Values(cfg, self.dtype, name="self_attn")(y)
        x = x + values
        y = LayerNorm(cfg.layer_norm_eps, name="layer_norm2")(x).astype(self.dtype)
        dense = lambda width, name: Dense(width, width**-0.5, self.dtype, name=name)
        y = ACTIVATIONS[cfg.hidden_act](dense(cfg.intermediate_size, "fc1")(y))
        return x + dense(cfg.hidden_size, "fc2")(y), keys


class DenseTower(nn.Module):
    """Images to vectors of their patches, float [B, H, W, 3] -> float32 [B, H/P, W/P, D].

    Its parameters are those of `clipjax.model.clip.VisionTower`. H and W are multiples of the patch
    size P; position embeddings are resized to them, as by transformers'
    `interpolate_pos_encoding=True`. It returns (maps, last, keys): `maps`, a tuple of the states
    after the blocks in `levels`, counted from 1; `last`, the last one's behind the norm of the
    tower, which `visual_projection` takes to the texts' space; `keys` of the last block, None
    unless `last="value"`.

    With `last="value"` the last block's attention matrix is the identity (MaskCLIP, Zhou et al.
    2022, arXiv 2112.01071): the state of a patch then is its own, as CLIP was trained to mix them
    there for the class token alone. Residual and MLP stay, as in its code; GELU, epsilon and the
    keys' axis are CLIP's own, which there they are not.
    """

    config: VisionConfig
    dtype: Any = jnp.float32
    kernel: str | None = None
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, *, levels: tuple[int, ...] = (), last: str = "state"):
        cfg, width, patch = self.config, self.config.hidden_size, self.config.patch_size
        rows, columns = (size // patch for size in images.shape[1:3])
        if images.shape[1:] != (rows * patch, columns * patch, cfg.num_channels) or not rows:
            wanted = f"height and width in multiples of {patch} pixels, {cfg.num_channels} channels"
            raise ValueError(f"images of shape {images.shape} do not fit: give {wanted}.")
        if wrong := [level for level in levels if not 0 < level <= cfg.num_hidden_layers]:
            raise ValueError(f"level {wrong[0]} is none of 1 to {cfg.num_hidden_layers} blocks.")
        if last not in LAST:
            raise ValueError(f"last={last!r} is unknown; known: {', '.join(LAST)}.")
        init = nn.initializers.normal(0.02)
        shape = (patch**2 * cfg.num_channels, width)
        kernel = self.param("patch_embedding", nn.initializers.lecun_normal(), shape)
        first = self.param("class_embedding", init, (width,))
        grid = cfg.image_size // patch
        positions = self.param("position_embedding", lambda _: sincos_positions(grid, width))
        cast = lambda x: x.astype(self.dtype)
        x = affine(patchify(cast(images), patch), cast(kernel))
        x = x + cast(resized_positions(positions[1:], grid, (rows, columns)))
        first = jnp.broadcast_to(cast(first) + cast(positions[0]), (len(x), 1, width))
        x = jnp.concatenate([first, x], axis=1)
        x = cast(LayerNorm(cfg.layer_norm_eps, name="pre_layernorm")(x))
        block, kept, keys = with_remat(Block, self.remat), {}, None
        for i in range(cfg.num_hidden_layers):
            if last == "value" and i == cfg.num_hidden_layers - 1:
                x, keys = _ValueBlock(cfg, self.dtype, name=f"block_{i}")(x)
            else:
                x = block(cfg, False, self.dtype, self.kernel, name=f"block_{i}")(x)
            kept[i + 1] = x
        places = lambda x: x[:, 1:].astype(jnp.float32).reshape(-1, rows, columns, width)
        normed = LayerNorm(cfg.layer_norm_eps, name="post_layernorm")(x)
        maps = tuple(places(kept[level]) for level in levels)
        return maps, places(normed), None if keys is None else places(keys)


def zero_shot_maps(
    config: VisionConfig, *, last: str = "value", denoise: float = 0.0, smooth: bool = False
) -> Callable[..., jax.Array]:
    """Return MaskCLIP: (a CLIP's tree, images, texts, scale) -> logits float32 [B, h, w, K].

    Images are preprocessed, float [B, H, W, 3]; texts are of the classes, float32 [K, P] of length
    1; scale is CLIP's factor on cosines.

    Args:
      config: of its image tower.
      last: of the last block, as of `DenseTower`.
      denoise: the threshold of `without_absent`; 0: no class is left out.
      smooth: whether `smooth_by_keys` follows, of which there are keys with `last="value"`.
    """
    tower = DenseTower(config)

    def logits(params, images, texts, scale):
        _, end, keys = tower.apply({"params": params["vision"]}, images, last=last)
        embedded = end @ params["visual_projection"]["kernel"].astype(jnp.float32)
        found = place_logits(embedded, texts, scale)
        found = without_absent(found, denoise) if denoise else found
        return smooth_by_keys(found, keys) if smooth else found

    return logits


def place_logits(embedded: jax.Array, weights: jax.Array, scale: jax.Array) -> jax.Array:
    """Compute zero-shot logits of every place, [B, h, w, P], [K, P] of length 1 -> [B, h, w, K].

    `embedded` is what `visual_projection` makes of a `DenseTower`'s last map; `scale` is CLIP's
    factor on cosine similarities.

    >>> place_logits(jnp.array([[[[3.0, 4.0]]]]), jnp.eye(2), 10.0).round().tolist()
    [[[[6.0, 8.0]]]]
    """
    return scale * normalize(embedded) @ weights.T


def smooth_by_keys(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """Average each place's class probabilities over all places, weighed by cosines of their keys.

    MaskCLIP's key smoothing (arXiv 2112.01071, section 3.2) at every place: logits float32
    [B, h, w, K] and keys [B, h, w, D] -> [B, h, w, K], sums that no softmax follows. Cosines are
    over channels; its code has them over places, and passes keys through the output projection.
    """
    batch, rows, columns, classes = logits.shape
    chance = jax.nn.softmax(logits).reshape(batch, -1, classes)
    unit = normalize(keys).reshape(batch, rows * columns, -1)
    smooth = jnp.einsum("bqd,bkd,bkc->bqc", unit, unit, chance)
    return smooth.reshape(logits.shape)


def without_absent(logits: jax.Array, threshold: float = 0.5, absent: float = -100.0) -> jax.Array:
    """Set the logits of classes that are likely at no place of an image to `absent`, [B, h, w, K].

    MaskCLIP's prompt denoising: a class goes where its largest probability over the places stays
    below `threshold`.

    >>> without_absent(jnp.array([[[[2.0, 0.0], [1.0, 0.0]]]])).tolist()
    [[[[2.0, -100.0], [1.0, -100.0]]]]
    """
    likely = jax.nn.softmax(logits).max(axis=(1, 2), keepdims=True)
    return jnp.where(likely < threshold, absent, logits)
