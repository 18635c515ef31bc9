"""Hugging Face CLIP directories in and out: names, shapes and dtypes checked, safetensors only.

`transformers` removed its Flax models in version 5; this file is what takes their place. Reading
needs neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIP, CLIPConfig, TextConfig, VisionConfig

PyTree = Any

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


def _to_ours(path: str, tensor: np.ndarray) -> np.ndarray:
    if path == "vision/patch_embedding":  # [D, C, P, P] -> [P * P * C, D]
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    return tensor.T if path.endswith("/kernel") else tensor


def _to_hf(path: str, tensor: np.ndarray, config: CLIPConfig) -> np.ndarray:
    if path == "vision/patch_embedding":
        patch = config.vision.patch_size
        split = tensor.reshape(patch, patch, config.vision.num_channels, -1)
        tensor = split.transpose(3, 2, 0, 1)
    elif path.endswith("/kernel"):
        tensor = tensor.T
    return np.asarray(tensor, order="C")  # not ascontiguousarray: it makes scalars 1-d


def config_from_hf(data: dict) -> CLIPConfig:
    """Reads the dict of a `config.json` of `model_type` clip."""
    if data.get("model_type", "clip") != "clip":
        raise CheckpointError(
            f"this is a {data['model_type']!r} model; clipjax reads models of type 'clip'."
        )

    def tower(kind, section):
        values = data.get(section) or data.get(section + "_dict") or {}
        names = {f.name for f in dataclasses.fields(kind)}
        return kind(**(_DEFAULTS[kind] | {k: v for k, v in values.items() if k in names}))

    projection = data.get("projection_dim", 512)
    scale = data.get("logit_scale_init_value", 2.6592)
    return CLIPConfig(
        tower(VisionConfig, "vision_config"), tower(TextConfig, "text_config"), projection, scale
    )


# What Hugging Face assumes where a config.json is silent (ViT-B/32's sizes).
_DEFAULTS = {
    VisionConfig: dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    ),
    TextConfig: dict(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8
    ),
}


def config_to_hf(config: CLIPConfig) -> dict:
    """The dict of a `config.json` that transformers reads."""
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init_value,
        "vision_config": {
            **dataclasses.asdict(config.vision),
            "projection_dim": config.projection_dim,
            "model_type": "clip_vision_model",
        },
        "text_config": {
            **dataclasses.asdict(config.text),
            "projection_dim": config.projection_dim,
            "model_type": "clip_text_model",
        },
    }


def abstract_params(config: CLIPConfig) -> PyTree:
    """Shapes and dtypes of a model's parameters, without making any."""
    size = config.vision.image_size
    return jax.eval_shape(
        CLIP(config).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, size, size, config.vision.num_channels), jnp.float32),
        jax.ShapeDtypeStruct((1, 2), jnp.int32),
    )["params"]


def _flat(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def params_from_hf(tensors: dict[str, np.ndarray], config: CLIPConfig, origin: str = "") -> PyTree:
    """Turns named Hugging Face tensors into our tree, float32.

    Raises:
      CheckpointError: tensors that are missing (-), unexpected (+) or of another shape (!), all
        listed in one message.
    """
    expected = _flat(abstract_params(config))
    found = {our_path(name): (name, tensor) for name, tensor in tensors.items()}
    found.pop(None, None)
    ours, complaints = {}, []
    for path, (name, tensor) in found.items():
        if path not in expected:
            complaints.append(f"+ {name} {tuple(tensor.shape)}")
            continue
        value = _to_ours(path, tensor)
        if value.shape != expected[path].shape:
            wanted = _to_hf(path, np.empty(expected[path].shape, np.bool_), config).shape
            complaints.append(f"! {name} is {tuple(tensor.shape)}, the config wants {wanted}")
        ours[path] = value
    complaints += [f"- {hf_name(path)}" for path in expected if path not in found]
    if complaints:
        raise CheckpointError(
            f"{origin or 'the weights'} do not fit their config.json "
            "(- missing, + unexpected, ! wrong shape):\n  " + "\n  ".join(sorted(complaints))
        )
    leaves = [jnp.asarray(ours[path], jnp.float32) for path in expected]
    return jax.tree.unflatten(jax.tree.structure(abstract_params(config)), leaves)


def params_to_hf(params: PyTree, config: CLIPConfig) -> dict[str, np.ndarray]:
    """Named Hugging Face tensors of our tree, the inverse of `params_from_hf`."""
    return {
        hf_name(path): _to_hf(path, np.asarray(value), config)
        for path, value in _flat(params).items()
    }


def read_json(path: pathlib.Path) -> dict:
    """A JSON file's dict, or one sentence on what is wrong with it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; a CLIP directory in Hugging Face layout holds config.json, "
            "model.safetensors, preprocessor_config.json and the tokenizer's files."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again.") from None


def load_clip(directory: str | os.PathLike) -> tuple[CLIPConfig, PyTree]:
    """Reads a CLIP from a local directory in Hugging Face layout.

    Returns:
      (config, params): params are float32, whatever dtype is stored.

    Raises:
      CheckpointError: no such directory or file, a damaged file, or tensors that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise CheckpointError(
            f"model {str(directory)!r} is not a directory; give the path of a CLIP in Hugging "
            "Face layout, or 'tiny' for the embedded one."
        )
    config = config_from_hf(read_json(directory / "config.json"))
    weights = directory / "model.safetensors"
    if not weights.exists():
        pickled = (directory / "pytorch_model.bin").exists()
        raise CheckpointError(
            f"{directory} has no model.safetensors"
            + (
                "; its pytorch_model.bin is a pickle, which can run code and is never read: "
                "convert it once with transformers' CLIPModel.from_pretrained(...)"
                ".save_pretrained(...)."
                if pickled
                else "; download it beside config.json."
            )
        )
    try:
        tensors = {name: np.asarray(t) for name, t in load_file(weights).items()}
    except SafetensorError as error:
        raise CheckpointError(
            f"{weights} is damaged or cut short ({error}); download it again."
        ) from None
    return config, params_from_hf(tensors, config, str(weights))


def save_clip(
    directory: str | os.PathLike, config: CLIPConfig, params: PyTree, dtype: Any = np.float32
) -> None:
    """Writes config.json and model.safetensors, which `transformers.CLIPModel` opens too."""
    from safetensors.numpy import save_file

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.astype(dtype) for k, v in params_to_hf(params, config).items()}
    scratch = directory / "model.safetensors.partial"
    save_file(tensors, scratch, metadata={"format": "pt"})
    scratch.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(scratch, directory / "model.safetensors")  # never a half-written file by that name
    data = config_to_hf(config) | {"dtype": np.dtype(dtype).name}
    (directory / "config.json").write_text(json.dumps(data, indent=2) + "\n")
