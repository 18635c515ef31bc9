"""One train step for every method: a pure function of (state, batch).

A method is a `Loss`: `loss(params, batch, rng, progress) -> (scalar, metrics)`. `make_step` turns
it into a step that can be jitted, scanned, vmapped over seeds or sharded. Nothing here knows about
data, models or loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Loss = Callable[[PyTree, PyTree, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(NamedTuple):
    """Everything a run needs to go on: restore it and the next step is the same, bit for bit."""

    step: jax.Array  # int32 []: updates made so far
    params: PyTree  # trainable and frozen together
    opt_state: PyTree  # of the trainable parameters only
    seed: jax.Array  # uint32 []: step s uses fold_in(key(seed), s), so no key is stored


def partition(params: PyTree, frozen: PyTree | None) -> tuple[PyTree, PyTree]:
    """Splits parameters into (trainable, frozen); what is absent from a side is None there.

    Differentiating the trainable side alone is what makes frozen layers free: no backward pass,
    no optimizer state, no weight decay, and norms that see trainable parameters only.

    >>> partition({"a": 1, "b": 2}, {"a": True, "b": False})
    ({'a': None, 'b': 2}, {'a': 1, 'b': None})
    """
    if frozen is None:
        return params, jax.tree.map(lambda _: None, params)
    side = lambda keep: jax.tree.map(lambda f, p: p if f == keep else None, frozen, params)  # noqa: E731
    return side(False), side(True)


def combine(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Undoes `partition`.

    >>> combine({"a": None, "b": 2}, {"a": 1, "b": None})
    {'a': 1, 'b': 2}
    """
    pick = lambda a, b: b if a is None else a  # noqa: E731
    return jax.tree.map(pick, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def init_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    seed: int | jax.Array = 0,
    frozen: PyTree | None = None,
) -> TrainState:
    """The state before the first step. `frozen` is a bool tree shaped like `params`."""
    trainable, _ = partition(params, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(trainable),
        seed=jnp.asarray(seed, jnp.uint32),
    )


def update(
    state: TrainState,
    loss: Callable[[PyTree, jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: optax.GradientTransformation,
    frozen: PyTree | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one optimizer step on `loss(params, rng)`; metrics gain `loss` and `grad_norm`."""
    rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
    trainable, fixed = partition(state.params, frozen)
    (value, metrics), grads = jax.value_and_grad(
        lambda part: loss(combine(part, fixed), rng), has_aux=True
    )(trainable)
    updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
    params = combine(optax.apply_updates(trainable, updates), fixed)
    metrics = {"loss": value, "grad_norm": optax.global_norm(grads), **metrics}
    return TrainState(state.step + 1, params, opt_state, state.seed), metrics


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    frozen: PyTree | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]:
    """Turns a method's loss into `step(state, batch) -> (state, metrics)`.

    `progress`, which the loss receives, runs from 0 at the first step to 1 after `total_steps`.
    """

    def step(state: TrainState, batch: PyTree):
        progress = state.step / total_steps
        return update(
            state, lambda params, rng: loss(params, batch, rng, progress), optimizer, frozen
        )

    return step
