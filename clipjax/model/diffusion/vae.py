"""The encoder of Stable Diffusion's autoencoder: images to latents (arXiv 2112.10752)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.diffusion.blocks import Attention, Layers, Sampler, conv3, group_norm

EPS = 1e-6  # of its norms


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of an `AutoencoderKL`'s encoder, named as Hugging Face's; defaults are SD 1.5's.

    Raises ValueError for sizes that do not fit each other.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    in_channels: int = 3
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # to latents of spread 1, which the UNet was trained on

    def __post_init__(self):
        sizes = (*self.block_out_channels, self.layers_per_block, self.norm_num_groups)
        if not self.block_out_channels or min(sizes) < 1:
            raise ValueError("widths, layers_per_block and norm_num_groups must be positive.")
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                told = f"norm_num_groups {self.norm_num_groups}"
                raise ValueError(f"a width of {width} is no multiple of {told}.")

    @property
    def stride(self) -> int:
        """Pixels that a latent stands for, along one axis."""
        return 2 ** (len(self.block_out_channels) - 1)


class _Level(Layers):
    last: bool = False

    @nn.compact
    def __call__(self, x):
        for i in range(self.count):
            x = self.resnet(i)(x)
        return x if self.last else Sampler(self.dtype, (0, 1), name="downsamplers_0")(x)


class _Middle(Layers):
    @nn.compact
    def __call__(self, x):
        x = self.resnet(0)(x)
        shared = (self.dtype, self.kernel, True, self.groups)
        y, _ = Attention(1, *shared, name="attentions_0")(x.reshape(len(x), -1, self.width))
        return self.resnet(1)(x + y.reshape(x.shape))


class _Encoder(nn.Module):
    config: VAEConfig
    dtype: Any
    kernel: str | None
    remat: str

    @nn.compact
    def __call__(self, x):
        cfg, widths = self.config, self.config.block_out_channels
        rest = (0, cfg.norm_num_groups, EPS, self.dtype, self.kernel, self.remat)
        x = conv3(widths[0], self.dtype, "conv_in")(x)
        for i, width in enumerate(widths):
            last = i == len(widths) - 1
            x = _Level(width, cfg.layers_per_block, *rest, last, name=f"down_blocks_{i}")(x)
        x = _Middle(widths[-1], 2, *rest, name="mid_block")(x)
        x = nn.silu(group_norm(cfg.norm_num_groups, EPS, "conv_norm_out")(x))
        return conv3(2 * cfg.latent_channels, self.dtype, "conv_out")(x)


class VAEEncoder(nn.Module):
    """Images in [-1, 1] to the mode of their latents' posterior, [B, H, W, 3] -> [B, h, w, 4].

    float32, **not** times `scaling_factor`; h is H / 8 with SD's four levels, rounded down level by
    level, as in diffusers. Attributes are those of `clipjax.model.diffusion.unet.UNet`. Raises
    ValueError for images without a place, or of other channels.
    """

    config: VAEConfig
    dtype: Any = jnp.float32
    kernel: str | None = None
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        cfg = self.config
        if images.ndim != 4 or images.shape[3] != cfg.in_channels:
            wanted = f"[batch, height, width, {cfg.in_channels}]"
            raise ValueError(f"images of shape {images.shape} do not fit: give {wanted}.")
        if min(images.shape[1:3]) < cfg.stride:
            told = f"images of {images.shape[1]} x {images.shape[2]} pixels make no latent"
            raise ValueError(f"{told}; give {cfg.stride} pixels at least.")
        encoder = _Encoder(cfg, self.dtype, self.kernel, self.remat, name="encoder")
        moments = encoder(images.astype(self.dtype))
        dense = nn.Dense(2 * cfg.latent_channels, dtype=self.dtype, name="quant_conv")
        return dense(moments)[..., : cfg.latent_channels].astype(jnp.float32)
