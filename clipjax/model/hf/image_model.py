"""Read the model of a study: a CLIP, or an image tower without texts, by its config.json."""

import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIPConfig
from clipjax.model.hf import weights
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.load import load_clip, with_image_size
from clipjax.model.hf.vit import load_vit
from clipjax.model.image_model import ImageConfig

PyTree = Any
# model_type of a config.json -> (directory, dtype=) -> (sizes, parameters of the tower).
LOADERS: dict[str, Callable] = {"vit": load_vit}


def load_model(
    name_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: Any = jnp.float32,
    image_size: int | None = None,
) -> tuple[CLIPConfig | ImageConfig, PyTree]:
    """Read a CLIP, or an image tower in Hugging Face layout whose type is one of `LOADERS`.

    Args, and errors, are those of `clipjax.load_clip`; an image tower's parameters are under
    "vision".
    """
    directory = find_model(name_or_path, revision)
    kind = weights.read_json(directory / "config.json").get("model_type")
    if kind not in LOADERS:
        return load_clip(directory, dtype=dtype, image_size=image_size)
    vision, tower = LOADERS[kind](directory, dtype=dtype)
    config, params = ImageConfig(kind, vision), {"vision": tower}
    if image_size in (None, vision.image_size):
        return config, params
    if "position_embedding" not in tower:
        told = f"a {kind!r} model is of {vision.image_size} pixels"
        raise CheckpointError(f"{told}; leave image_size out.")
    return with_image_size(config, params, image_size)
