"""The maps of any image model: a CLIP's tower, DINOv2 or a ResNet, at some of its levels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.errors import ConfigError
from clipjax.model.clip import CLIPConfig
from clipjax.model.image_model import TOWERS, ImageConfig
from clipjax.model.maps import DenseTower
from clipjax.model.resnet import ResNetConfig

PyTree = Any
Maps = tuple[jax.Array, ...]
_WITHOUT = ("vit",)  # kinds of towers that return their class token alone


def image_maps(
    config: CLIPConfig | ImageConfig,
    levels: tuple[int, ...] = (),
    *,
    last: str = "state",
    output_stride: int = 0,
    dtype: Any = jnp.float32,
) -> Callable[[PyTree, jax.Array], Maps]:
    """Return (parameters of "vision", images float [B, H, W, 3]) -> maps float32 [B, h, w, C].

    Args:
      config: of the model.
      levels: numbers of blocks of a transformer, or of stages of a ResNet (0: its stem), counted
        from 1, from fine to coarse; none: the last alone. The last of a CLIP is behind the norm of
        its tower, its others are plain states; all of DINOv2 are behind its last norm.
      last: of a CLIP, as of `DenseTower`; "value" of a CLIP's ResNet: as of `AttentionPool`, whose
        values are in the space of its texts' embeddings.
      output_stride: of a ResNet, pixels between places of its last maps, as 8 or 16 of DeepLab: see
        `ResNetConfig.stages`. 0: its own.

    ConfigError: levels that the model does not have or that do not rise, a tower without maps, or
    `last="value"` of a model that has no such path, or an output_stride that it cannot have.
    """
    config = _dilated(config, output_stride) if output_stride else config
    clip, depth = isinstance(config, CLIPConfig), config.vision.num_hidden_layers
    kind = "clip" if clip else config.kind
    if kind in _WITHOUT:
        told = f"a model of type {kind!r} gives no maps here"
        raise ConfigError(f"{told}; take a CLIP, DINOv2 or a ResNet.")
    lowest, what = (0, "stages") if kind == "resnet" else (1, "blocks")
    chosen = levels or (depth,)
    if wrong := [level for level in chosen if not lowest <= level <= depth]:
        told = f"levels has {wrong[0]}, and the model has {depth} {what}"
        raise ConfigError(f"{told}; take some of {lowest} to {depth}.")
    if list(chosen) != sorted(set(chosen)):
        raise ConfigError(f"levels is {chosen}; give each once, in rising order.")
    if not clip:
        more = {}
        if last != "state":
            if not getattr(config.vision, "projection", 0):
                told = f"last={last} is of a CLIP's attention"
                raise ConfigError(f"{told}; leave it out for {kind!r}.")
            if depth not in chosen:
                raise ConfigError(f"last={last} has no effect on levels {chosen}; add {depth}.")
            more = {"last": last}
        tower = TOWERS[kind](config.vision, dtype)
        apply = lambda params, images: tower.apply(
            {"params": params}, images, levels=chosen, **more
        )
        return lambda params, images: apply(params, images)[1]
    tower = DenseTower(config.vision, dtype)

    def of_clip(params: PyTree, images: jax.Array) -> Maps:
        inner = tuple(level for level in chosen if level != depth)
        maps, end, _ = tower.apply({"params": params}, images, levels=inner, last=last)
        return maps if len(inner) == len(chosen) else (*maps, end)

    return of_clip


def _dilated(config: CLIPConfig | ImageConfig, output_stride: int) -> ImageConfig:
    """Return the config with the stride; ConfigError for a model that cannot have it."""
    if isinstance(config, CLIPConfig) or not isinstance(config.vision, ResNetConfig):
        kind = "clip" if isinstance(config, CLIPConfig) else config.kind
        told = f"output_stride={output_stride} dilates stages of a ResNet"
        raise ConfigError(f"{told}; leave it 0 for a model of type {kind!r}.")
    try:
        vision = dataclasses.replace(config.vision, output_stride=output_stride)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return dataclasses.replace(config, vision=vision)
