"""One train step for every method: a pure function of (state, batch).

`make_step` turns a `Loss`, `loss(params, batch, rng, progress) -> (scalar, metrics)`, into a step
that can be jitted, scanned, vmapped over seeds or sharded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clipjax.adapt import average as averages
from clipjax.adapt.losses import Axis, weigh
from clipjax.adapt.varying import tracked_axes, vary, varying_axes

PyTree = Any
Loss = Callable[[PyTree, PyTree, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(NamedTuple):
    """All that the next step depends on, bit for bit."""

    step: jax.Array  # int32 []: updates made so far
    params: PyTree  # trainable and frozen together
    opt_state: PyTree  # of the trainable parameters only
    seed: jax.Array  # uint32 []: step s uses fold_in(key(seed), s), so no key is stored
    average: PyTree = ()  # `clipjax.adapt.average.Running` of the trainable parameters, or nothing


def partition(params: PyTree, frozen: PyTree | None) -> tuple[PyTree, PyTree]:
    """Split parameters into (trainable, frozen), with None for those of the other side.

    Only the trainable side is differentiated: frozen layers cost no backward pass and no optimizer
    state, do not decay, and do not count in norms.

    >>> partition({"a": 1, "b": 2}, {"a": True, "b": False})
    ({'a': None, 'b': 2}, {'a': 1, 'b': None})
    """
    if frozen is None:
        return params, jax.tree.map(lambda _: None, params)
    side = lambda keep: jax.tree.map(lambda f, p: p if f == keep else None, frozen, params)
    return side(False), side(True)


def combine(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Undo `partition`."""
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def merge(params: PyTree, shared: PyTree) -> PyTree:
    """One tree of two nested dicts; ValueError if both have the same parameter.

    >>> merge({"clip": {"text": 1}, "head": 2}, {"clip": {"vision": 3}})
    {'clip': {'text': 1, 'vision': 3}, 'head': 2}
    """

    def join(one, other, where):
        if not (isinstance(one, dict) and isinstance(other, dict)):
            raise ValueError(f"{where or 'everything'} is among the parameters and is shared too.")
        both = {k: join(one[k], other[k], f"{where}/{k}") for k in one if k in other}
        return {**one, **other, **both}

    return join(params, shared, "") if shared else params


def init_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    seed: int | jax.Array = 0,
    frozen: PyTree | None = None,
    average: averages.Average | None = None,
) -> TrainState:
    """The state before the first step; `frozen` is a bool tree shaped like `params`."""
    trainable, _ = partition(params, frozen)
    step, seed = jnp.zeros((), jnp.int32), jnp.asarray(seed, jnp.uint32)
    running = averages.begin(trainable, average) if average else ()
    return TrainState(step, params, optimizer.init(trainable), seed, running)


def check_state(state: Any) -> None:
    """Raise ValueError for what is no state, as bare parameters."""
    if any(not hasattr(state, name) for name in TrainState._fields):
        given = f"the state is a {type(state).__name__}"
        raise ValueError(f"{given}; make one with init_state(params, optimizer).")


def update(
    state: TrainState,
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: optax.GradientTransformation,
    frozen: PyTree | None = None,
    parts: PyTree | None = None,
    axis_name: Axis = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one optimizer step on `loss(params, rng)`; metrics gain `loss` and `grad_norm`.

    With `parts` (arrays with a leading axis of microbatches) the loss is `loss(params, rng, part)`;
    gradients and metrics are means over the parts, computed one after the other. With `axis_name`
    (see `make_step`) they are means over the devices too, with random numbers of their own.
    """
    rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
    if axis_name is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    trainable, fixed = partition(state.params, frozen)
    first = () if parts is None else (jax.tree.map(lambda x: x[0], parts),)
    axes = _own_axes(loss, state.params, axis_name, (rng, *first))
    own, beside = vary((trainable, fixed), axes)

    def differentiate(rng, *part):
        def full(some):
            value, metrics = loss(combine(some, beside), rng, *part)
            return vary(value, axes), metrics

        (value, metrics), grads = jax.value_and_grad(full, has_aux=True)(own)
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
    return state._replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


def _own_axes(loss: Callable, params: PyTree, axis_name: Axis, rest: tuple) -> frozenset[str]:
    """The mesh axes along which every device needs the gradient of its own loss."""
    tracked = tracked_axes()
    axes = tracked & {axis_name} if isinstance(axis_name, str) else tracked & set(axis_name or ())
    if all(tracked == axes | varying_axes(x) for x in jax.tree.leaves(params)):
        return axes
    value, _ = jax.eval_shape(loss, params, *rest)
    return axes | varying_axes(value)


def _mean_over(function: Callable, rng: jax.Array, parts: PyTree) -> PyTree:
    """Mean of `function(rng, part)` over the leading axis of `parts`, one after the other."""
    count = len(jax.tree.leaves(parts)[0])
    keys = jax.random.split(rng, count)
    first = jax.tree.map(lambda x: x[0], parts)
    zero = lambda s: vary(jnp.zeros(s.shape, s.dtype), varying_axes(s))
    zeros = jax.tree.map(zero, jax.eval_shape(function, rng, first))

    def add(total, key_and_part):
        return jax.tree.map(jnp.add, total, function(*key_and_part)), None

    total, _ = jax.lax.scan(add, zeros, (keys, parts))
    return jax.tree.map(lambda x: x / count, total)


def microbatches(batch: PyTree, count: int) -> PyTree:
    """Deal a batch out, [B, ...] -> [count, B / count, ...]; ValueError if it cannot be.

    Neighbours go to different microbatches, which shares the padding at a batch's end evenly.

    >>> import jax.numpy as jnp
    >>> microbatches(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
    """

    def deal(x):
        if x.shape[0] % count:
            raise ValueError(f"a batch of {len(x)} cannot be dealt out to {count} microbatches.")
        return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, batch)


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    frozen: PyTree | None = None,
    accumulate: int = 1,
    axis_name: Axis = None,
    average: averages.Average | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Turn a loss into `step(state, batch, shared={}) -> (state, metrics)`.

    The loss gets `progress` from 0 at the first step to 1 after `total_steps`, and the batch with
    weights in place of masks (`clipjax.adapt.losses.weigh`). `shared` are parameters that never
    change (a teacher, frozen towers): the loss sees them among its own, the state lacks them.

    Args:
      frozen: bool tree, as given to `init_state`.
      accumulate: microbatches whose mean gradient makes one update, in the memory of one. Losses
        that are means over examples give the result of the whole batch up to rounding; a loss that
        compares examples (contrastive) sees smaller batches.
      axis_name: for `jax.pmap` or `jax.shard_map` over this axis (or a tuple of mesh axes), with
        the batch cut along it and the state the same on every device. Along axes that it does not
        name nothing is averaged.
      average: rule of the state's running mean, which takes in the parameters after every update.

    ValueError: a loss whose `whole_batch` is true, as of statistics of a batch, with microbatches
    or along a mapped axis, where each part would have statistics of its own.
    """
    if getattr(loss, "whole_batch", False) and (accumulate > 1 or axis_name is not None):
        cut = f"accumulate={accumulate}" if accumulate > 1 else f"axis_name={axis_name!r}"
        told = "the loss has statistics of a whole batch, of which parts would have their own"
        raise ValueError(f"{told}; leave {cut} out, or take statistics of an image or a place.")

    def step(state: TrainState, batch: PyTree, shared: PyTree = None):
        progress, batch = state.step / total_steps, weigh(batch, axis_name)

        def full(params, rng, part=batch):
            return loss(merge(params, shared), part, rng, progress)

        parts = None if accumulate == 1 else microbatches(batch, accumulate)
        after, metrics = update(state, full, optimizer, frozen, parts, axis_name)
        if average is not None:
            trainable, _ = partition(after.params, frozen)
            mean = averages.add(after.average, average, trainable, after.step)
            after = after._replace(average=mean)
        return after, metrics

    return step
