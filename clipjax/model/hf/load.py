"""Read and write CLIP directories in Hugging Face layout, without torch or transformers."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.io import write_json
from clipjax.model.clip import CLIPConfig
from clipjax.model.hf import weights
from clipjax.model.hf.config import config_from_hf, config_to_hf
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.params import (
    check_tensors,
    our_path,
    params_from_hf,
    params_to_hf,
    without_prefix,
)
from clipjax.model.layers.positions import resize_positions

PyTree = Any


def load_clip(
    name_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: Any = None,
    image_size: int | None = None,
) -> tuple[CLIPConfig, PyTree]:
    """Read a CLIP in Hugging Face layout, or one tower of it, without torch.

    Args:
      name_or_path: a directory, a Hub id ("openai/clip-vit-base-patch32"; downloaded once into
        Hugging Face's cache), or "tiny" for the embedded model.
      revision: branch, tag or commit of a Hub id; refused with a directory.
      dtype: of the parameters; None keeps the stored one. Train on float32. `CLIP(config, dtype)`
        computes in its own.
      image_size: in pixels, if not the model's own; position embeddings are interpolated as by
        transformers' `interpolate_pos_encoding=True`.

    Returns:
      (config, params) for `CLIP(config).apply({"params": params}, ...)`.

    Raises:
      CheckpointError: no such model, network or permission, a damaged file, weights that are a
        pickle, do not fit their config or are not finite (in `dtype`), or an impossible image size.

    >>> import jax, numpy as np
    >>> from clipjax import CLIP, load_clip
    >>> config, params = load_clip("tiny")
    >>> image = np.zeros((1, 64, 64, 3), np.float32)
    >>> CLIP(config).apply({"params": params}, image, method="encode_image").shape
    (1, 128)
    """
    directory = find_model(name_or_path, revision)
    config = config_from_hf(weights.read_json(directory / "config.json"))
    tensors = weights.stored_tensors(directory)
    prefix, stripped = without_prefix(tensors)
    if prefix:
        told = f"clipjax: the weights in {directory} all begin with {prefix!r}; it is left out."
        print(told, file=sys.stderr, flush=True)
        tensors = {name: tensors[stored] for name, stored in stripped.items()}
    _check_projection(config, tensors)
    shapes = {name: stored.shape for name, stored in tensors.items()}
    names = check_tensors(shapes, config, f"the weights in {directory}")

    def read(name: str) -> np.ndarray:
        tensor = weights.read_tensor(tensors[name])
        tensor = tensor.reshape(()) if our_path(name) == "logit_scale" else tensor
        held = jax.dtypes.canonicalize_dtype(tensor.dtype if dtype is None else dtype)
        return weights.checked(tensors[name].name, tensor, held, tensors[name].file)

    params = params_from_hf(names, read, config, dtype)
    if image_size in (None, config.vision and config.vision.image_size):
        return config, params
    return with_image_size(config, params, image_size)


def _check_projection(config: CLIPConfig, tensors: Mapping[str, weights.Stored]) -> None:
    """Refuse exports of one tower without its projection: they have no shared embedding space."""
    if config.vision is not None and config.text is not None:
        return
    name = f"{'text' if config.vision is None else 'visual'}_projection.weight"
    if name not in tensors:
        raise CheckpointError(f"the weights hold no {name}; export the ...WithProjection variant.")


def check_size(config: CLIPConfig, preprocess: Any, origin: object) -> None:
    """Raise CheckpointError unless the preprocessing makes images of the model's size."""
    if config.vision.image_size != preprocess.size:
        fault = f"preprocessing to {preprocess.size} pixels, a tower of {config.vision.image_size}"
        raise CheckpointError(f"{origin} has {fault}; correct one, or set image_size.")


def with_image_size(config: Any, params: PyTree, size: int) -> tuple[Any, PyTree]:
    """Interpolate the position embeddings of an image tower; CheckpointError: a size of none."""
    if config.vision is None:
        raise CheckpointError(f"image_size {size} does not fit: the model has no image tower.")
    if size <= 0 or size % (patch := config.vision.patch_size):
        raise CheckpointError(f"image_size {size} is no multiple of the patches of {patch} pixels.")
    vision = dataclasses.replace(config.vision, image_size=size)
    table = np.asarray(params["vision"]["position_embedding"])
    resized = jnp.asarray(resize_positions(table, size // vision.patch_size))
    tower = {**params["vision"], "position_embedding": resized}
    return dataclasses.replace(config, vision=vision), {**params, "vision": tower}


def save_clip(
    directory: str | os.PathLike, config: CLIPConfig, params: PyTree, dtype: Any = None
) -> None:
    """Write config.json and model.safetensors, which `transformers.CLIPModel` opens too.

    Parameters are stored in `dtype`; None changes no bit. CheckpointError if not finite in it.
    """
    directory = pathlib.Path(directory)
    file = directory / weights.SINGLE
    tensors = {
        name: weights.checked(name, tensor, dtype or tensor.dtype, file)
        for name, tensor in params_to_hf(params, config).items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    weights.write_tensors(file, tensors)
    dtypes = {str(tensor.dtype) for tensor in tensors.values()}
    stored = dtypes.pop() if len(dtypes) == 1 else "float32"
    write_json(directory / "config.json", config_to_hf(config) | {"dtype": stored})
