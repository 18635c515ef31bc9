"""Read the model of a study: a CLIP, or an image tower without texts, by its config.json."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIPConfig
from clipjax.model.hf import weights
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.image_only import load_dinov2, load_resnet, load_vit
from clipjax.model.hf.load import load_clip, with_image_size
from clipjax.model.hf.timm import load_timm
from clipjax.model.image_model import ImageConfig

PyTree = Any
# model_type of a config.json -> (directory, dtype=) -> (sizes, parameters of the tower).
LOADERS: dict[str, Callable] = {
    "vit": load_vit,
    "dinov2": load_dinov2,
    "dinov2_with_registers": load_dinov2,
    "resnet": load_resnet,
}


def load_model(
    name_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: Any = jnp.float32,
    image_size: int | None = None,
    preprocessed: int | None = None,
) -> tuple[CLIPConfig | ImageConfig, PyTree]:
    """Read a CLIP, or an image tower: of a type of `LOADERS`, or a ResNet in timm's layout.

    Args, and errors, are those of `clipjax.load_clip`; an image tower's parameters are under
    "vision". `preprocessed`: size that the model's preprocessing makes, which towers that take any
    are told.
    """
    directory = find_model(name_or_path, revision)
    data = weights.read_json(directory / "config.json")
    of_timm = weights.is_timm(data)
    kind = "resnet" if of_timm else data.get("model_type")
    if kind not in LOADERS:
        return load_clip(directory, dtype=dtype, image_size=image_size)
    vision, tower = (load_timm if of_timm else LOADERS[kind])(directory, dtype=dtype)
    params = {"vision": tower}
    if getattr(vision, "any_size", False):  # it takes images as they are preprocessed
        size = image_size or preprocessed or vision.image_size
        if size < vision.patch_size:
            told = f"image_size {size} is less than the {vision.patch_size} pixels"
            raise CheckpointError(f"{told} of a place of a {kind!r} model; give a larger one.")
        return ImageConfig(kind, dataclasses.replace(vision, image_size=size)), params
    config = ImageConfig(kind, vision)
    if image_size in (None, vision.image_size):
        return config, params
    return with_image_size(config, params, image_size)
