"""Epochs over arrays as one compiled scan: batches are gathered where they are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.adapt.step import TrainState
from clipjax.data.loading.sampler import ONE_PASS, PARTS, Plan, Sampler, epoch_key
from clipjax.train.distributed.sharding import on_each, replicated

PyTree = Any
Data = dict[str, dict[str, jax.Array]]  # {"source": {"inputs", "label"}, "target": {"inputs"}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _BFloat16:
    """bfloat16 features as integers of the same bits.

    To gather rows of a bfloat16 array XLA's CPU backend makes all of it float32 first.
    """

    bits: jax.Array  # uint16 [N, P]

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(self.bits[index], jnp.bfloat16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Chosen:
    """Some rows of an array, gathered when they are asked for."""

    array: jax.Array | _BFloat16  # [N, ...]
    rows: jax.Array  # int32 [n]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: jax.Array) -> jax.Array:
        return self.array[self.rows[index]]


def whole(array: Any, mesh: Mesh | None = None) -> jax.Array:
    """An array on every device of the mesh, or on one. A mapped file is not copied on a CPU."""
    return on_each(array) if mesh is None else jax.device_put(array, replicated(mesh))


def on_device(array: Any, mesh: Mesh | None = None) -> jax.Array | _BFloat16:
    """What `_batch` gathers from."""
    if array.dtype != jnp.bfloat16:
        return whole(array, mesh)
    if isinstance(array, np.ndarray):
        return _BFloat16(whole(array.view(np.uint16), mesh))
    return _BFloat16(whole(jax.lax.bitcast_convert_type(array, jnp.uint16), mesh))


def _gather(array: jax.Array | _BFloat16 | Chosen, index: jax.Array) -> jax.Array:
    """Rows of an array; 16-bit floats become float32 here, where they are few."""
    rows = array[index]
    half = jnp.issubdtype(rows.dtype, jnp.floating) and rows.dtype.itemsize == 2
    return rows.astype(jnp.float32) if half else rows


def _batch(data: Data, plan: Plan) -> PyTree:
    """The parts that a plan has rows of and the data have examples of, with the source's mask."""
    batch = {
        part: {key: _gather(x, plan[part]) for key, x in data[PARTS[part]].items()}
        for part in plan
        if PARTS.get(part) in data
    }
    batch["source"]["mask"] = plan["mask"]
    return batch


def domain_sizes(data: Data) -> tuple[int, int]:
    """Examples of source and target."""
    targets = len(data["target"]["inputs"]) if "target" in data else 0
    return len(data["source"]["label"]), targets


def make_epochs(step: Callable, batch_size: int, sampler: Sampler = ONE_PASS) -> Callable:
    """Turns a step into `epochs(state, data, first, count, *shared)`.

    That gives (state, metrics [count, S]). Epoch e of a seed is shuffled by fold_in(key(seed), e)
    alone, so resuming repeats nothing. `shared` goes to the step as it is.
    """

    def epochs(state: TrainState, data: Data, first: jax.Array, count: int, *shared: PyTree):
        def one_epoch(carry, epoch):
            state, data = carry
            key, sizes = epoch_key(state.seed, epoch), domain_sizes(data)
            labels = data["source"]["label"]
            labels = labels[jnp.arange(len(labels))] if isinstance(labels, Chosen) else labels
            plan = sampler.plan(key, *sizes, batch_size, labels)
            one_step = lambda s, p: step(s, _batch(data, p), *shared)
            state, metrics = jax.lax.scan(one_step, state, plan)
            return (state, data), metrics

        (state, _), metrics = jax.lax.scan(one_epoch, (state, data), first + jnp.arange(count))
        return state, metrics

    return epochs
