"""Over which mesh axes values vary: what `jax.shard_map` tracks, and differentiation heeds.

With its default, `check_vma=True`, the derivative of a value that is the same on all devices with
respect to what differs between them is summed over the devices already. Where each device is to
have a derivative of its own, the value is called varying first. Everywhere else (`jax.jit`,
`jax.pmap`, `check_vma=False`) nothing is tracked, and these functions change nothing.
"""

from __future__ import annotations

from typing import Any

import jax

PyTree = Any


def varying_axes(*trees: PyTree) -> frozenset[str]:
    """The mesh axes over which any array of some trees (or its shape) is known to vary."""
    found: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(trees):
        described = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
        kind = getattr(described, "manual_axis_type", None)
        found |= kind.varying if kind else frozenset()
    return found


def tracked_axes() -> frozenset[str]:
    """The mesh axes over which values are tracked here."""
    axes = jax.sharding.get_abstract_mesh().manual_axes
    return varying_axes([jax.lax.axis_index(axis) for axis in axes])


def vary(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """Calls every array varying over some tracked axes; its values stay."""

    def cast(x):
        missing = tuple(sorted(axes - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree) if axes else tree


def alike(*trees: PyTree) -> tuple[PyTree, ...]:
    """Trees of which every array varies over the axes of all of them.

    For operands of a `jax.custom_vjp`, whose rule gives cotangents that vary where any operand
    does, while JAX wants each to vary as its own operand.
    """
    axes = varying_axes(trees)
    return tuple(vary(tree, axes) for tree in trees)
