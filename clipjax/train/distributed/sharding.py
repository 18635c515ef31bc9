"""One mesh for everything: batches are cut over all its devices, parameters over some or none.

Batches are cut over both axes, `data` and `fsdp`; parameters and optimizer state are whole, or cut
along `fsdp` (fully sharded data parallelism; Rajbhandari et al. 2020, arXiv 1910.02054, stage 3).
The axes have type Auto: `jax.jit` makes means over a batch means over all devices. No layer keeps
statistics of a batch, so the numbers are those of one device up to the order of summation. Several
processes (`clipjax.train.distributed.processes`) each hold their part of every batch, in order.
"""

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
    """A mesh [data, fsdp] of devices by process; ConfigError if `fsdp` does not divide them."""
    if fsdp < 1 or len(devices) % fsdp:
        raise ConfigError(
            f"fsdp={fsdp} does not divide the {len(devices)} devices; take a divisor."
        )
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered).reshape(-1, fsdp)
    return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def batch_mesh(batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of as many devices (of all local ones by default) as can share a batch evenly."""
    devices = jax.local_devices() if devices is None else devices
    return make_mesh(devices[: sharing(batch_size, len(devices))])


def sharing(batch_size: int, devices: int) -> int:
    """The largest number of devices, up to `devices`, that can have equal parts of a batch."""
    return max(n for n in range(1, devices + 1) if batch_size % n == 0)


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of arrays that are whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """The placement of parameters and optimizer state: a sharding for each array."""

    def sharding(x):
        axis = longest_axis(np.shape(x), mesh.shape[FSDP])
        return NamedSharding(mesh, PartitionSpec(*([None] * axis + [FSDP] if axis >= 0 else [])))

    return jax.tree.map(sharding, state)


def longest_axis(shape: Sequence[int], parts: int) -> int:
    """The longest axis of an array that can be cut into equal parts; -1 to leave it whole."""
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not fitting or math.prod(shape) < SMALLEST:
        return -1
    return max(fitting, key=lambda axis: shape[axis])


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Every array whole on each device; all processes must have the same."""
    return place(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays, whole on every process so far, placed by `shardings`, one for each."""

    def put(x, sharding):
        if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
            return jax.device_put(x, sharding)
        values = np.asarray(x)  # `device_put` would compare the values of all processes
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(put, tree, shardings)


def deal_out(batch: PyTree, mesh: Mesh) -> PyTree:
    """Every array [B, ...] cut along its first axis, a part to each device; numbers whole.

    Several processes give [B / processes, ...] each.
    """
    where = _batch_shardings(batch, mesh)
    if replicated(mesh).is_fully_addressable:
        return jax.device_put(batch, where)
    join = lambda x, sharding: jax.make_array_from_process_local_data(sharding, np.asarray(x))
    return jax.tree.map(join, batch, where)


def fetch(tree: PyTree) -> PyTree:
    """Every array whole on the host, one after the other; all processes must call it together."""

    def bring(x):
        if not (getattr(x, "is_fully_addressable", True) or x.is_fully_replicated):
            x = jax.jit(_same, out_shardings=replicated(x.sharding.mesh))(x)
        return jax.device_get(x)

    return jax.tree.map(bring, tree)


def _same(x: jax.Array) -> jax.Array:
    return x  # one function object: compiled once for arrays of equal shape and place


def on_each(array: Any) -> jax.Array:
    """An array on the first device of each process, which all compute the same with it."""
    return jax.device_put(array) if jax.process_count() == 1 else place(array, first_devices())


def first_devices() -> NamedSharding | SingleDeviceSharding:
    """The placement of arrays that are whole on the first device of each process."""
    if jax.process_count() == 1:
        return SingleDeviceSharding(jax.local_devices()[0])
    first: dict[int, jax.Device] = {}
    for device in sorted(jax.devices(), key=lambda device: device.id):
        first.setdefault(device.process_index, device)
    return replicated(make_mesh(list(first.values())))


def placed(tree: PyTree) -> PyTree:
    """Shapes, dtypes and places of arrays; `first_devices` for those without a place."""
    where = lambda x: getattr(x, "sharding", None) or first_devices()
    return jax.tree.map(lambda x: _shape_at(x, where(x)), tree)


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Shapes of parameters and optimizer state, placed by `state_shardings`."""
    return jax.tree.map(_shape_at, state, state_shardings(state, mesh))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Shapes of a batch's arrays [B, ...], placed as by `deal_out`."""
    return jax.tree.map(_shape_at, batch, _batch_shardings(batch, mesh))


def _batch_shardings(batch: PyTree, mesh: Mesh) -> PyTree:
    cut = NamedSharding(mesh, PartitionSpec((DATA, FSDP)))
    return jax.tree.map(lambda x: cut if np.ndim(x) else replicated(mesh), batch)


def _shape_at(x: Any, sharding: NamedSharding | SingleDeviceSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
