"""One mesh for everything: batches are cut over all its devices, parameters over some or none.

Its axes are `data` and `fsdp`. A batch is cut over both. Parameters and optimizer state lie whole
on every device, or, where the axis `fsdp` is longer than 1, in parts on the devices along it
(fully sharded data parallelism; Rajbhandari et al. 2020, arXiv 1910.02054, stage 3). The axes are
of type Auto: the step stays as it is, `jax.jit` reads the placement of its arguments, and the mean
over a batch becomes a mean over all devices' parts of it. No layer keeps statistics of a batch, so
the numbers are those of one device up to the order of summation.

Where several processes share a mesh (`clipjax.train.distributed.processes`), each holds its own
part of every batch, in the order of the processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from clipjax.errors import ConfigError

PyTree = Any
DATA, FSDP = "data", "fsdp"
SMALLEST = 1024  # elements of an array that is worth cutting


def make_mesh(devices: Sequence[jax.Device], fsdp: int = 1) -> Mesh:
    """A mesh [data, fsdp] of these devices.

    They are taken in the order of their processes: that of the parts of a batch, and neighbours,
    which are near each other, share the parameters.

    Raises:
      ConfigError: `fsdp` does not divide their number.
    """
    if fsdp < 1 or len(devices) % fsdp:
        raise ConfigError(
            f"fsdp={fsdp} does not divide the {len(devices)} devices; choose a divisor."
        )
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered).reshape(-1, fsdp)
    return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_mesh(batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices that share a batch evenly: as many of those at hand as divide its size.

    Args:
      batch_size: examples of the smallest batch that is dealt out.
      devices: of this process; all local ones by default.
    """
    devices = jax.local_devices() if devices is None else devices
    return make_mesh(devices[: sharing(batch_size, len(devices))])


def sharing(batch_size: int, devices: int) -> int:
    """How many of some devices can have equal parts of a batch.

    >>> sharing(64, 8), sharing(12, 8), sharing(7, 4)
    (8, 6, 1)
    """
    return max(n for n in range(1, devices + 1) if batch_size % n == 0)


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of what is whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def cut(mesh: Mesh) -> NamedSharding:
    """The placement of batches: the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """The placement of parameters and optimizer state: a sharding for each array."""

    def place(x):
        axis = longest_axis(np.shape(x), mesh.shape[FSDP])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, FSDP) if axis >= 0 else _WHOLE)

    return jax.tree.map(place, state)


_WHOLE = PartitionSpec()


def longest_axis(shape: Sequence[int], parts: int) -> int:
    """The longest axis of an array that can be cut into equal parts; -1: leave the array whole.

    >>> longest_axis((192, 768), 4), longest_axis((6, 1000), 4), longest_axis((768,), 4)
    (1, 1, -1)
    """
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not fitting or math.prod(shape) < SMALLEST:
        return -1
    return max(fitting, key=lambda axis: shape[axis])


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Every array whole on each device. With several processes: the same on each of them."""
    return place(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays where `shardings`, one for each, say; whole on every process before."""

    def put(x, sharding):
        if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
            return jax.device_put(x, sharding)
        values = np.asarray(x)  # no talking: `device_put` would compare the processes' values
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(put, tree, shardings)


def deal_out(batch: PyTree, mesh: Mesh) -> PyTree:
    """Every array [B, ...] cut along its first axis, a part to each device; numbers whole.

    With several processes: every process's [B / processes, ...] makes its part of [B, ...].
    """
    where = jax.tree.map(lambda x: cut(mesh) if np.ndim(x) else replicated(mesh), batch)
    if replicated(mesh).is_fully_addressable:
        return jax.device_put(batch, where)
    join = lambda x, sharding: jax.make_array_from_process_local_data(sharding, np.asarray(x))
    return jax.tree.map(join, batch, where)


def fetch(tree: PyTree) -> PyTree:
    """Every array whole on the host, as NumPy's; all processes must ask for it together.

    One after the other: no device holds more than one of them whole.
    """

    def bring(x):
        if not _readable(x):
            x = jax.jit(_same, out_shardings=replicated(x.sharding.mesh))(x)
        return jax.device_get(x)

    return jax.tree.map(bring, tree)


def _same(x: jax.Array) -> jax.Array:
    return x  # one function object: compiled once for arrays of equal shape and place


def _readable(x: Any) -> bool:
    """Whether this process has all of an array."""
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def on_each(array: Any) -> jax.Array:
    """An array on the first device of this process; with several, one that all have whole.

    For what every process computes by itself, to the same numbers: training on cached features.
    """
    if jax.process_count() == 1:
        return jax.device_put(array)
    return place(array, first_devices())


def first_devices() -> NamedSharding | SingleDeviceSharding:
    """Whole on the first device of each process."""
    if jax.process_count() == 1:
        return SingleDeviceSharding(jax.local_devices()[0])
    first: dict[int, jax.Device] = {}
    for device in sorted(jax.devices(), key=lambda device: device.id):
        first.setdefault(device.process_index, device)
    return replicated(make_mesh(list(first.values())))


def placed(tree: PyTree) -> PyTree:
    """Shapes, dtypes and places of arrays; `first_devices` for those that have no place yet."""
    describe = lambda x: _shape_at(x, getattr(x, "sharding", None) or first_devices())
    return jax.tree.map(describe, tree)


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Shapes of parameters and optimizer state with the places that `state_shardings` gives."""
    return jax.tree.map(_shape_at, state, state_shardings(state, mesh))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Shapes of a batch's arrays [B, ...] with the places that `deal_out` gives."""
    return jax.tree.map(lambda x: _shape_at(x, cut(mesh) if x.ndim else replicated(mesh)), batch)


def _shape_at(x: Any, sharding: NamedSharding | SingleDeviceSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
