"""Where the parts of a train step lie on a mesh with the axes "data" and "fsdp".

Everything that this package knows of sharding is in this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipjax.errors import ConfigError

PyTree = Any
DATA, FSDP = "data", "fsdp"
SMALLEST = 1 << 16  # elements; what is smaller is not worth gathering and lies whole on each device


def make_mesh(devices: Sequence[jax.Device], fsdp: int = 1) -> Mesh:
    """A mesh [devices / fsdp, fsdp]; batches are cut over both axes, parameters over the second.

    Raises:
      ConfigError: the devices cannot be grouped so.
    """
    if fsdp < 1 or len(devices) % fsdp:
        raise ConfigError(
            f"fsdp={fsdp} does not divide the {len(devices)} devices; choose a divisor."
        )
    grid = np.array(devices).reshape(-1, fsdp)
    return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Abstract arrays with their places: large ones cut along their longest axis over "fsdp".

    Parameters, gradients and moments of a weight have one shape and so one cut (ZeRO stage 3,
    Rajbhandari et al. 2020, arXiv 1910.02054).
    """
    return jax.tree.map(lambda x: _placed(x, _cut(x.shape, mesh), mesh), state)


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Abstract arrays [B, ...] with their places: cut along their first axis over all devices."""
    cut = PartitionSpec((DATA, FSDP))
    return jax.tree.map(lambda x: _placed(x, cut if x.ndim else PartitionSpec(), mesh), batch)


def shardings(placed: PyTree) -> PyTree:
    """The places alone."""
    return jax.tree.map(lambda x: x.sharding, placed)


def whole(mesh: Mesh) -> NamedSharding:
    """The place of what every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def _placed(x: Any, spec: PartitionSpec, mesh: Mesh) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))


def _cut(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Over "fsdp" along the longest axis that it divides; whole if none is, or if small."""
    ways = mesh.shape[FSDP]
    fitting = [axis for axis, size in enumerate(shape) if size % ways == 0]
    if ways == 1 or math.prod(shape) < SMALLEST or not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*(FSDP if axis == longest else None for axis in range(len(shape))))
