"""Names and layouts of single tensors: Hugging Face's <-> a path in our parameter tree."""

from __future__ import annotations

import re

import numpy as np

from clipjax.model.clip import CLIPConfig

# Hugging Face name <-> path in our tree. Kernels are transposed between the two layouts.
_BLOCK = (
    (r"self_attn\.(q_proj|k_proj|v_proj|out_proj)", r"self_attn/\1"),
    (r"mlp\.(fc1|fc2)", r"\1"),
    (r"(layer_norm1|layer_norm2)", r"\1"),
)
_NAMES: tuple[tuple[str, str], ...] = (
    (r"vision_model\.embeddings\.patch_embedding\.weight", "vision/patch_embedding"),
    (r"vision_model\.embeddings\.class_embedding", "vision/class_embedding"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "vision/position_embedding"),
    # Hugging Face's own spelling, kept for compatibility since 2021.
    (r"vision_model\.pre_layrnorm\.(weight|bias)", r"vision/pre_layernorm/\1"),
    (r"vision_model\.post_layernorm\.(weight|bias)", r"vision/post_layernorm/\1"),
    (r"text_model\.embeddings\.token_embedding\.weight", "text/token_embedding"),
    (r"text_model\.embeddings\.position_embedding\.weight", "text/position_embedding"),
    (r"text_model\.final_layer_norm\.(weight|bias)", r"text/final_layer_norm/\1"),
    (r"visual_projection\.(weight)", r"visual_projection/\1"),
    (r"text_projection\.(weight)", r"text_projection/\1"),
    (r"logit_scale", "logit_scale"),
)


def our_path(name: str) -> str | None:
    """The path in our tree of a Hugging Face tensor; None for buffers that carry no weights.

    >>> our_path("vision_model.encoder.layers.3.mlp.fc1.weight")
    'vision/block_3/fc1/kernel'
    """
    if name.endswith("position_ids"):
        return None
    for pattern, path in _NAMES:
        if match := re.fullmatch(pattern, name):
            return _leaf_name(match.expand(path))
    if match := re.fullmatch(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(\w+)", name):
        tower, number, middle, leaf = match.groups()
        for pattern, path in _BLOCK:
            if inner := re.fullmatch(pattern, middle):
                return _leaf_name(f"{tower}/block_{number}/{inner.expand(path)}/{leaf}")
    return name  # unknown: reported under the name it has


def _leaf_name(path: str) -> str:
    if not path.endswith("/weight"):
        return path
    return path[: -len("weight")] + ("scale" if "norm" in path.split("/")[-2] else "kernel")


def hf_name(path: str) -> str:
    """The Hugging Face name of a parameter of ours, the inverse of `our_path`.

    >>> hf_name("vision/block_3/layer_norm1/scale")
    'vision_model.encoder.layers.3.layer_norm1.weight'
    """
    fixed = {
        "vision/patch_embedding": "vision_model.embeddings.patch_embedding.weight",
        "vision/class_embedding": "vision_model.embeddings.class_embedding",
        "vision/position_embedding": "vision_model.embeddings.position_embedding.weight",
        "text/token_embedding": "text_model.embeddings.token_embedding.weight",
        "text/position_embedding": "text_model.embeddings.position_embedding.weight",
    }
    if path in fixed:
        return fixed[path]
    name = re.sub(r"/(kernel|scale)$", ".weight", path).replace("/bias", ".bias")
    name = name.replace("vision/pre_layernorm", "vision/pre_layrnorm")
    name = re.sub(r"/(fc1|fc2)", r"/mlp.\1", name)
    name = re.sub(r"^(vision|text)/block_(\d+)/", r"\1_model.encoder.layers.\2.", name)
    return re.sub(r"^(vision|text)/", r"\1_model.", name).replace("/", ".")


def to_ours(path: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor as Hugging Face stores it, in the layout it has at our `path`."""
    if path == "vision/patch_embedding":  # [D, C, P, P] -> [P * P * C, D]
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    return tensor.T if path.endswith("/kernel") else tensor


def to_hf(path: str, tensor: np.ndarray, config: CLIPConfig) -> np.ndarray:
    """The inverse of `to_ours`, in C order; dtype and bits stay."""
    if path == "vision/patch_embedding":
        patch = config.vision.patch_size
        split = tensor.reshape(patch, patch, config.vision.num_channels, -1)
        tensor = split.transpose(3, 2, 0, 1)
    elif path.endswith("/kernel"):
        tensor = tensor.T
    return np.asarray(tensor, order="C")  # not ascontiguousarray: it makes scalars 1-d


def hf_shape(path: str, shape: tuple[int, ...], config: CLIPConfig) -> tuple[int, ...]:
    """The shape that `to_hf` gives a parameter of ours of the given shape."""
    if path == "vision/patch_embedding":
        patch = config.vision.patch_size
        return (shape[1], config.vision.num_channels, patch, patch)
    return shape[::-1] if path.endswith("/kernel") else shape
