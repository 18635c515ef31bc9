"""The mesh axes over which values vary, as `jax.shard_map` tracks them (`check_vma=True`).

It sums derivatives with respect to values that are the same on all devices over the devices; values
marked as varying get a derivative on each device. Where nothing is tracked (`jax.jit`, `jax.pmap`,
`check_vma=False`) these functions change nothing.
"""

from typing import Any

import jax

PyTree = Any


def varying_axes(*trees: PyTree) -> frozenset[str]:
    """The mesh axes over which any array (or shape) of some trees varies."""
    describe = lambda x: x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    kinds = [getattr(describe(x), "manual_axis_type", None) for x in jax.tree.leaves(trees)]
    return frozenset().union(*(kind.varying for kind in kinds if kind))


def tracked_axes() -> frozenset[str]:
    """The mesh axes over which values are tracked."""
    axes = jax.sharding.get_abstract_mesh().manual_axes
    return varying_axes([jax.lax.axis_index(axis) for axis in axes])


def vary(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """Mark every array as varying over some tracked axes; its values stay."""

    def cast(x):
        missing = tuple(sorted(axes - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree) if axes else tree


def alike(*trees: PyTree) -> tuple[PyTree, ...]:
    """Trees whose arrays all vary over the same axes, for the operands of a `jax.custom_vjp`.

    Its cotangents vary where any operand does, while JAX wants each to vary as its own operand.
    """
    axes = varying_axes(trees)
    return tuple(vary(tree, axes) for tree in trees)
