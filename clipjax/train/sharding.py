"""One mesh for everything: batches are dealt out over its devices, parameters lie on each.

The step stays as it is: `jax.jit` reads the placement of its arguments, and the mean over a batch
becomes a mean over all devices' parts of it. No layer keeps statistics of a batch, so the numbers
are those of one device up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

PyTree = Any
AXIS = "data"


def batch_mesh(batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices that share a batch evenly: as many of those at hand as divide its size.

    Args:
      batch_size: examples of the smallest batch that is dealt out.
      devices: of this process; all local ones by default.
    """
    devices = jax.local_devices() if devices is None else devices
    count = sharing(batch_size, len(devices))
    return Mesh(np.array(devices[:count]), (AXIS,), axis_types=(AxisType.Auto,))


def sharing(batch_size: int, devices: int) -> int:
    """How many of some devices can have equal parts of a batch.

    >>> sharing(64, 8), sharing(12, 8), sharing(7, 4)
    (8, 6, 1)
    """
    return max(n for n in range(1, devices + 1) if batch_size % n == 0)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Every array whole on each device."""
    return jax.device_put(tree, replicated(mesh))


def deal_out(batch: PyTree, mesh: Mesh) -> PyTree:
    """Every array [B, ...] cut along its first axis, a part to each device; numbers whole."""
    cut, whole = NamedSharding(mesh, PartitionSpec(AXIS)), replicated(mesh)
    return jax.device_put(batch, jax.tree.map(lambda x: cut if np.ndim(x) else whole, batch))


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of parameters."""
    return NamedSharding(mesh, PartitionSpec())


def placed(tree: PyTree) -> PyTree:
    """Shapes, dtypes and places of arrays; the first device for those that have no place yet."""

    def describe(x):
        sharding = getattr(x, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)
