"""A step for the devices of a mesh: compiled by `jax.jit`, or by `jax.pmap`."""

from __future__ import annotations

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
    """A step with the placement that it asks for. `run` takes what the other two give."""

    run: Callable[[PyTree, PyTree], tuple[PyTree, dict]]  # the state is donated
    place_state: Callable[[PyTree], PyTree]
    place_batch: Callable[[PyTree], PyTree]


def make_program(
    step: Callable, state: PyTree, mesh: Mesh, way: str = "jit", *shared: PyTree
) -> Program:
    """The program of a step.

    Args:
      step: pure, (state, batch, *shared) -> (state, metrics). For "pmap" it averages over the axis
        `DATA` (`make_step(..., axis_name=DATA)`).
      state: like those it will get.
      mesh: of `clipjax.train.distributed.sharding`.
      way: "jit": the compiler cuts the step by where its arguments lie. "pmap": every device runs
        the step on its part of the batch, the state whole on each.
      shared: parameters that no step changes; placed as the state is, and never donated.

    Raises:
      ValueError: pmap over a mesh that cuts parameters.
    """
    if way == "pmap":
        return _pmapped(step, mesh, shared)
    shardings = state_shardings(state, mesh)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
    fixed = place(shared, state_shardings(shared, mesh))
    run = (lambda state, batch: jitted(state, batch, *fixed)) if shared else jitted
    return Program(run, lambda s: place(s, shardings), lambda batch: deal_out(batch, mesh))


def _pmapped(step: Callable, mesh: Mesh, shared: tuple[PyTree, ...]) -> Program:
    devices = mesh.devices.reshape(-1)
    if mesh.devices.shape[1] > 1:
        raise ValueError("pmap keeps parameters whole on each device; it has no fsdp.")
    mapped = jax.pmap(
        step,
        DATA,
        in_axes=(None, 0, *(None for _ in shared)),
        out_axes=None,
        devices=tuple(devices),
        donate_argnums=0,
    )
    mine = [device for device in devices if device.process_index == jax.process_index()]
    local = Mesh(np.array(mine), (DATA,))

    def place_batch(batch: PyTree) -> PyTree:
        return jax.device_put(_stacked(batch, len(mine)), NamedSharding(local, PartitionSpec(DATA)))

    fixed, run = replicate(shared, mesh), mapped
    if len(mine) < len(devices):
        fixed, run = _rewrapped(fixed, local), _with_local_arrays(mapped, local, mesh)
    both = (lambda state, batch: run(state, batch, *fixed)) if shared else run
    return Program(both, lambda state: replicate(state, mesh), place_batch)


def _stacked(batch: PyTree, parts: int) -> PyTree:
    """[B, ...] -> [parts, B / parts, ...]; numbers repeated."""

    def stack(x):
        x = np.asarray(x)
        return x.reshape(parts, -1, *x.shape[1:]) if x.ndim else np.broadcast_to(x, parts)

    return jax.tree.map(stack, batch)


def _with_local_arrays(mapped: Callable, local: Mesh, mesh: Mesh) -> Callable:
    """`pmap` of several processes takes and gives arrays of one; the state is one of all."""

    def run(state, batch, *shared):
        return _rewrapped(mapped(_rewrapped(state, local), batch, *shared), mesh)

    return run


def _rewrapped(tree: PyTree, to: Mesh) -> PyTree:
    """Arrays that are whole on each of this process's devices, as arrays of another mesh."""
    sharding = replicated(to)
    parts = lambda x: [shard.data for shard in x.addressable_shards]
    join = lambda x: jax.make_array_from_single_device_arrays(x.shape, sharding, parts(x))
    return jax.tree.map(join, tree)
