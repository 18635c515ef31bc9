"""A model's named Hugging Face tensors <-> our parameter tree, every name and shape checked."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.hf.names import hf_name, hf_shape, our_path, to_hf, to_ours

PyTree = Any
LISTED = 5  # tensors of a kind that an error names
# Prefixes that training frameworks, compilers and adapters put before every name.
PREFIXES = ("clip.", "clip_model.", "model.", "module.", "base_model.", "_orig_mod.", "net.")


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
    """Map the path in our tree of every parameter of the config to its Hugging Face name.

    A missing `logit_scale` is left out; it gets the config's initial value. The CheckpointError
    counts tensors that are missing (-), unexpected (+) or of another shape (!), and lists some.
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

    `names` maps paths in our tree to Hugging Face names, from `check_tensors`, and `read` these to
    tensors; `dtype` is that of a missing logit scale.
    """
    abstract = abstract_params(config)
    scale = lambda: jnp.asarray(config.logit_scale_init_value, dtype or jnp.float32)
    leaves = [
        jnp.asarray(to_ours(path, read(names[path]))) if path in names else scale()
        for path in flat(abstract)
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def params_to_hf(params: PyTree, config: CLIPConfig) -> dict[str, np.ndarray]:
    """Return named Hugging Face tensors of our tree, the inverse of `params_from_hf`."""
    leaves = flat(params).items()
    return {hf_name(path): to_hf(path, np.asarray(value), config) for path, value in leaves}
