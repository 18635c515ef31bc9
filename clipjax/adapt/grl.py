"""The gradient reversal layer and the schedules of its strength (Ganin & Lempitsky 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.varying import alike

PyTree = Any
Schedule = Callable[[Any], jax.Array]


def grl(x: PyTree, lam: jax.Array | float) -> PyTree:
    """Identity forward; backward the gradient is multiplied by -lam.

    What follows the layer learns to minimise its loss, what precedes it to maximise it (Ganin &
    Lempitsky 2015, arXiv 1409.7495, equations 7-8).

    Args:
      x: an array or any tree of arrays; those of whole numbers pass, and have no gradient.
      lam: strength, scalar; may be traced, scheduled or vmapped.

    Returns:
      `x`. The cotangent of each array keeps its own dtype: a float32 `lam` does not widen a
      bfloat16 gradient.

    The output does not depend on `lam`, so its gradient is 0. The reversed gradient is a function
    of `lam`, though: a derivative of that (of a step with respect to its lambda, for example) sees
    it, which `jax.lax.stop_gradient(lam)` prevents.

    Forward-mode differentiation (`jax.jvp`) raises TypeError, as for every `jax.custom_vjp`.

    >>> import jax
    >>> jax.grad(lambda x: 3.0 * grl(x, 0.5))(2.0).item()
    -1.5
    """
    return _reversed(*alike(x, lam))


@jax.custom_vjp
def _reversed(x, lam):
    del lam
    return x


def _forward(x, lam):
    return x, lam


def _backward(lam, cotangents):
    def turn(g):
        return g if g.dtype == jax.dtypes.float0 else (-lam * g).astype(g.dtype)

    return jax.tree.map(turn, cotangents), None


_reversed.defvjp(_forward, _backward)


def ganin(gamma: float = 10.0, lam_max: float = 1.0) -> Schedule:
    """lam(p) = lam_max * (2 / (1 + exp(-gamma p)) - 1), from 0 towards lam_max (Ganin et al. 2016,
    section 5.2.2).

    >>> [round(float(ganin(lam_max=0.8)(p)), 3) for p in (0.0, 0.1, 1.0)]
    [0.0, 0.37, 0.8]
    """
    # tanh(gamma p / 2) is the same function without an overflowing exponential.
    return lambda progress: lam_max * jnp.tanh(0.5 * gamma * progress)


def constant(lam_max: float = 1.0) -> Schedule:
    """lam(p) = lam_max."""
    return lambda progress: jnp.full_like(jnp.asarray(progress, jnp.float32), lam_max)


def linear(lam_max: float = 1.0) -> Schedule:
    """lam(p) = lam_max * p."""
    return lambda progress: lam_max * jnp.clip(jnp.asarray(progress, jnp.float32), 0.0, 1.0)


def delayed(start: float, then: Schedule) -> Schedule:
    """0 until progress `start`, then `then` stretched over the rest.

    >>> schedule = delayed(0.5, linear(1.0))
    >>> [float(schedule(p)) for p in (0.25, 0.5, 0.75, 1.0)]
    [0.0, 0.0, 0.5, 1.0]
    """
    if not 0.0 <= start < 1.0:
        raise ValueError(f"start must be in [0, 1), not {start}.")

    def schedule(progress):
        rest = (jnp.asarray(progress, jnp.float32) - start) / (1.0 - start)
        return jnp.where(rest > 0, then(jnp.maximum(rest, 0.0)), 0.0)

    return schedule


def lambda_schedule(
    name: str = "ganin", *, lam_max: float = 1.0, gamma: float = 10.0, start: float = 0.0
) -> Schedule:
    """A schedule by name: "ganin", "constant" or "linear", delayed until progress `start`.

    Raises:
      ValueError: an unknown name, or a negative strength or steepness.
    """
    if lam_max < 0:
        raise ValueError(
            f"lam_max is {lam_max}; lambda must not be negative: grl already reverses."
        )
    if gamma < 0:
        raise ValueError(f"gamma is {gamma}; it must not be negative: grl already reverses.")
    match name:
        case "ganin":
            schedule = ganin(gamma, lam_max)
        case "constant":
            schedule = constant(lam_max)
        case "linear":
            schedule = linear(lam_max)
        case _:
            raise ValueError(f"unknown lambda schedule {name!r}; known: ganin, constant, linear.")
    return delayed(start, schedule) if start else schedule
