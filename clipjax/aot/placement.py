"""Where the arrays of a step would lie, which are shapes as yet: as in `clipjax.train.sharding`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from clipjax.errors import ConfigError
from clipjax.train import sharding

PyTree = Any


def make_mesh(devices: Sequence[jax.Device], fsdp: int = 1) -> Mesh:
    """A mesh [devices / fsdp, fsdp]; batches are cut over both axes, parameters over the second.

    Raises:
      ConfigError: the devices cannot be grouped so.
    """
    if fsdp < 1 or len(devices) % fsdp:
        raise ConfigError(
            f"fsdp={fsdp} does not divide the {len(devices)} devices; choose a divisor."
        )
    return sharding.make_mesh(devices, fsdp)


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Abstract arrays with their places: large ones cut along their longest axis over "fsdp"."""
    return jax.tree.map(_placed, state, sharding.state_shardings(state, mesh))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Abstract arrays [B, ...] with their places: cut along their first axis over all devices."""
    whole, cut = sharding.replicated(mesh), sharding.cut(mesh)
    return jax.tree.map(lambda x: _placed(x, cut if x.ndim else whole), batch)


def shardings(placed: PyTree) -> PyTree:
    """The places alone."""
    return jax.tree.map(lambda x: x.sharding, placed)


def _placed(x: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
