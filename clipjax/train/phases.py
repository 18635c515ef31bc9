"""The phases of a run: which groups train when, and what one phase hands to the next."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.average import Average, begin
from clipjax.adapt.step import TrainState, init_state, merge, partition
from clipjax.train.groups import Name, is_frozen

PyTree = Any


class Span(NamedTuple):
    """A phase as the optimizer sees it."""

    start: int  # steps of the run before it
    steps: int
    freeze: tuple[str, ...]  # patterns of layer groups (`clipjax.train.groups.matches`)
    optimizer: str = "adamw"  # after another one it starts without state


def spans(
    steps: Sequence[int], freezes: Sequence[Sequence[str]], optimizers: Sequence[str] = ()
) -> tuple[Span, ...]:
    """Phases one after the other, with the names of their optimizers (by default AdamW)."""
    starts = itertools.accumulate(steps[:-1], initial=0)
    names = optimizers or ["adamw"] * len(steps)
    return tuple(map(Span, starts, steps, map(tuple, freezes), names))


def training_since(phases: Sequence[Span], current: int) -> Callable[[str | Name], int]:
    """Group or parameter -> the step since which one optimizer has trained it without a break."""

    def since(name: str | Name) -> int:
        now = phases[current]
        trains = lambda x: x.optimizer == now.optimizer and not is_frozen(name, x.freeze)
        before = itertools.takewhile(trains, reversed(phases[:current]))
        return min([now.start, *(span.start for span in before)])

    return since


def carry_over(fresh: PyTree, old: PyTree) -> PyTree:
    """`fresh` with every leaf that `old` has at the same path in the same shape.

    Optimizer states (`make_optimizer`) have the age of groups in their paths: groups that go on
    training keep momentum and step counts, those that were frozen start anew.

    >>> carry_over({"a": 0, "b": 0}, {"a": 5})
    {'a': 5, 'b': 0}
    """
    known = dict(jax.tree_util.tree_leaves_with_path(old))

    def pick(path, leaf):
        found = known.get(path)
        return found if found is not None and jnp.shape(found) == jnp.shape(leaf) else leaf

    return jax.tree_util.tree_map_with_path(pick, fresh)


def next_state(
    state: TrainState,
    optimizer,
    *,
    frozen: PyTree | None,
    more: PyTree = None,
    average: Average | None = None,
) -> TrainState:
    """The state with which a phase starts, from that at the end of the phase before.

    `frozen` is a bool tree over all parameters of the new phase; `more` are parameters that join
    (the encoder, after phases on cached features); a running mean begins anew.
    """
    params = merge(state.params, more)
    begun = init_state(params, optimizer, seed=state.seed, frozen=frozen)
    trainable, _ = partition(params, frozen)
    return begun._replace(
        step=state.step,
        opt_state=carry_over(begun.opt_state, state.opt_state),
        average=begin(trainable, average, state.step) if average else (),
    )
