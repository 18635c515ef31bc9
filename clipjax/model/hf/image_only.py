"""Read supervised ViTs, DINOv2 and ResNets in Hugging Face layout, without torch."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import VisionConfig
from clipjax.model.dinov2 import DINOv2, DINOv2Config, dinov2_path
from clipjax.model.hf import weights
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.trees import built, read_tree, shapes
from clipjax.model.resnet import BATCH_NORM_EPS, ResNet, ResNetConfig, resnet_path
from clipjax.model.vit import ViT, vit_path

PyTree = Any
# What Hugging Face assumes where a config.json is silent.
_VIT = {
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
_DINOV2 = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "num_channels": 3,
}
_PATCHES = {"dinov2": 14, "dinov2_with_registers": 16}
_RESNET = {
    "embedding_size": 64,
    "hidden_sizes": (256, 512, 1024, 2048),
    "depths": (3, 4, 6, 3),
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
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
    directory, data = _opened(name_or_path, revision, ("vit",), "load_vit")
    config = built(lambda: VisionConfig(**_sizes(data, _VIT)), "ViT")
    side = config.image_size
    expected = shapes(ViT(config), (side, side, config.num_channels))
    found = _paths(directory, vit_path)
    read = lambda path: _of_transformer(path, weights.read_tensor(found[path]))
    return config, read_tree(directory, expected, found, read, dtype)


def load_dinov2(
    name_or_path: str | os.PathLike, *, revision: str | None = None, dtype: Any = jnp.float32
) -> tuple[DINOv2Config, PyTree]:
    """Read a model of type "dinov2" or "dinov2_with_registers", its own class head left out.

    Args and errors are those of `clipjax.load_clip`.

    Returns:
      (config, params) for `DINOv2(config).apply({"params": params}, images)`.

    Raises:
      CheckpointError: no such model, another type of model, no biases in attention, weights that
        are damaged, do not fit the config or are not finite.
    """
    directory, data = _opened(name_or_path, revision, tuple(_PATCHES), "load_dinov2")
    kind = data["model_type"]
    registers = data.get("num_register_tokens", 4) if kind == "dinov2_with_registers" else 0

    def build():
        sizes = _sizes(data, _DINOV2)
        hidden = int(sizes["hidden_size"] * data.get("mlp_ratio", 4))
        swiglu = bool(data.get("use_swiglu_ffn", False))
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden
        patch = data.get("patch_size", _PATCHES[kind])
        more = {"patch_size": patch, "swiglu": swiglu, "registers": registers}
        more["grid"] = sizes["image_size"] // patch
        return DINOv2Config(intermediate_size=hidden, **sizes, **more)

    config = built(build, "DINOv2")
    expected = shapes(DINOv2(config), (config.patch_size, config.patch_size, config.num_channels))
    found = {}
    for path, tensor in _paths(directory, dinov2_path).items():
        halves = {path: lambda x: x}
        if path.endswith("/weights_in/kernel") or path.endswith("/weights_in/bias"):
            gate, up = (path.replace("weights_in", name) for name in ("gate", "up"))
            halves = {gate: lambda x: np.split(x, 2)[0], up: lambda x: np.split(x, 2)[1]}
        found |= {name: (tensor, half) for name, half in halves.items()}

    def read(path: str) -> np.ndarray:
        tensor, half = found[path]
        return _of_transformer(path, half(weights.read_tensor(tensor)))

    sources = {path: tensor for path, (tensor, _) in found.items()}
    return config, read_tree(directory, expected, sources, read, dtype)


def load_resnet(
    name_or_path: str | os.PathLike, *, revision: str | None = None, dtype: Any = jnp.float32
) -> tuple[ResNetConfig, PyTree]:
    """Read a model of type "resnet", its own class head left out, its statistics folded in.

    Args and errors are those of `clipjax.load_clip`.

    Returns:
      (config, params) for `ResNet(config).apply({"params": params}, images)`.

    Raises:
      CheckpointError: no such model, another type of model, weights that are damaged, do not fit
        the config or are not finite.
    """
    directory, data = _opened(name_or_path, revision, ("resnet",), "load_resnet")
    size = data.get("image_size", 224)

    def build():
        fields = _sizes(data, _RESNET)
        for key in ("hidden_sizes", "depths"):
            fields[key] = tuple(fields[key])
        return ResNetConfig(image_size=size, **fields)

    config = built(build, "ResNet")
    return config, read_resnet(directory, config, resnet_path, dtype)


def read_resnet(
    directory: pathlib.Path, config: ResNetConfig, path_of: Callable, dtype: Any
) -> PyTree:
    """Read the parameters of `ResNet(config)`, batch statistics folded in, as `read_tree` does.

    `path_of` maps names of stored tensors to paths of our tree, where a norm has "mean" and "var"
    beside "scale" and "bias"; None leaves one out.
    """
    expected = shapes(ResNet(config), (32, 32, config.num_channels))
    found = _paths(directory, path_of)
    norms = {path.removesuffix("/scale") for path in expected if path.endswith("/scale")}
    every = dict(expected)
    for norm in norms:
        every |= {f"{norm}/{name}": expected[f"{norm}/scale"] for name in ("mean", "var")}

    def read(path: str) -> np.ndarray:
        where, _, name = path.rpartition("/")
        if name == "kernel" or where not in norms:
            return _of_convolution(name, weights.read_tensor(found[path]), expected[path].ndim)
        value = lambda name: weights.read_tensor(found[f"{where}/{name}"]).astype(np.float64)
        with np.errstate(all="ignore"):  # what is not finite is refused below, by name
            factor = value("scale") / np.sqrt(value("var") + BATCH_NORM_EPS)
            folded = factor if name == "scale" else value("bias") - value("mean") * factor
        return folded.astype(np.float32)

    return read_tree(directory, expected, found, read, dtype, every)


def _of_convolution(name: str, tensor: np.ndarray, ndim: int) -> np.ndarray:
    """Convert a tensor of a ResNet, which is no norm's, from PyTorch's layout to ours."""
    if name != "kernel":
        return tensor
    if tensor.ndim == 4 and ndim == 2 and tensor.shape[2:] == (1, 1):  # a 1 x 1 of pooled channels
        tensor = tensor[:, :, 0, 0]
    if tensor.ndim == 4:  # [out, in, rows, columns] -> [rows, columns, in, out]
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T


def _opened(name_or_path, revision, kinds: tuple[str, ...], function: str):
    """Return a model's directory and its config.json, of a known type and with biases."""
    directory = find_model(name_or_path, revision)
    data = weights.read_json(directory / "config.json")
    if (kind := data.get("model_type")) not in kinds:
        known = " or ".join(map(repr, kinds))
        raise CheckpointError(f"{directory} is a {kind!r} model; {function} reads type {known}.")
    if not data.get("qkv_bias", True):
        raise CheckpointError(f"{directory} has no qkv_bias; {function} reads models that have.")
    return directory, data


def _sizes(data: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json says of the fields that `usual` has, or else this."""
    return {key: data.get(key, value) for key, value in usual.items()}


def _paths(directory: pathlib.Path, path_of: Callable) -> dict[str, weights.Stored]:
    stored = weights.stored_tensors(directory)
    return {path_of(name): tensor for name, tensor in stored.items() if path_of(name)}


def _of_transformer(path: str, tensor: np.ndarray) -> np.ndarray:
    """Convert a tensor of a transformer from Hugging Face's layout to ours."""
    if path == "patch_embedding":  # [D, C, P, P] -> [P * P * C, D]
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    if path == "class_embedding":
        return tensor.reshape(-1)
    if path in ("position_embedding", "registers"):
        return tensor[0]
    return tensor.T if path.endswith("/kernel") else tensor
