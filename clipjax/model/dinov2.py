"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193), with registers too (Darcet et al. 2309.16588)."""

import dataclasses
import re
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.clip import patchify
from clipjax.model.layers.dense import Dense
from clipjax.model.layers.norm import LayerNorm
from clipjax.model.layers.positions import resized_positions
from clipjax.model.transformer import ACTIVATIONS, Attention, TowerConfig, with_remat
from clipjax.model.vit import embedding_params


@dataclasses.dataclass(frozen=True)
class DINOv2Config(TowerConfig):
    """Sizes, named as Hugging Face's; `intermediate_size` is of the gate where `swiglu`."""

    image_size: int = 518  # that images are preprocessed to; any size is taken
    grid: int = 37  # position embeddings of patches, on a side
    patch_size: int = 14
    num_channels: int = 3
    swiglu: bool = False
    registers: int = 0
    any_size: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        sizes = self.patch_size, self.image_size - self.patch_size + 1, self.grid
        if min(sizes) <= 0 or self.registers < 0:
            told = f"image_size {self.image_size}, patch_size {self.patch_size}"
            raise ValueError(f"{told}, {self.registers} registers make no tokens.")


class ScaledBlock(nn.Module):
    """A pre-norm block whose two branches are scaled channel by channel, [B, T, D] -> [B, T, D]."""

    config: DINOv2Config
    dtype: Any
    kernel: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, width = self.config, self.config.hidden_size
        scale = lambda name: self.param(name, nn.initializers.ones, (width,)).astype(self.dtype)
        dense = lambda *sizes, name: Dense(*sizes, self.dtype, name=name)
        y = LayerNorm(cfg.layer_norm_eps, name="layer_norm1")(x).astype(self.dtype)
        x = x + scale("scale1") * Attention(cfg, False, self.dtype, self.kernel, name="self_attn")(
            y
        )
        y = LayerNorm(cfg.layer_norm_eps, name="layer_norm2")(x).astype(self.dtype)
        hidden, std = cfg.intermediate_size, (2 * width) ** -0.5
        if cfg.swiglu:
            y = jax.nn.silu(dense(hidden, std, name="gate")(y)) * dense(hidden, std, name="up")(y)
        else:
            y = ACTIVATIONS[cfg.hidden_act](dense(hidden, std, name="fc1")(y))
        return x + scale("scale2") * dense(width, cfg.residual_std, name="fc2")(y)


class DINOv2(nn.Module):
    """Images to the class token behind the last norm, float [B, H, W, 3] -> float32 [B, D].

    H and W are cut to multiples of the patch size, as by the convolution of transformers, and
    position embeddings are resized to them: with registers by PyTorch's antialiased bicubic
    interpolation, without by its plain one, as transformers does. With `levels`, numbers of blocks
    counted from 1, it also returns a tuple of their patches behind the last norm, float32
    [B, H/patch, W/patch, D].
    Attributes as of `clipjax.model.clip.VisionTower`.
    """

    config: DINOv2Config
    dtype: Any = jnp.float32
    kernel: str | None = None
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, *, levels: tuple[int, ...] = ()):
        cfg, width, patch = self.config, self.config.hidden_size, self.config.patch_size
        rows, columns = (size // patch for size in images.shape[1:3])
        if not rows * columns or images.shape[3] != cfg.num_channels:
            wanted = f"at least {patch} x {patch} pixels of {cfg.num_channels} channels"
            raise ValueError(f"images of shape {images.shape} do not fit: give {wanted}.")
        if wrong := [level for level in levels if not 0 < level <= cfg.num_hidden_layers]:
            raise ValueError(f"level {wrong[0]} is none of 1 to {cfg.num_hidden_layers} blocks.")
        grid, init = cfg.grid, nn.initializers.normal(0.02)
        kernel, bias, first, positions = embedding_params(self, grid)
        cast = lambda x: x.astype(self.dtype)
        patches = patchify(cast(images[:, : rows * patch, : columns * patch]), patch)
        x = patches @ cast(kernel) + cast(bias)
        x = x + cast(resized_positions(positions[1:], grid, (rows, columns), bool(cfg.registers)))
        tokens = [cast(first + positions[0])[None]]
        if cfg.registers:  # they have no positions
            tokens.append(cast(self.param("registers", init, (cfg.registers, width))))
        tokens = jnp.concatenate(tokens)
        tokens = jnp.broadcast_to(tokens, (len(x), *tokens.shape))
        x, kept = jnp.concatenate([tokens, x], axis=1), {}
        block = with_remat(ScaledBlock, self.remat)
        for i in range(cfg.num_hidden_layers):
            x = block(cfg, self.dtype, self.kernel, name=f"block_{i}")(x)
            kept[i + 1] = x
        norm = LayerNorm(cfg.layer_norm_eps, name="layernorm")
        pooled = norm(x[:, 0])
        if not levels:
            return pooled
        places = lambda x: norm(x[:, 1 + cfg.registers :]).reshape(-1, rows, columns, width)
        return pooled, tuple(places(kept[level]) for level in levels)


_EMBEDDINGS = {
    "embeddings.cls_token": "class_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.register_tokens": "registers",
    "embeddings.patch_embeddings.projection.weight": "patch_embedding",
    "embeddings.patch_embeddings.projection.bias": "patch_bias",
}
_BLOCK = (
    (r"^encoder\.layer\.(\d+)\.", r"block_\1/"),
    (r"/attention\.attention\.(query|key|value)", lambda m: f"/self_attn/{m[1][0]}_proj"),
    (r"/attention\.output\.dense", "/self_attn/out_proj"),
    (r"/attention\.(q|k|v)_proj", r"/self_attn/\1_proj"),
    (r"/attention\.o_proj", "/self_attn/out_proj"),
    (r"/norm(\d)\.weight", r"/layer_norm\1/scale"),
    (r"/norm(\d)", r"/layer_norm\1"),
    (r"/layer_scale(\d)\.lambda1", r"/scale\1"),
    (r"/mlp\.(weights_in)", r"/\1"),
    (r"/mlp\.(weights_out|down_proj)", "/fc2"),
    (r"/mlp\.(gate|up)_proj", r"/\1"),
    (r"/mlp\.", "/"),
)


def dinov2_path(name: str) -> str | None:
    """Return the path of a Hugging Face tensor in our tree; None for those that are not used.

    Names of files and those that transformers 5 has in memory are read. A file holds both halves
    of a SwiGLU as one: "weights_in".

    >>> dinov2_path("dinov2.encoder.layer.3.attention.attention.query.weight")
    'block_3/self_attn/q_proj/kernel'
    >>> dinov2_path("embeddings.mask_token"), dinov2_path("layernorm.weight")
    (None, 'layernorm/scale')
    """
    name = re.sub(r"^dinov2(_with_registers)?\.", "", name)
    if re.match(r"(classifier|embeddings\.mask_token)\b", name):
        return None
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    for pattern, path in _BLOCK:
        name = re.sub(pattern, path, name)
    name = re.sub(r"^layernorm\.weight$", "layernorm/scale", name)
    return re.sub(r"\.weight$", "/kernel", name).replace(".", "/")
