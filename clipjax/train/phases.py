"""A run as a row of phases: which groups train when, and what one phase hands to the next.

Two-stage training (frozen encoder first) and gradual unfreezing are the same mechanism: phases that
differ in what they freeze.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.average import Average
from clipjax.adapt.step import TrainState, init_state, merge
from clipjax.train.groups import Name, is_frozen

PyTree = Any


class Span(NamedTuple):
    """A phase as the optimizer sees it."""

    start: int  # steps of the run before it
    steps: int
    freeze: tuple[str, ...]  # patterns of layer groups (`clipjax.train.groups.matches`)
    optimizer: str = "adamw"  # another one starts with no state


def spans(
    steps: Sequence[int], freezes: Sequence[Sequence[str]], optimizers: Sequence[str] = ()
) -> tuple[Span, ...]:
    """Phases laid end to end; `optimizers` names each one's, AdamW where left out.

    >>> [span.start for span in spans([6, 14], [("clip/.*",), ()])]
    [0, 6]
    """
    found, start = [], 0
    names = optimizers or ["adamw"] * len(steps)
    for count, freeze, name in zip(steps, freezes, names, strict=True):
        found.append(Span(start, count, tuple(freeze), name))
        start += count
    return tuple(found)


def training_since(phases: Sequence[Span], current: int) -> Callable[[str | Name], int]:
    """Group or parameter -> the step from which one optimizer has trained it without a break.

    >>> since = training_since(spans([6, 14], [("clip/.*",), ()]), 1)
    >>> since("adapter"), since("clip/vision/block_0")
    (0, 6)
    """

    def since(name: str | Name) -> int:
        begun = phases[current].start
        for span in reversed(phases[:current]):
            if is_frozen(name, span.freeze) or span.optimizer != phases[current].optimizer:
                break
            begun = span.start
        return begun

    return since


def carry_over(fresh: PyTree, old: PyTree) -> PyTree:
    """`fresh` with every leaf that `old` has too, by its path and shape.

    An optimizer state of `clipjax.train.optim.make_optimizer` has the age of a group in its paths,
    so that momentum and step counts of groups that go on training are kept, and groups that were
    frozen start with none.

    >>> carry_over({"a": 0, "b": 0}, {"a": 5})
    {'a': 5, 'b': 0}
    """
    known = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(old)}

    def pick(path, leaf):
        found = known.get(jax.tree_util.keystr(path))
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
    """The state with which a phase starts: step and seed go on, `more` parameters join.

    Args:
      state: at the end of the phase before.
      optimizer: of the new phase.
      frozen: bool tree over all parameters of the new phase, or None.
      more: parameters that were outside so far (the encoder, while features were cached).
      average: rule of a running mean, which begins anew.
    """
    params = merge(state.params, more)
    begun = init_state(params, optimizer, seed=state.seed, frozen=frozen, average=average)
    return begun._replace(step=state.step, opt_state=carry_over(begun.opt_state, state.opt_state))
