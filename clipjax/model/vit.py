"""A supervised ViT (Dosovitskiy et al. 2021, arXiv 2010.11929): an image tower without texts."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.clip import VisionConfig, patchify
from clipjax.model.layers.norm import LayerNorm
from clipjax.model.layers.positions import sincos_positions
from clipjax.model.transformer import run_blocks


class ViT(nn.Module):
    """Images to the class token behind the last norm, float [B, S, S, 3] -> float32 [B, D].

    Against CLIP's tower its patches have a bias, there is no norm before the blocks, and GELU is
    exact. Attributes as of `clipjax.model.clip.VisionTower`.
    """

    config: VisionConfig
    dtype: Any = jnp.float32
    kernel: str | None = None
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, *, all_hidden: bool = False):
        cfg, width = self.config, self.config.hidden_size
        if images.shape[1:] != (cfg.image_size, cfg.image_size, cfg.num_channels):
            wanted = f"[batch, {cfg.image_size}, {cfg.image_size}, {cfg.num_channels}]"
            raise ValueError(f"images of shape {images.shape} do not fit: give {wanted}.")
        grid = cfg.image_size // cfg.patch_size
        kernel, bias, first, positions = embedding_params(self, grid)
        cast = lambda x: x.astype(self.dtype)
        patches = patchify(cast(images), cfg.patch_size)
        x = patches @ cast(kernel) + cast(bias)
        first = jnp.broadcast_to(cast(first), (len(x), 1, width))
        x = jnp.concatenate([first, x], axis=1) + cast(positions)
        x, hidden = run_blocks(self, x, lambda x: x[:, :1], causal=False, every=all_hidden)
        pooled = LayerNorm(cfg.layer_norm_eps, name="layernorm")(x[:, 0])
        return (pooled, hidden) if all_hidden else pooled


def embedding_params(tower: nn.Module, grid: int) -> tuple[jax.Array, ...]:
    """What a tower has before its blocks: kernel and bias of patches, class token, positions.

    float32 [patch * patch * C, D], [D], [D], [1 + grid * grid, D].
    """
    cfg, width = tower.config, tower.config.hidden_size
    shape = (cfg.patch_size**2 * cfg.num_channels, width)
    return (
        tower.param("patch_embedding", nn.initializers.lecun_normal(), shape),
        tower.param("patch_bias", nn.initializers.zeros, (width,)),
        tower.param("class_embedding", nn.initializers.normal(0.02), (width,)),
        tower.param("position_embedding", lambda _: sincos_positions(grid, width)),
    )


_EMBEDDINGS = {
    "embeddings.cls_token": "class_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.patch_embeddings.projection.weight": "patch_embedding",
    "embeddings.patch_embeddings.projection.bias": "patch_bias",
}
_BLOCK = (
    (r"^encoder\.layer\.(\d+)\.", r"block_\1/"),
    (r"/attention\.attention\.(query|key|value)", lambda m: f"/self_attn/{m[1][0]}_proj"),
    (r"/attention\.output\.dense", "/self_attn/out_proj"),
    (r"/intermediate\.dense", "/fc1"),
    (r"/output\.dense", "/fc2"),
    (r"/layernorm_before", "/layer_norm1"),
    (r"/layernorm_after", "/layer_norm2"),
)


def vit_path(name: str) -> str | None:
    """Return the path of a Hugging Face tensor in our tree; None for those that are not used.

    >>> vit_path("vit.encoder.layer.3.attention.attention.query.weight")
    'block_3/self_attn/q_proj/kernel'
    >>> vit_path("classifier.weight"), vit_path("layernorm.bias")
    (None, 'layernorm/bias')
    """
    name = name.removeprefix("vit.")
    if re.match(r"(classifier|pooler|embeddings\.mask_token)\b", name):
        return None
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    for pattern, path in _BLOCK:
        name = re.sub(pattern, path, name)
    name = re.sub(r"(norm\d?)[./]weight$", r"\1/scale", name)
    return re.sub(r"\.weight$", "/kernel", name).replace(".", "/")
