"""The gradient reversal layer and the schedules of its strength (Ganin & Lempitsky 2015)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.varying import alike

PyTree = Any
Schedule = Callable[[Any], jax.Array]


def grl(x: PyTree, lam: jax.Array | float) -> PyTree:
    """Identity forward; backward the gradient is multiplied by -lam.

    Layers after it learn to minimise their loss, layers before it to maximise it (Ganin & Lempitsky
    2015, arXiv 1409.7495, equations 7-8).

    Args:
      x: an array or tree of arrays; integers pass, and have no gradient. Cotangents keep their
        dtype: a float32 `lam` does not widen a bfloat16 gradient.
      lam: strength, scalar; may be traced, scheduled or vmapped. The gradient with respect to it is
        0, but derivatives of the reversed gradient (of a step with respect to its lambda) see it.

    Raises:
      TypeError: forward-mode differentiation (`jax.jvp`), as of every `jax.custom_vjp`.

    >>> import jax
    >>> jax.grad(lambda x: 3.0 * grl(x, 0.5))(2.0).item()
    -1.5
    """
    return _reversed(*alike(x, lam))


@jax.custom_vjp
def _reversed(x, lam):
    return x


def _backward(lam, cotangents):
    turn = lambda g: g if g.dtype == jax.dtypes.float0 else (-lam * g).astype(g.dtype)
    return jax.tree.map(turn, cotangents), None


_reversed.defvjp(lambda x, lam: (x, lam), _backward)


def lambda_schedule(
    name: str = "ganin", *, lam_max: float = 1.0, gamma: float = 10.0, start: float = 0.0
) -> Schedule:
    """The strength lam(p) of the reversal as a function of the run's progress p in [0, 1].

    "ganin": lam_max * (2 / (1 + exp(-gamma p)) - 1) (Ganin et al. 2016, section 5.2.2); "constant":
    lam_max; "linear": lam_max * p. With `start` it is 0 until p = `start`, and then the schedule
    stretched over the rest.

    Raises:
      ValueError: an unknown name, a negative strength or steepness, or a start outside [0, 1).

    >>> [round(float(lambda_schedule(lam_max=0.8)(p)), 3) for p in (0.0, 0.1, 1.0)]
    [0.0, 0.37, 0.8]
    >>> schedule = lambda_schedule("linear", start=0.5)
    >>> [float(schedule(p)) for p in (0.25, 0.5, 0.75, 1.0)]
    [0.0, 0.0, 0.5, 1.0]
    """
    for option, value in (("lam_max", lam_max), ("gamma", gamma)):
        if value < 0:
            raise ValueError(f"{option} is {value}; it must not be negative: grl already reverses.")
    if not 0.0 <= start < 1.0:
        raise ValueError(f"start must be in [0, 1), not {start}.")
    known = {
        # tanh(gamma p / 2) is the same function without an overflowing exponential.
        "ganin": lambda p: lam_max * jnp.tanh(0.5 * gamma * p),
        "constant": lambda p: jnp.full_like(jnp.asarray(p, jnp.float32), lam_max),
        "linear": lambda p: lam_max * jnp.clip(jnp.asarray(p, jnp.float32), 0.0, 1.0),
    }
    if name not in known:
        raise ValueError(f"unknown lambda schedule {name!r}; known: {', '.join(known)}.")

    def delayed(progress):
        rest = (jnp.asarray(progress, jnp.float32) - start) / (1.0 - start)
        return jnp.where(rest > 0, known[name](jnp.maximum(rest, 0.0)), 0.0)

    return delayed if start else known[name]
