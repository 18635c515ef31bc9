"""Trained methods: which epochs were the best, and their parameters read back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from clipjax.adapt.step import TrainState
from clipjax.errors import CheckpointError, ConfigError
from clipjax.evaluate.select import select
from clipjax.io.finite import is_finite
from clipjax.log import read_log
from clipjax.study.evaluator import View
from clipjax.study.run_group import RunGroup
from clipjax.train.checkpoint import warn
from clipjax.train.distributed import processes

PyTree = Any


class Trained(NamedTuple):
    """A method after training.

    Attributes:
      answer: (params, embeddings) -> logits, the members' logits, adapted features.
      view: its features of any part.
      variants: name -> parameters stacked over seeds, the method's own result first: "last", which
        is what the selection rule picks, and "average" where there is one; or a closed form's.
      shared: parameters that all seeds and variants have.
      history: per seed the validations of the last phase, oldest first; none of a closed form.
    """

    answer: Callable
    view: View
    variants: dict[str, PyTree]
    shared: PyTree
    history: list[list[dict]]

    @property
    def params(self) -> PyTree:
        """The parameters of the method's own result: its own, and "clip" where that trained."""
        return next(iter(self.variants.values()))


def restored(group: RunGroup) -> dict[str, Trained]:
    """What `Trainer.train` returned, read back; the images are not needed.

    Raises:
      CheckpointError: the method did not finish, or its checkpoints do not fit the config.
    """
    history = histories(group)
    epochs = (group.spans[-1].start + group.spans[-1].steps) // group.per_epoch
    for run, entries in enumerate(history):
        if not entries or entries[-1]["epoch"] != epochs:
            raise _unfinished(group, group.names[run // len(group.training.seeds)])
    return split_by_method(group, selected(group, history), history)


def histories(group: RunGroup) -> list[list[dict]]:
    """Per run the validations of the last phase, with their epochs, oldest first."""
    seeds = list(group.training.seeds)
    first = {m.phases[-1].name: i * len(seeds) for i, m in enumerate(group.methods)}
    found: list[list[dict]] = [[] for _ in range(len(seeds) * len(group.methods))]
    for record in processes.from_first(lambda: read_log(group.log.path)):
        if record.get("phase") not in first or "evaluation" not in record:
            continue
        here = [seeds.index(record["seed"])] if "seed" in record else range(len(seeds))
        for place, position in enumerate(here):
            values = {key: value[place] for key, value in record["evaluation"].items()}
            run = found[first[record["phase"]] + position]
            run.append({"epoch": record["epoch"], **values})
    return found


def selected(group: RunGroup, history: list[list[dict]]) -> TrainState:
    """The states of the epochs that the config's rule picks, stacked over runs."""
    phase, states = group.method.phases[-1], []
    like, cached = _shapes(group)
    first = functools.partial(jax.tree.map, lambda x: x[0])
    for position, entries in enumerate(history):
        seed = group.training.seeds[position % len(group.training.seeds)]
        wanted = like if cached else jax.eval_shape(first, like)
        with group.checkpointer(phase, None if cached else seed) as checkpointer:
            found = checkpointer.restore(
                wanted, _picked(group, position, entries, checkpointer.steps)
            )
        pick = (lambda x: x[position]) if cached else (lambda x: x)  # noqa: B023
        states.append(jax.tree.map(pick, found[0]))
    return jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *states)


def _shapes(group: RunGroup) -> tuple[TrainState, bool]:
    """Shapes of the last phase's states, and whether it trains on cached features."""
    like = jax.eval_shape(group.start)
    for index in range(len(group.spans)):
        like = jax.eval_shape(jax.vmap(functools.partial(group.begin, index)), like)
    return like, group.cached[-1]


def _picked(group: RunGroup, run: int, entries: list[dict], steps: list[int]) -> int:
    """The step that the config's rule picks of a run's validations, out of those on disk."""
    name = group.names[run // len(group.training.seeds)]
    rule = group.training.selection
    there = [entry for entry in entries if entry["epoch"] * group.per_epoch in steps]
    try:
        best = select(entries, rule)
        if best not in there and (rule == "last" or not there):
            raise _unfinished(group, name)
        taken = select(there, rule)
    except ValueError as error:
        raise ConfigError(f"selection={rule}: {error}") from None
    if taken is not best and processes.is_first():
        warn(
            f"clipjax: epoch {best['epoch']} of {name} is the best by {rule}, and its "
            f"checkpoint could not be written; epoch {taken['epoch']} is taken."
        )
    return taken["epoch"] * group.per_epoch


def split_by_method(
    group: RunGroup, states: TrainState, history: list[list[dict]]
) -> dict[str, Trained]:
    """What belongs to each method."""
    seeds, found = len(group.training.seeds), {}
    last, average = jax.device_get((states.params, _averages(group, states)))
    for position, name in enumerate(group.names):
        mine = slice(position * seeds, (position + 1) * seeds)
        variants = {"last": last} | ({} if average is None else {"average": average})
        own = {key: jax.tree.map(lambda x: x[mine], tree) for key, tree in variants.items()}  # noqa: B023
        for params in own.values():
            check_params(group, name, params)
        found[name] = Trained(
            group.answer, group.view, own, group.shared(len(group.spans) - 1), history[mine]
        )
    return found


def _averages(group: RunGroup, states: TrainState) -> PyTree:
    """All parameters with the running means in place of what trained; None where there are none."""
    running = states.average
    if not jax.tree.leaves(running):
        return None
    pick = lambda mean, x: x if mean is None else np.asarray(mean).astype(x.dtype)
    return jax.tree.map(pick, running.params, states.params, is_leaf=lambda leaf: leaf is None)


def check_params(group: RunGroup, name: str, params: PyTree) -> None:
    """Refuses trained parameters that are not finite.

    Raises:
      CheckpointError: naming one.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not is_finite(leaf):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise CheckpointError(
                f"{group.workdir}: what {name!r} trained holds NaN or infinity in {where} at the "
                f"epoch that selection={group.training.selection} picks; its checkpoint is damaged "
                "or its training diverged: start the run anew in another --workdir."
            )


def _unfinished(group: RunGroup, name: str) -> CheckpointError:
    """What to say where checkpoints are missing."""
    return CheckpointError(
        f"{group.workdir} has no checkpoint of {name!r}; run the experiment first."
    )
