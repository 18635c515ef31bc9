"""Stable Diffusion's UNet (Rombach et al. 2022, arXiv 2112.10752) as a reader of images."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.diffusion.blocks import Layers, Sampler, conv3, group_norm


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet of SD 1.x or 2.x; defaults are those of 1.5. Tuples go from fine to coarse.

    Raises ValueError for sizes that do not fit each other.
    """

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attends: tuple[bool, ...] = (True, True, True, False)  # whether a level reads the texts
    heads: tuple[int, ...] = (8, 8, 8, 8)  # `attention_head_dim` of files, which means heads
    layers_per_block: int = 2  # one more on the way up
    cross_attention_dim: int = 768  # width of the texts
    in_channels: int = 4
    out_channels: int = 4
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    def __post_init__(self):
        levels = len(self.block_out_channels)
        if levels < 2 or len(self.attends) != levels or len(self.heads) != levels:
            told = f"{levels} widths, {len(self.attends)} kinds of blocks, {len(self.heads)} heads"
            raise ValueError(f"{told}: give as many of each, two levels at least.")
        if min(*self.block_out_channels, *self.heads, self.layers_per_block) < 1:
            raise ValueError("widths, heads and layers_per_block must be positive.")
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            for name, part in (("norm_num_groups", self.norm_num_groups), ("heads", heads)):
                if part < 1 or width % part:
                    raise ValueError(f"a width of {width} is no multiple of {name} {part}.")

    @property
    def stride(self) -> int:
        """Latent places that a place of the coarsest map stands for, along one axis."""
        return 2 ** (len(self.block_out_channels) - 1)


class UNetOutput(NamedTuple):
    """What a UNet computes of latents [B, h, w, C] and tokens [B, K, D]."""

    # float32 [B, ceil(h / 2^l), ceil(w / 2^l), width of level l], from fine to coarse.
    taps: tuple[jax.Array, ...]
    # Name of a transformer in files -> how much each place attends to each token, float32
    # [B, h', w', K], the mean over heads: "down_blocks.0.attentions.1", "mid_block.attentions.0".
    maps: dict[str, jax.Array]
    sample: jax.Array | None  # the noise it predicts, float32 [B, h, w, C]; None unless `output`


class _Time(nn.Module):
    """Embed time steps, float32 [B] -> [B, 4 C]: sines and cosines through an MLP."""

    config: UNetConfig
    dtype: Any

    @nn.compact
    def __call__(self, steps: jax.Array) -> jax.Array:
        cfg, width = self.config, self.config.block_out_channels[0]
        half = width // 2
        powers = jnp.arange(half, dtype=jnp.float32) / (half - cfg.freq_shift)
        angle = steps[:, None] * jnp.exp(-jnp.log(10_000.0) * powers)
        waves = [jnp.sin(angle), jnp.cos(angle)]
        x = jnp.concatenate(waves[::-1] if cfg.flip_sin_to_cos else waves, axis=1)
        x = nn.silu(nn.Dense(4 * width, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(4 * width, dtype=self.dtype, name="linear_2")(x)


class _Down(Layers):
    last: bool = False

    @nn.compact
    def __call__(self, x, time, context):
        kept, maps = [], {}
        for i in range(self.count):
            x = self.resnet(i)(x, time)
            if self.heads:
                x, maps[f"attentions.{i}"] = self.transformer(i)(x, context)
            kept.append(x)
        if not self.last:
            x = Sampler(self.dtype, name="downsamplers_0")(x)
            kept.append(x)
        return x, kept, maps


class _Middle(Layers):
    @nn.compact
    def __call__(self, x, time, context):
        x = self.resnet(0)(x, time)
        x, seen = self.transformer(0)(x, context)
        return self.resnet(1)(x, time), {"attentions.0": seen}


class _Up(Layers):
    @nn.compact
    def __call__(self, x, kept, time, context, size):
        """Return the map, that of its layer before the last one, and its texts' maps."""
        maps, tap = {}, x
        for i in range(self.count):
            tap = x
            x = self.resnet(i)(jnp.concatenate([x, kept[-1 - i]], axis=-1), time)
            if self.heads:
                x, maps[f"attentions.{i}"] = self.transformer(i)(x, context)
        if size is None:
            return x, x, maps
        return Sampler(self.dtype, name="upsamplers_0")(x, size), tap, maps


class UNet(nn.Module):
    """Latents [B, h, w, C] and tokens [B, K, D] or [K, D] to `UNetOutput`, any h and w.

    Its taps are VPD's (Zhao et al. 2023, arXiv 2303.02153): of each level the state after the last
    layer but one on the way up, of the finest after its last, before the norm of the output. Odd
    lengths are rounded up where a level halves them, as in diffusers.

    Attributes:
      config: sizes.
      dtype: of the computation; norms and softmax are in float32.
      kernel: of the places' attention to each other, see `clipjax.model.layers.attention.attend`.
      remat: what the backward pass keeps of a block, see `clipjax.model.transformer.REMAT`.
      output: whether it has its last norm and convolution, which nothing but `sample` reads.

    Raises ValueError for latents or tokens of other widths.
    """

    config: UNetConfig
    dtype: Any = jnp.float32
    kernel: str | None = None
    remat: str = "none"
    output: bool = False

    @nn.compact
    def __call__(
        self, latents: jax.Array, tokens: jax.Array, timestep: int | jax.Array = 1
    ) -> UNetOutput:
        cfg = self.config
        if latents.ndim != 4 or latents.shape[3] != cfg.in_channels:
            wanted = f"[batch, height, width, {cfg.in_channels}]"
            raise ValueError(f"latents of shape {latents.shape} do not fit: give {wanted}.")
        check_text_width(tokens.shape[-1], cfg)
        context = jnp.broadcast_to(tokens, (len(latents), *tokens.shape[-2:])).astype(self.dtype)
        steps = jnp.asarray(timestep, jnp.float32).reshape(-1)
        time = _Time(cfg, self.dtype, name="time_embedding")(steps)
        rest = (cfg.norm_num_groups, cfg.norm_eps, self.dtype, self.kernel, self.remat)
        heads = [h if seen else 0 for h, seen in zip(cfg.heads, cfg.attends, strict=True)]
        widths, layers = cfg.block_out_channels, cfg.layers_per_block
        x = conv3(widths[0], self.dtype, "conv_in")(latents.astype(self.dtype))
        kept, maps, levels = [x], {}, len(widths)

        def told(name, seen):
            maps.update({f"{name}.{key}": value for key, value in seen.items()})

        for i in range(levels):
            sizes, last = (widths[i], layers, heads[i], *rest), i == levels - 1
            x, more, seen = _Down(*sizes, last, name=f"down_blocks_{i}")(x, time, context)
            kept += more
            told(f"down_blocks.{i}", seen)
        x, seen = _Middle(widths[-1], 2, cfg.heads[-1], *rest, name="mid_block")(x, time, context)
        told("mid_block", seen)
        taps, count = [], layers + 1
        for i in range(levels):
            level = levels - 1 - i
            own, kept = kept[-count:], kept[:-count]
            size = kept[-1].shape[1:3] if level else None
            up = _Up(widths[level], count, heads[level], *rest, name=f"up_blocks_{i}")
            x, tap, seen = up(x, own, time, context, size)
            taps.append(tap.astype(jnp.float32))
            told(f"up_blocks.{i}", seen)
        sample = None
        if self.output:
            y = nn.silu(group_norm(cfg.norm_num_groups, cfg.norm_eps, "conv_norm_out")(x))
            sample = conv3(cfg.out_channels, self.dtype, "conv_out")(y).astype(jnp.float32)
        return UNetOutput(tuple(taps[::-1]), maps, sample)


def check_text_width(width: int, config: UNetConfig) -> None:
    """Raise ValueError for texts of another width than the UNet's cross-attention reads."""
    if width != config.cross_attention_dim:
        raise ValueError(
            f"texts are {width} wide, and the UNet's cross-attention reads "
            f"{config.cross_attention_dim}; take the text encoder of its own folder, text_encoder/."
        )
