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
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: optax.GradientTransformation,
    frozen: PyTree | None = None,
    parts: PyTree | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one optimizer step on `loss(params, rng)`; metrics gain `loss` and `grad_norm`.

    With `parts` (arrays with a leading axis of microbatches) the loss is `loss(params, rng, part)`,
    and gradients and metrics are means over the parts, which are computed one after the other.

    With `axis_name`, the axis that `jax.pmap` maps, they are means over the devices too, and every
    device draws random numbers of its own: dropout and augmentation are other draws than those of
    one device, which everything else equals.
    """
    rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
    if axis_name is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    trainable, fixed = partition(state.params, frozen)

    def differentiate(rng, *part):
        full = lambda some: loss(combine(some, fixed), rng, *part)  # noqa: E731
        (value, metrics), grads = jax.value_and_grad(full, has_aux=True)(trainable)
        return grads, {"loss": value, **metrics}

    if parts is None:
        grads, metrics = differentiate(rng)
    else:
        grads, metrics = _mean_over(differentiate, rng, parts)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
    params = combine(optax.apply_updates(trainable, updates), fixed)
    metrics = {"grad_norm": optax.global_norm(grads), **metrics}
    return TrainState(state.step + 1, params, opt_state, state.seed), metrics


def _mean_over(function: Callable, rng: jax.Array, parts: PyTree) -> PyTree:
    """Mean of `function(rng, part)` over the leading axis of `parts`, in the memory of one part."""
    count = len(jax.tree.leaves(parts)[0])
    keys = jax.random.split(rng, count)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, rng, first)
    )

    def add(total, key_and_part):
        return jax.tree.map(jnp.add, total, function(*key_and_part)), None

    total, _ = jax.lax.scan(add, zeros, (keys, parts))
    return jax.tree.map(lambda x: x / count, total)


def microbatches(batch: PyTree, count: int) -> PyTree:
    """Deals a batch out to `count` microbatches, [B, ...] -> [count, B / count, ...].

    Neighbours go to different ones, so that the padding at a batch's end is shared evenly.

    Raises:
      ValueError: the batch cannot be divided so.

    >>> import jax.numpy as jnp
    >>> microbatches(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
    """

    def deal(x):
        if x.shape[0] % count:
            raise ValueError(
                f"a batch of {x.shape[0]} cannot be dealt out to {count} microbatches."
            )
        return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, batch)


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    frozen: PyTree | None = None,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]:
    """Turns a method's loss into `step(state, batch) -> (state, metrics)`.

    `progress`, which the loss receives, runs from 0 at the first step to 1 after `total_steps`.

    With `accumulate` > 1 a batch goes through the model in that many microbatches and their mean
    gradient makes one update: the memory of a small batch. For losses that are means over examples
    the result is that of the whole batch up to rounding, where every microbatch has equally many
    real examples. In an epoch's last batch padding is dealt out evenly, but a microbatch of padding
    alone counts as a loss of zero: this one update is then smaller. A loss that compares examples
    with each other (contrastive) sees smaller batches.

    With `axis_name` the step is for `jax.pmap` over this axis, the batch cut along it and the state
    the same on every device. The loss must know the axis too (`clipjax.adapt.losses`).
    """

    def step(state: TrainState, batch: PyTree):
        progress = state.step / total_steps
        if accumulate == 1:
            whole = lambda params, rng: loss(params, batch, rng, progress)  # noqa: E731
            return update(state, whole, optimizer, frozen, axis_name=axis_name)
        parts = microbatches(batch, accumulate)
        each = lambda params, rng, part: loss(params, part, rng, progress)  # noqa: E731
        return update(state, each, optimizer, frozen, parts, axis_name)

    return step
