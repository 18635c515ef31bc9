"""Names and layouts of single tensors: Hugging Face's <-> a path in our parameter tree."""

import re

import numpy as np

from clipjax.model.clip import CLIPConfig

_EMBEDDINGS = {
    f"{tower}/{kind}_embedding": f"{tower}_model.embeddings.{kind}_embedding{end}"
    for tower, kind, end in (
        ("vision", "patch", ".weight"),
        ("vision", "class", ""),
        ("vision", "position", ".weight"),
        ("text", "token", ".weight"),
        ("text", "position", ".weight"),
    )
}
_OUR_EMBEDDINGS = {name: path for path, name in _EMBEDDINGS.items()}


def our_path(name: str) -> str | None:
    """Return the path of a Hugging Face tensor in our tree; None for buffers without weights.

    An unknown name gets a path that no model has.

    >>> our_path("vision_model.encoder.layers.3.mlp.fc1.weight")
    'vision/block_3/fc1/kernel'
    """
    if name.endswith("position_ids"):
        return None
    if name in _OUR_EMBEDDINGS:
        return _OUR_EMBEDDINGS[name]
    path = re.sub(r"^(vision|text)_model\.", r"\1/", name)
    path = re.sub(r"/encoder\.layers\.(\d+)\.(mlp\.)?", r"/block_\1/", path).replace(".", "/")
    path = path.replace("/pre_layrnorm/", "/pre_layernorm/")
    path = re.sub(r"(norm\d?)/weight$", r"\1/scale", path)
    path = re.sub("/weight$", "/kernel", path)
    return path if hf_name(path) == name else name


def hf_name(path: str) -> str:
    """Return the Hugging Face name of a parameter of ours, the inverse of `our_path`.

    >>> hf_name("vision/block_3/layer_norm1/scale")
    'vision_model.encoder.layers.3.layer_norm1.weight'
    """
    if path in _EMBEDDINGS:
        return _EMBEDDINGS[path]
    name = re.sub(r"/(kernel|scale)$", ".weight", path).replace("/bias", ".bias")
    # Hugging Face's own spelling, kept for compatibility since 2021.
    name = name.replace("vision/pre_layernorm", "vision/pre_layrnorm")
    name = re.sub(r"/(fc1|fc2)", r"/mlp.\1", name)
    name = re.sub(r"^(vision|text)/block_(\d+)/", r"\1_model.encoder.layers.\2.", name)
    return re.sub(r"^(vision|text)/", r"\1_model.", name).replace("/", ".")


def to_ours(path: str, tensor: np.ndarray) -> np.ndarray:
    """Convert a tensor from Hugging Face's layout to ours."""
    if path == "vision/patch_embedding":  # [D, C, P, P] -> [P * P * C, D]
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    return tensor.T if path.endswith("/kernel") else tensor


def to_hf(path: str, tensor: np.ndarray, config: CLIPConfig) -> np.ndarray:
    """Invert `to_ours`, in C order; dtype and bits stay."""
    if path == "vision/patch_embedding":
        patch = config.vision.patch_size
        split = tensor.reshape(patch, patch, config.vision.num_channels, -1)
        tensor = split.transpose(3, 2, 0, 1)
    elif path.endswith("/kernel"):
        tensor = tensor.T
    return np.asarray(tensor, order="C")  # not ascontiguousarray: it makes scalars 1-d


def hf_shape(path: str, shape: tuple[int, ...], config: CLIPConfig) -> tuple[int, ...]:
    """Return the shape that `to_hf` gives a parameter of ours of the given shape."""
    if path == "vision/patch_embedding":
        patch = config.vision.patch_size
        return (shape[1], config.vision.num_channels, patch, patch)
    return shape[::-1] if path.endswith("/kernel") else shape
