"""Mapped axes of `jax.shard_map` that arrays differ along."""

from __future__ import annotations

import jax
from jax import lax


def vary_alike(*values: jax.Array | None) -> list[jax.Array | None]:
    """The values, each marked as varying over every mapped axis that any of them varies over.

    A rule of `jax.custom_vjp` gives gradients that vary as its inputs do together; JAX then sums
    those of a replicated input over the devices. Outside `jax.shard_map` nothing changes.
    """
    given = [value for value in values if value is not None]
    axes = frozenset().union(*(jax.typeof(value).manual_axis_type.varying for value in given))
    return [value if value is None else _vary(value, axes) for value in values]


def _vary(value: jax.Array, axes: frozenset) -> jax.Array:
    missing = tuple(axes - jax.typeof(value).manual_axis_type.varying)
    return lax.pcast(value, missing, to="varying") if missing else value
