"""Read a supervised ViT in Hugging Face layout, without torch or transformers."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from clipjax.errors import CheckpointError
from clipjax.model.clip import VisionConfig
from clipjax.model.hf import weights
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.params import flat
from clipjax.model.vit import ViT, vit_path

PyTree = Any
# What Hugging Face assumes where a config.json is silent.
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}


def load_vit(
    name_or_path: str | os.PathLike, *, revision: str | None = None, dtype: Any = jnp.float32
) -> tuple[VisionConfig, PyTree]:
    """Read a model of type "vit", its own class head and pooler left out.

    Args and errors are those of `clipjax.load_clip`.

    Returns:
      (config, params) for `ViT(config).apply({"params": params}, images)`.

    Raises:
      CheckpointError: no such model, another type of model, no biases in attention, weights that
        are damaged, do not fit the config or are not finite.
    """
    directory = find_model(name_or_path, revision)
    data = weights.read_json(directory / "config.json")
    if (kind := data.get("model_type")) != "vit":
        raise CheckpointError(f"{directory} is a {kind!r} model; load_vit reads type 'vit'.")
    if not data.get("qkv_bias", True):
        raise CheckpointError(f"{directory} has no qkv_bias; clipjax reads ViTs that have.")
    try:
        config = VisionConfig(**{key: data.get(key, usual) for key, usual in _DEFAULTS.items()})
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json describes no ViT that can be built: {error}") from None
    shape = (1, config.image_size, config.image_size, config.num_channels)
    init = lambda key: ViT(config).init(key, jnp.zeros(shape))
    expected = flat(jax.eval_shape(init, jax.random.key(0))["params"])
    stored = weights.stored_tensors(directory)
    found = {vit_path(name): tensor for name, tensor in stored.items() if vit_path(name)}
    lost, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if lost or more:
        raise CheckpointError(
            f"the weights in {directory} do not fit their config.json: {len(lost)} missing "
            f"{lost[:3]}, {len(more)} unexpected {more[:3]}."
        )

    def read(path: str) -> np.ndarray:
        tensor = _ours(path, weights.read_tensor(found[path]))
        if tensor.shape != expected[path].shape:
            raise CheckpointError(
                f"{found[path].name} in {directory} is {tensor.shape} in clipjax's layout; the "
                f"config wants {expected[path].shape}."
            )
        return weights.checked(found[path].name, tensor, dtype, found[path].file)

    tree = {tuple(path.split("/")): jnp.asarray(read(path)) for path in expected}
    return config, unflatten_dict(tree)


def _ours(path: str, tensor: np.ndarray) -> np.ndarray:
    """Convert a tensor from Hugging Face's layout to ours."""
    if path == "patch_embedding":  # [D, C, P, P] -> [P * P * C, D]
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    if path == "class_embedding":
        return tensor.reshape(-1)
    if path == "position_embedding":
        return tensor[0]
    return tensor.T if path.endswith("/kernel") else tensor
