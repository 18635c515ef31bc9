"""A step compiled for the devices of a mesh, by `jax.jit` or `jax.pmap`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.train.distributed.sharding import (
    DATA,
    deal_out,
    place,
    replicate,
    replicated,
    state_shardings,
)

PyTree = Any
WAYS = ("jit", "pmap")


class Program(NamedTuple):
    """A compiled step; `run` takes a state and a batch that the other two placed."""

    run: Callable[[PyTree, PyTree], tuple[PyTree, dict]]  # the state is donated
    place_state: Callable[[PyTree], PyTree]
    place_batch: Callable[[PyTree], PyTree]


def make_program(
    step: Callable, state: PyTree, mesh: Mesh, way: str = "jit", *shared: PyTree
) -> Program:
    """Compile a step.

    Args:
      step: pure, (state, batch, *shared) -> (state, metrics); for "pmap" it averages over the axis
        `DATA` (`make_step(..., axis_name=DATA)`).
      state: arrays or shapes like those of its states.
      mesh: of `clipjax.train.distributed.sharding`.
      way: "jit" lets the compiler cut the step by its arguments' places; with "pmap" every device
        runs the step on its part of the batch and has the whole state (no fsdp: ValueError).
      shared: parameters that no step changes; placed like the state, never donated.
    """
    if way == "pmap":
        return _pmapped(step, mesh, shared)
    shardings = state_shardings(state, mesh)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    fixed = place(shared, state_shardings(shared, mesh))
    run = (lambda state, batch: jitted(state, batch, *fixed)) if shared else jitted
    return Program(run, lambda s: place(s, shardings), lambda batch: deal_out(batch, mesh))


def _pmapped(step: Callable, mesh: Mesh, shared: tuple[PyTree, ...]) -> Program:
    devices = list(mesh.devices.reshape(-1))
    if mesh.devices.shape[1] > 1:
        raise ValueError("pmap keeps parameters whole on each device; it has no fsdp.")
    axes = (None, 0, *(None for _ in shared))
    mapped = jax.pmap(step, DATA, in_axes=axes, out_axes=None, devices=devices, donate_argnums=0)
    mine = [device for device in devices if device.process_index == jax.process_index()]
    local = Mesh(np.array(mine), (DATA,))

    def stack(x):  # [B, ...] -> [parts, B / parts, ...]
        x, parts = np.asarray(x), len(mine)
        return x.reshape(parts, -1, *x.shape[1:]) if x.ndim else np.broadcast_to(x, parts)

    def place_batch(batch: PyTree) -> PyTree:
        cut = NamedSharding(local, PartitionSpec(DATA))
        return jax.device_put(jax.tree.map(stack, batch), cut)

    fixed = replicate(shared, mesh)
    run = lambda state, batch: mapped(state, batch, *fixed)
    if len(mine) < len(devices):  # pmap takes and gives arrays of one process; states are of all
        fixed = _rewrapped(fixed, local)
        run = lambda state, batch: _rewrapped(mapped(_rewrapped(state, local), batch, *fixed), mesh)
    return Program(run, lambda state: replicate(state, mesh), place_batch)


def _rewrapped(tree: PyTree, to: Mesh) -> PyTree:
    """Arrays that are whole on each of this process's devices, as arrays of another mesh."""
    sharding = replicated(to)
    parts = lambda x: [shard.data for shard in x.addressable_shards]
    join = lambda x: jax.make_array_from_single_device_arrays(x.shape, sharding, parts(x))
    return jax.tree.map(join, tree)
