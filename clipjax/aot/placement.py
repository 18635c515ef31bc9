"""Where the arrays of a step would lie, which are shapes as yet."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from clipjax.train.distributed import sharding

PyTree = Any


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Abstract arrays with their places: large ones cut along their longest axis over "fsdp"."""
    return jax.tree.map(_placed, state, sharding.state_shardings(state, mesh))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Abstract arrays [B, ...] with their places: cut along their first axis over all devices."""
    whole, cut = sharding.replicated(mesh), sharding.cut(mesh)
    return jax.tree.map(lambda x: _placed(x, cut if x.ndim else whole), batch)


def _placed(x: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
