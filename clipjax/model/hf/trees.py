"""Files of named tensors -> a module's parameter tree, every name and shape checked."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from clipjax.errors import CheckpointError
from clipjax.model.hf import weights
from clipjax.model.hf.params import LISTED, flat

PyTree = Any


def built(build: Callable[[], Any], what: str) -> Any:
    """Return what `build` makes of a config.json; CheckpointError where that is not possible."""
    try:
        return build()
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        told = f"config.json describes no {what} that can be built: {error}"
        raise CheckpointError(told) from None


def shapes(module: nn.Module, *inputs: tuple[int, ...]) -> dict[str, Any]:
    """Return path -> shape and dtype of the parameters of a module, given shapes of one example."""
    init = lambda key: module.init(key, *(jnp.zeros((1, *shape)) for shape in inputs))
    return flat(jax.eval_shape(init, jax.random.key(0))["params"])


def read_tree(
    directory: pathlib.Path,
    expected: Mapping[str, Any],
    found: Mapping[str, weights.Stored],
    read: Callable[[str], np.ndarray],
    dtype: Any,
    every: Mapping[str, Any] | None = None,  # with those that are folded into others
) -> PyTree:
    """Read all parameters, every name and shape checked."""
    every = expected if every is None else every
    lost, more = sorted(every.keys() - found.keys()), sorted(found.keys() - every.keys())
    lines = []
    for mark, names in (("-", lost), ("+", more)):
        lines += [f"{mark} {name}" for name in names[:LISTED]]
        lines += [f"{mark} and {len(names) - LISTED} more"] if len(names) > LISTED else []
    if lines:
        raise CheckpointError(
            f"the weights in {directory} do not fit their config.json ({len(lost)} missing -, "
            f"{len(more)} unexpected +); give the config.json that belongs to them:\n  "
            + "\n  ".join(lines)
        )

    def checked(path: str) -> jax.Array:
        wanted, stored = expected[path].shape, found[path]
        tensor = read(path)
        if tensor.shape != wanted:
            raise CheckpointError(
                f"{stored.name} in {directory} is {tensor.shape} in clipjax's layout; the config "
                f"wants {wanted}."
            )
        return jax.device_put(weights.checked(stored.name, tensor, dtype, stored.file))

    return unflatten_dict({tuple(path.split("/")): checked(path) for path in expected})
