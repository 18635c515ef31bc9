"""Stable Diffusion as a backbone of maps (VPD, Zhao et al. 2023, arXiv 2303.02153), with Domino."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clipjax.model.diffusion.unet import UNet, UNetConfig, check_text_width
from clipjax.model.diffusion.vae import VAEConfig, VAEEncoder
from clipjax.model.text import class_tokens, without_padding

SHIFTS = {"none": 0, "add": 1, "sub": -1}  # what a domain embedding does to the prompts


@dataclasses.dataclass(frozen=True)
class VPDConfig:
    """Sizes and options. Raises ValueError for what does not fit.

    `scale_latents` multiplies latents by the VAE's factor, as the UNet was trained on; VPD's code
    does not. `timestep` is 1 in VPD's code, 0 in its paper. `prompt` "add" or "sub" is
    Domino-Add or -Sub (Kaplan et al. 2024): the domain embedding is added to every prompt, or
    subtracted.
    """

    unet: UNetConfig
    vae: VAEConfig
    scale_latents: bool = False
    timestep: int = 1
    prompt: str = "none"

    def __post_init__(self):
        if self.prompt not in SHIFTS:
            raise ValueError(f"prompt={self.prompt!r} is unknown; known: {', '.join(SHIFTS)}.")
        if not 0 <= self.timestep < 1000:
            raise ValueError(f"timestep {self.timestep} is none of 0 to 999.")
        if self.unet.in_channels != self.vae.latent_channels:
            told = f"latents have {self.vae.latent_channels} channels"
            raise ValueError(f"{told}, and the UNet reads {self.unet.in_channels}.")

    @property
    def multiple(self) -> int:
        """Pixels that divide the height and width of an image: 64 of Stable Diffusion."""
        return self.vae.stride * self.unet.stride

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels that a place of each map stands for, along one axis, from fine to coarse."""
        return tuple(self.vae.stride * 2**i for i in range(len(self.unet.block_out_channels)))

    def widths(self, classes: int) -> tuple[int, ...]:
        """Return channels of the maps, from fine to coarse.

        >>> VPDConfig(UNetConfig(), VAEConfig()).widths(19)
        (320, 659, 1299, 1280)
        """
        cfg = self.unet
        sized = enumerate(zip(cfg.block_out_channels, cfg.attends, strict=True))
        return tuple(width + classes * bool(seen and level) for level, (width, seen) in sized)


class TextAdapter(nn.Module):
    """texts + gamma * MLP(texts), float32 [K, D] -> [K, D]; gamma starts at 1e-4."""

    @nn.compact
    def __call__(self, texts: jax.Array) -> jax.Array:
        dense = lambda name: nn.Dense(texts.shape[1], name=name)
        gamma = self.param("gamma", nn.initializers.constant(1e-4), texts.shape[1:])
        return texts + gamma * dense("fc_1")(jax.nn.gelu(dense("fc_0")(texts), approximate=False))


class VPD(nn.Module):
    """Images in [-1, 1] and texts of classes to maps from fine to coarse, float32 [B, h, w, C].

    Parameters are "vae" and "unet" as of `clipjax.model.hf.diffusion.load_diffusion`, and
    "adapter". Of SD 1.5 with K classes: strides 8, 16, 32, 64; channels 320, 640 + K, 1280 + K,
    1280: the UNet's taps, with how much each place attends to each class where `gathered` has it.
    The VAE gets no gradient; `latents` may be made beforehand.

    Attributes as of `clipjax.model.diffusion.unet.UNet`.
    """

    config: VPDConfig
    dtype: Any = jnp.float32
    kernel: str | None = None
    remat: str = "none"

    def setup(self):
        cfg, shared = self.config, (self.dtype, self.kernel, self.remat)
        self.vae = VAEEncoder(cfg.vae, *shared)
        self.unet = UNet(cfg.unet, *shared)
        self.adapter = TextAdapter()

    def latents(self, images: jax.Array) -> jax.Array:
        """Encode images float [B, H, W, 3] in [-1, 1], float32 [B, H / 8, W / 8, 4].

        ValueError: height or width that is no multiple of `config.multiple`.
        """
        check_size(images.shape[1:3], self.config.multiple)
        found = jax.lax.stop_gradient(self.vae(images))
        return found * self.config.vae.scaling_factor if self.config.scale_latents else found

    def tokens(self, texts: jax.Array, domain: jax.Array | None = None) -> jax.Array:
        """Return prompts [B, K, D] (or [1, K, D]) of texts [K, D] and domain embeddings [B, D].

        ValueError: texts or domain embeddings of another width than the UNet reads, a domain
        embedding that is missing or that no prompt reads.
        """
        check_text_width(texts.shape[-1], self.config.unet)
        shift = SHIFTS[self.config.prompt]
        if (domain is None) == bool(shift):
            told = "needs a domain embedding" if shift else "reads no domain embedding"
            raise ValueError(f"prompt={self.config.prompt!r} {told}.")
        prompts = self.adapter(texts)[None]
        if not shift:
            return prompts
        if domain.shape[-1] != texts.shape[-1]:
            told = f"a domain embedding of width {domain.shape[-1]} joins texts of width"
            raise ValueError(f"{told} {texts.shape[-1]}; describe domains by their text encoder.")
        return prompts + shift * domain[:, None]

    def maps(
        self, latents: jax.Array, texts: jax.Array, domain: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Compute the maps of latents [B, h, w, 4]; ValueError as of `latents` and `tokens`."""
        check_size(latents.shape[1:3], self.config.unet.stride, "latents of {} x {}")
        tokens = self.tokens(texts, domain)
        tokens = jnp.broadcast_to(tokens, (len(latents), *tokens.shape[1:]))
        found = self.unet(latents, tokens, self.config.timestep)
        seen = gathered(found.maps, len(found.taps))
        own = lambda level: [seen[level]] if level in seen else []
        joined = enumerate(found.taps)
        return tuple(jnp.concatenate([x, *own(level)], axis=-1) for level, x in joined)

    def __call__(self, images: jax.Array, texts: jax.Array, domain=None) -> tuple[jax.Array, ...]:
        """Compute the maps of images, see above."""
        return self.maps(self.latents(images), texts, domain)


def gathered(maps: Mapping[str, jax.Array], levels: int) -> dict[int, jax.Array]:
    """Average a UNet's maps of tokens over the layers of a level, level -> [B, h, w, K].

    Level 0 is the finest, whose maps VPD leaves out, and those of the middle.
    """
    found: dict[int, list] = {}
    for name, seen in maps.items():
        if place := re.match(r"(down|up)_blocks\.(\d+)\.", name):
            number = int(place[2])
            found.setdefault(number if place[1] == "down" else levels - 1 - number, []).append(seen)
    return {level: sum(seen) / len(seen) for level, seen in found.items() if level}


def check_size(size: Sequence[int], multiple: int, what: str = "images of {} x {} pixels") -> None:
    """Raise ValueError for a height or width that is no multiple of `multiple`.

    >>> check_size((512, 520), 64)
    Traceback (most recent call last):
    ...
    ValueError: images of 512 x 520 pixels do not fit: 64 must divide height and width; crop or \
pad them, to 512 x 576 say.
    """
    if any(length % multiple or not length for length in size):
        next_up = " x ".join(str(max(1, -(-length // multiple)) * multiple) for length in size)
        raise ValueError(
            f"{what.format(*size)} do not fit: {multiple} must divide height and width; crop or "
            f"pad them, to {next_up} say."
        )


def class_states(
    encode: Callable[[np.ndarray], jax.Array],
    tokenize: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str],
    prompts: str | Sequence[str] = "simple",
) -> jax.Array:
    """Compute VPD's texts of classes: the mean over prompts of pooled states, float32 [K, D].

    As its `class_embeddings.pth`: neither projected nor normalised. `encode` maps ids int32 [B, T]
    to pooled states of the text encoder that the UNet was trained with (`load_text_encoder`);
    the rest as of `clipjax.model.text.zero_shot_classifier`.
    """
    tokens = without_padding(class_tokens(tokenize, class_names, prompts))
    return jnp.stack([encode(ids).astype(jnp.float32).mean(axis=0) for ids in tokens])
