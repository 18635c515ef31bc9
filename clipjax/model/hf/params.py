"""A model's named Hugging Face tensors <-> our parameter tree, every name and shape checked."""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIP, CLIPConfig

PyTree = Any
LISTED = 5  # tensors of a kind that an error names
# Prefixes that training frameworks, compilers and adapters put before every name.
PREFIXES = ("clip.", "clip_model.", "model.", "module.", "base_model.", "_orig_mod.", "net.")
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
    if name.endswith("position_ids") or name in _OUR_EMBEDDINGS:
        return _OUR_EMBEDDINGS.get(name)
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


def abstract_params(config: CLIPConfig) -> PyTree:
    """Return shapes and dtypes of a model's parameters."""
    return jax.tree.map(lambda leaf: leaf, _traced(config))


@functools.lru_cache(maxsize=8)
def _traced(config: CLIPConfig) -> PyTree:
    """Trace one block of each tower, once for a config: all would take seconds. Never changed."""
    towers = {name: tower for name in ("vision", "text") if (tower := getattr(config, name))}
    shallow = {name: dataclasses.replace(t, num_hidden_layers=1) for name, t in towers.items()}

    def run(module):
        if config.vision:
            size = config.vision.image_size
            module.encode_image(jnp.zeros((1, size, size, config.vision.num_channels)))
        if config.text:
            module.encode_text(jnp.zeros((1, 2), jnp.int32))

    module = CLIP(dataclasses.replace(config, **shallow))
    params = jax.eval_shape(lambda key: module.init(key, method=run), jax.random.key(0))["params"]
    for name, tower in towers.items():
        rest = dict(params[name])
        block = rest.pop("block_0")
        blocks = {f"block_{i}": block for i in range(tower.num_hidden_layers)}
        params = {**params, name: {**rest, **blocks}}
    return params


def flat(tree: PyTree) -> dict[str, Any]:
    """Map leaves by their keys joined with "/".

    >>> flat({"classifier": {"layer_0": {"bias": 1}}})
    {'classifier/layer_0/bias': 1}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]], config: CLIPConfig, origin: str
) -> dict[str, str]:
    """Map the path in our tree of every parameter to its Hugging Face name, if there.

    Only a `logit_scale` may be missing. The CheckpointError counts tensors that are missing (-),
    unexpected (+) or of another shape (!), and lists some.
    """
    expected = flat(abstract_params(config))
    found = {our_path(name): name for name in shapes if our_path(name)}
    more = [f"+ {n} {tuple(shapes[n])}" for p, n in found.items() if p not in expected]
    missing, wrong = [], []
    for path, value in expected.items():
        wanted = hf_shape(path, value.shape, config)
        scalar = path == "logit_scale"  # some exporters store it as a vector of one
        if path not in found:
            missing += [] if scalar else [f"- {hf_name(path)} {wanted}"]
        elif (given := tuple(shapes[found[path]])) != wanted and not (scalar and given == (1,)):
            wrong.append(f"! {found[path]} is {given}, the config wants {wanted}")
    complaints = []
    for lines in (missing, more, wrong):
        complaints += sorted(lines)[:LISTED]
        if len(lines) > LISTED:
            complaints.append(f"{lines[0][0]} and {len(lines) - LISTED} more")
    if complaints:
        raise CheckpointError(
            f"{origin} do not fit their config.json ({len(missing)} missing -, {len(more)} "
            f"unexpected +, {len(wrong)} of the wrong shape !); give the config.json that belongs "
            "to them:\n  " + "\n  ".join(complaints)
        )
    return {path: found[path] for path in expected if path in found}


def without_prefix(names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the prefix of a wrapper that all names carry ("" if none), and stripped name -> name.

    >>> without_prefix(["module.clip.logit_scale", "module.clip.text_projection.weight"])[0]
    'module.clip.'
    """
    prefix, left = "", list(names)
    while found := [p for p in PREFIXES if left and all(n.startswith(p) for n in left)]:
        prefix += found[0]
        left = [name.removeprefix(found[0]) for name in left]
    return prefix, dict(zip(left, names, strict=True))


def params_from_hf(
    names: Mapping[str, str],
    read: Callable[[str], np.ndarray],
    config: CLIPConfig,
    dtype: Any = None,
) -> PyTree:
    """Read tensors one by one into our tree; only one of them is in memory beside it.

    `names` are of `check_tensors`, `read` maps them to tensors; `dtype`: of a missing logit scale.
    `jax.device_put`, as `jnp.asarray` compiles a program for each shape.
    """
    abstract = abstract_params(config)
    scale = lambda: jnp.asarray(config.logit_scale_init_value, dtype or jnp.float32)
    leaves = [
        jax.device_put(to_ours(path, read(names[path]))) if path in names else scale()
        for path in flat(abstract)
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def params_to_hf(params: PyTree, config: CLIPConfig) -> dict[str, np.ndarray]:
    """Return named Hugging Face tensors of our tree, the inverse of `params_from_hf`."""
    leaves = flat(params).items()
    return {hf_name(path): to_hf(path, np.asarray(value), config) for path, value in leaves}
