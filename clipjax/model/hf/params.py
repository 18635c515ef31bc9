"""A model's named Hugging Face tensors <-> our parameter tree, every name and shape checked."""

from __future__ import annotations

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
LISTED = 5  # tensors of a kind that a refusal names
# What wrappers put before every name: training frameworks, compilers, adapters.
PREFIXES = ("clip.", "clip_model.", "model.", "module.", "base_model.", "_orig_mod.", "net.")


def abstract_params(config: CLIPConfig) -> PyTree:
    """Shapes and dtypes of a model's parameters, without making any.

    The blocks of a tower are alike, so one of each is traced, once for a config in a process:
    tracing all takes seconds.
    """
    return jax.tree.map(lambda leaf: leaf, _abstract_params(config))


@functools.lru_cache(maxsize=8)
def _abstract_params(config: CLIPConfig) -> PyTree:
    """The same tree for every call, which nobody may change."""
    towers = {name: tower for name in ("vision", "text") if (tower := getattr(config, name))}
    shallow = {
        name: dataclasses.replace(tower, num_hidden_layers=1) for name, tower in towers.items()
    }
    params = _traced(dataclasses.replace(config, **shallow))
    for name, tower in towers.items():
        rest = dict(params[name])
        block = rest.pop("block_0")
        blocks = {f"block_{i}": block for i in range(tower.num_hidden_layers)}
        params = {**params, name: {**rest, **blocks}}
    return params


def _traced(config: CLIPConfig) -> PyTree:
    """The same from what a model's initialisation does, block by block."""

    def run(module):
        if config.vision:
            size = config.vision.image_size
            module.encode_image(jnp.zeros((1, size, size, config.vision.num_channels)))
        if config.text:
            module.encode_text(jnp.zeros((1, 2), jnp.int32))

    init = lambda key: CLIP(config).init(key, method=run)
    return jax.eval_shape(init, jax.random.key(0))["params"]


def flat(tree: PyTree) -> dict[str, Any]:
    """Leaves by their keys joined with "/".

    >>> flat({"classifier": {"layer_0": {"bias": 1}}})
    {'classifier/layer_0/bias': 1}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]], config: CLIPConfig, origin: str
) -> dict[str, str]:
    """Path in our tree -> Hugging Face name, for every parameter the config asks for.

    A whole model without `logit_scale` gets the config's initial value (its path is not returned).

    Raises:
      CheckpointError: tensors that are missing (-), unexpected (+) or of another shape (!), the
        first of each kind listed and all counted.
    """
    expected = flat(abstract_params(config))
    found = {our_path(name): name for name in shapes if our_path(name)}
    more = [f"+ {n} {tuple(shapes[n])}" for p, n in found.items() if p not in expected]
    missing, wrong = [], []
    for path, value in expected.items():
        wanted = hf_shape(path, value.shape, config)
        if path not in found:
            if path != "logit_scale":
                missing.append(f"- {hf_name(path)} {wanted}")
        elif tuple(shapes[found[path]]) not in _accepted(path, wanted):
            given = tuple(shapes[found[path]])
            wrong.append(f"! {found[path]} is {given}, the config wants {wanted}")
    if complaints := [line for kind in (missing, more, wrong) for line in _first(kind)]:
        raise CheckpointError(
            f"{origin} do not fit their config.json ({len(missing)} missing -, {len(more)} "
            f"unexpected +, {len(wrong)} of the wrong shape !); give the config.json that belongs "
            "to them:\n  " + "\n  ".join(complaints)
        )
    return {path: found[path] for path in expected if path in found}


def _first(lines: list[str]) -> list[str]:
    """The first few lines of a kind, and how many more there are."""
    more = len(lines) - LISTED
    return [*sorted(lines)[:LISTED], *([f"{lines[0][0]} and {more} more"] if more > 0 else [])]


def without_prefix(names: Collection[str]) -> tuple[str, dict[str, str]]:
    """The wrapper's prefix that all names carry, "" if none, and stripped name -> name.

    >>> without_prefix(["module.clip.logit_scale", "module.clip.text_projection.weight"])[0]
    'module.clip.'
    """
    prefix, left = "", list(names)
    while found := [p for p in PREFIXES if left and all(n.startswith(p) for n in left)]:
        prefix += found[0]
        left = [name.removeprefix(found[0]) for name in left]
    return prefix, dict(zip(left, names, strict=True))


def _accepted(path: str, wanted: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    # Some exporters store scalars as vectors of one.
    return (wanted, (1,)) if path == "logit_scale" else (wanted,)


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
      dtype: of a logit scale that is not among them; None for float32.
    """
    abstract = abstract_params(config)

    def leaf(path):
        if path not in names:  # only ever the logit scale
            return jnp.asarray(config.logit_scale_init_value, dtype or jnp.float32)
        return jnp.asarray(to_ours(path, read(names[path])))

    return jax.tree.unflatten(jax.tree.structure(abstract), [leaf(p) for p in flat(abstract)])


def params_to_hf(params: PyTree, config: CLIPConfig) -> dict[str, np.ndarray]:
    """Named Hugging Face tensors of our tree, the inverse of `params_from_hf`."""
    return {
        hf_name(path): to_hf(path, np.asarray(value), config)
        for path, value in flat(params).items()
    }
