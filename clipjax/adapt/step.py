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

from clipjax.adapt import average as averages
from clipjax.adapt.losses import Axis, weigh
from clipjax.adapt.varying import tracked_axes, vary, varying_axes

PyTree = Any
Loss = Callable[[PyTree, PyTree, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(NamedTuple):
    """Everything a run needs to go on: restore it and the next step is the same, bit for bit."""

    step: jax.Array  # int32 []: updates made so far
    params: PyTree  # trainable and frozen together
    opt_state: PyTree  # of the trainable parameters only
    seed: jax.Array  # uint32 []: step s uses fold_in(key(seed), s), so no key is stored
    average: PyTree = ()  # `clipjax.adapt.average.Running` of the trainable parameters, or nothing


def partition(params: PyTree, frozen: PyTree | None) -> tuple[PyTree, PyTree]:
    """Splits parameters into (trainable, frozen); what is absent from a side is None there.

    Differentiating the trainable side alone is what makes frozen layers free: no backward pass,
    no optimizer state, no weight decay, and norms that see trainable parameters only.

    >>> partition({"a": 1, "b": 2}, {"a": True, "b": False})
    ({'a': None, 'b': 2}, {'a': 1, 'b': None})
    """
    if frozen is None:
        return params, jax.tree.map(lambda _: None, params)
    side = lambda keep: jax.tree.map(lambda f, p: p if f == keep else None, frozen, params)
    return side(False), side(True)


def combine(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Put together what `partition` took apart.

    >>> combine({"a": None, "b": 2}, {"a": 1, "b": None})
    {'a': 1, 'b': 2}
    """
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def merge(params: PyTree, shared: PyTree) -> PyTree:
    """One tree of two that have no parameter in common, dict by dict.

    >>> merge({"clip": {"text": 1}, "head": 2}, {"clip": {"vision": 3}})
    {'clip': {'text': 1, 'vision': 3}, 'head': 2}

    Raises:
      ValueError: both have a parameter, which is named.
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
    """The state before the first step.

    `frozen` is a bool tree shaped like `params`; with `average` a running mean is kept.
    """
    trainable, _ = partition(params, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(trainable),
        seed=jnp.asarray(seed, jnp.uint32),
        average=averages.begin(trainable) if average else (),
    )


def update(
    state: TrainState,
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: optax.GradientTransformation,
    frozen: PyTree | None = None,
    parts: PyTree | None = None,
    axis_name: Axis = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one optimizer step on `loss(params, rng)`; metrics gain `loss` and `grad_norm`.

    With `parts` (arrays with a leading axis of microbatches) the loss is `loss(params, rng, part)`,
    and gradients and metrics are means over the parts, which are computed one after the other.

    With `axis_name`, the axis that `jax.pmap` or `jax.shard_map` maps (or a tuple of mesh axes),
    they are means over the devices too, and every device draws random numbers of its own: dropout
    and augmentation are other draws than those of one device, which everything else equals. Over
    mesh axes that it does not name nothing is averaged: where the loss differs along one, so do the
    new parameters.
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
            return vary(value, axes), metrics  # the mean of what the devices say, if it is one

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
    """The mesh axes along which every device needs the gradient of its own loss.

    Those that are averaged over, and those along which the loss differs for another reason.
    """
    tracked = tracked_axes()
    named = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    axes = tracked & frozenset(named)
    if all(tracked == axes | varying_axes(x) for x in jax.tree.leaves(params)):
        return axes
    value, _ = jax.eval_shape(loss, params, *rest)
    return axes | varying_axes(value)


def _mean_over(function: Callable, rng: jax.Array, parts: PyTree) -> PyTree:
    """Mean of `function(rng, part)` over the leading axis of `parts`, in the memory of one part."""
    count = len(jax.tree.leaves(parts)[0])
    keys = jax.random.split(rng, count)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda s: vary(jnp.zeros(s.shape, s.dtype), varying_axes(s)),
        jax.eval_shape(function, rng, first),
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
    axis_name: Axis = None,
    average: averages.Average | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Turns a method's loss into `step(state, batch, shared={}) -> (state, metrics)`.

    `shared` are parameters that stay as they are for the whole run (a teacher, frozen towers). The
    loss sees them among its parameters (`merge`); they are no part of the state: not saved, not
    stacked over runs, not donated.

    `progress`, which the loss receives, runs from 0 at the first step to 1 after `total_steps`.

    The loss sees the batch with weights in place of masks (`clipjax.adapt.losses.weigh`): a mean
    over examples is `mean(values * weight)`, on any device and in any microbatch.

    With `accumulate` > 1 a batch goes through the model in that many microbatches and their mean
    gradient makes one update: the memory of a small batch. For losses that are means over examples
    the result is that of the whole batch up to rounding. A loss that compares examples with each
    other (contrastive) sees smaller batches.

    With `axis_name` the step is for `jax.pmap` or `jax.shard_map` over this axis (or a tuple of
    mesh axes), the batch cut along it and the state the same on every device; what comes out is,
    too (`out_specs` P() with `check_vma=True`).

    With `average`, a rule, the state's running mean takes in the parameters after every update.
    """

    def step(state: TrainState, batch: PyTree, shared: PyTree = None):
        progress, batch = state.step / total_steps, weigh(batch, axis_name)

        def of_part(params, rng, part):
            return loss(merge(params, shared), part, rng, progress)

        if accumulate == 1:
            whole = lambda params, rng: of_part(params, rng, batch)
            after, metrics = update(state, whole, optimizer, frozen, axis_name=axis_name)
        else:
            parts = microbatches(batch, accumulate)
            after, metrics = update(state, of_part, optimizer, frozen, parts, axis_name)
        if average is not None:
            trainable, _ = partition(after.params, frozen)
            mean = averages.add(after.average, average, trainable, after.step / total_steps)
            after = after._replace(average=mean)
        return after, metrics

    return step
