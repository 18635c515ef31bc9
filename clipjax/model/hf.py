"""Hugging Face CLIP directories in and out: names, shapes and dtypes checked, safetensors only.

`transformers` removed its Flax models in version 5; this file is what takes their place. Reading
needs neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.log import write_json
from clipjax.model.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
from clipjax.model.hub import find_model
from clipjax.model.positions import resize_positions
from clipjax.model.weights import (
    SINGLE,
    Stored,
    read_json,
    read_tensor,
    stored_tensors,
    write_tensors,
)

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


_VISION_ONLY, _TEXT_ONLY = "clip_vision_model", "clip_text_model"


def config_from_hf(data: dict) -> CLIPConfig:
    """Reads the dict of a `config.json`: a whole CLIP, or one of its towers.

    Sizes that a file leaves out are Hugging Face's defaults, ViT-B/32's.

    Raises:
      CheckpointError: another type of model, or sizes that do not fit each other.
    """
    kind = data.get("model_type", "clip")
    if kind not in ("clip", _VISION_ONLY, _TEXT_ONLY):
        raise CheckpointError(f"this is a {kind!r} model; clipjax reads models of type 'clip'.")
    sections = {
        VisionConfig: _section(data, kind, "vision_config", _VISION_ONLY),
        TextConfig: _section(data, kind, "text_config", _TEXT_ONLY),
    }

    def tower(of):
        if sections[of] is None:
            return None
        names = {f.name for f in dataclasses.fields(of)}
        given = {k: _plain(k, v) for k, v in sections[of].items() if k in names}
        return of(**(_DEFAULTS[of] | given))

    try:
        vision, text = tower(VisionConfig), tower(TextConfig)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json describes no CLIP that can be built: {error}") from None
    single = [s for s in sections.values() if s is not None] if kind != "clip" else []
    projection = next((s["projection_dim"] for s in single if "projection_dim" in s), None)
    scale = data.get("logit_scale_init_value", 2.6592)
    return CLIPConfig(vision, text, projection or data.get("projection_dim", 512), scale)


def _plain(name: str, value: Any) -> Any:
    """One number where newer files may hold a list: square image sizes, a single EOS id."""
    if not isinstance(value, (list, tuple)):
        return value
    if len(set(value)) != 1:
        raise ValueError(f"{name} is {value}; clipjax reads one number there.")
    return value[0]


def _section(data: dict, kind: str, name: str, single: str) -> dict | None:
    """A tower's part of a config.json; None if the file is about the other tower only.

    Whole models nest it. Old files have it twice, and then transformers takes `vision_config_dict`,
    so that is what the weights were used with. Exports of one tower have it at the top, or keep
    the nesting of the model they were cut from.
    """
    if kind not in ("clip", single):
        return None
    nested = data.get(f"{name}_dict") or data.get(name)
    return nested or (data if kind == single else {})


# What Hugging Face assumes where a config.json is silent (ViT-B/32's sizes).
_DEFAULTS = {
    VisionConfig: dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    ),
    TextConfig: dict(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        pad_token_id=1,
    ),
}


def config_to_hf(config: CLIPConfig) -> dict:
    """The dict of a `config.json` that transformers reads."""

    def tower(values, kind):
        sizes = {**dataclasses.asdict(values), "projection_dim": config.projection_dim}
        return {**sizes, "model_type": kind}

    if config.text is None:
        names = {"architectures": ["CLIPVisionModelWithProjection"]}
        return names | tower(config.vision, _VISION_ONLY)
    if config.vision is None:
        return {"architectures": ["CLIPTextModelWithProjection"]} | tower(config.text, _TEXT_ONLY)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init_value,
        "vision_config": tower(config.vision, _VISION_ONLY),
        "text_config": tower(config.text, _TEXT_ONLY),
    }


def abstract_params(config: CLIPConfig) -> PyTree:
    """Shapes and dtypes of a model's parameters, without making any."""

    def run(module):
        if config.vision:
            size = config.vision.image_size
            module.encode_image(jnp.zeros((1, size, size, config.vision.num_channels)))
        if config.text:
            module.encode_text(jnp.zeros((1, 2), jnp.int32))

    init = lambda key: CLIP(config).init(key, method=run)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0))["params"]


def _flat(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]], config: CLIPConfig, origin: str
) -> dict[str, str]:
    """Path in our tree -> Hugging Face name, for every parameter the config asks for.

    A whole model without `logit_scale` gets the config's initial value (its path is not returned).

    Raises:
      CheckpointError: tensors that are missing (-), unexpected (+) or of another shape (!), all
        listed in one message.
    """
    expected = _flat(abstract_params(config))
    found = {our_path(name): name for name in shapes if our_path(name)}
    complaints = [f"+ {n} {tuple(shapes[n])}" for p, n in found.items() if p not in expected]
    for path, value in expected.items():
        wanted = _hf_shape(path, value.shape, config)
        if path not in found:
            if path != "logit_scale":
                complaints.append(f"- {hf_name(path)} {wanted}")
        elif tuple(shapes[found[path]]) not in _accepted(path, wanted):
            given = tuple(shapes[found[path]])
            complaints.append(f"! {found[path]} is {given}, the config wants {wanted}")
    if complaints:
        raise CheckpointError(
            f"{origin} do not fit their config.json (- missing, + unexpected, ! wrong shape):\n  "
            + "\n  ".join(sorted(complaints))
        )
    return {path: found[path] for path in expected if path in found}


def _accepted(path: str, wanted: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    # Some exporters store scalars as vectors of one.
    return (wanted, (1,)) if path == "logit_scale" else (wanted,)


def _hf_shape(path: str, shape: tuple[int, ...], config: CLIPConfig) -> tuple[int, ...]:
    if path == "vision/patch_embedding":
        patch = config.vision.patch_size
        return (shape[1], config.vision.num_channels, patch, patch)
    return shape[::-1] if path.endswith("/kernel") else shape


def params_from_hf(
    names: Mapping[str, str],
    read: Callable[[str], np.ndarray],
    config: CLIPConfig,
    dtype: Any = None,
) -> PyTree:
    """Fetches tensors one by one and turns them into our tree.

    Args:
      names: path in our tree -> Hugging Face name, from `check_tensors`.
      read: Hugging Face name -> tensor. Called once a tensor, so that no more than one of them is
        in memory beside the parameters.
      config: of the model.
      dtype: of the parameters; None keeps each as it is stored.
    """
    abstract = abstract_params(config)

    def leaf(path):
        if path not in names:  # only ever the logit scale
            return jnp.asarray(config.logit_scale_init_value, dtype or jnp.float32)
        tensor = _to_ours(path, read(names[path]))
        return jnp.asarray(tensor if dtype is None else tensor.astype(dtype))

    return jax.tree.unflatten(jax.tree.structure(abstract), [leaf(p) for p in _flat(abstract)])


def params_to_hf(params: PyTree, config: CLIPConfig) -> dict[str, np.ndarray]:
    """Named Hugging Face tensors of our tree, the inverse of `params_from_hf`."""
    return {
        hf_name(path): _to_hf(path, np.asarray(value), config)
        for path, value in _flat(params).items()
    }


def load_clip(
    name_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: Any = None,
    image_size: int | None = None,
) -> tuple[CLIPConfig, PyTree]:
    """Reads a CLIP in Hugging Face layout, or one tower of it, without torch.

    Args:
      name_or_path: a directory, a Hub id ("openai/clip-vit-base-patch32"; downloaded once into
        Hugging Face's cache), or "tiny" for the embedded model.
      revision: branch, tag or commit of a Hub id.
      dtype: of the parameters; None keeps what is stored (half precision stays half). Train on
        float32. What a model *computes* in is `CLIP(config, dtype=...)`.
      image_size: another side length in pixels than the model's own; the position embeddings are
        interpolated bicubically, as transformers' `interpolate_pos_encoding=True` does.

    Returns:
      (config, params) for `CLIP(config).apply({"params": params}, ...)`.

    Raises:
      CheckpointError: nothing there, no network, a damaged file, weights that are a pickle,
        tensors that do not fit their config, or an image size that patches do not divide.

    >>> import jax, numpy as np
    >>> from clipjax import CLIP, load_clip
    >>> config, params = load_clip("tiny")
    >>> image = np.zeros((1, 64, 64, 3), np.float32)
    >>> CLIP(config).apply({"params": params}, image, method="encode_image").shape
    (1, 128)
    """
    directory = find_model(name_or_path, revision)
    config = config_from_hf(read_json(directory / "config.json"))
    tensors = stored_tensors(directory)
    _check_projection(config, tensors)
    shapes = {name: stored.shape for name, stored in tensors.items()}
    names = check_tensors(shapes, config, f"the weights in {directory}")
    params = params_from_hf(names, lambda name: _read(tensors[name]), config, dtype)
    if image_size in (None, config.vision and config.vision.image_size):
        return config, params
    return _with_image_size(config, params, image_size)


def _read(stored: Stored) -> np.ndarray:
    tensor = read_tensor(stored)
    return tensor.reshape(()) if our_path(stored.name) == "logit_scale" else tensor


def _check_projection(config: CLIPConfig, tensors: Mapping[str, Stored]) -> None:
    """Exports of a tower without its projection have no embedding that texts or images share."""
    for tower, name in ((config.vision, "visual_projection"), (config.text, "text_projection")):
        only_tower = (config.vision is None) != (config.text is None)
        if only_tower and tower and f"{name}.weight" not in tensors:
            raise CheckpointError(
                f"the weights hold a tower without {name}.weight, so its output lies in no space "
                "that images and texts share; export the model's ...WithProjection variant."
            )


def check_size(config: CLIPConfig, preprocess: Any, origin: object) -> None:
    """Raises CheckpointError unless the preprocessing makes pictures that the model reads."""
    if config.vision.image_size != preprocess.size:
        raise CheckpointError(
            f"{origin}: its preprocessor makes pictures of {preprocess.size} pixels, its "
            f"config.json wants {config.vision.image_size}; correct the file that is wrong, or "
            "name the size you want as image_size."
        )


def _with_image_size(config: CLIPConfig, params: PyTree, size: int) -> tuple[CLIPConfig, PyTree]:
    if config.vision is None or size <= 0 or size % config.vision.patch_size:
        patch = config.vision and config.vision.patch_size
        raise CheckpointError(
            f"image_size {size} does not fit: the model has "
            + (f"patches of {patch} pixels; choose a multiple." if patch else "no image tower.")
        )
    vision = dataclasses.replace(config.vision, image_size=size)
    table = np.asarray(params["vision"]["position_embedding"])
    resized = jnp.asarray(resize_positions(table, size // vision.patch_size))
    tower = {**params["vision"], "position_embedding": resized}
    return dataclasses.replace(config, vision=vision), {**params, "vision": tower}


def save_clip(
    directory: str | os.PathLike, config: CLIPConfig, params: PyTree, dtype: Any = None
) -> None:
    """Writes config.json and model.safetensors, which `transformers.CLIPModel` opens too.

    Args:
      directory: made if missing.
      config: of the model.
      params: its parameters.
      dtype: to store; None stores each parameter as it is, so that loading and saving a model
        changes no bit.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = params_to_hf(params, config)
    if dtype is not None:
        tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    write_tensors(directory / SINGLE, tensors)
    dtypes = {str(tensor.dtype) for tensor in tensors.values()}
    stored = dtypes.pop() if len(dtypes) == 1 else "float32"
    write_json(directory / "config.json", config_to_hf(config) | {"dtype": stored})
