"""Trained methods: which epochs were the best, and their parameters read back."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree import leaves

from clipjax.adapt.average import between, joined
from clipjax.adapt.step import TrainState
from clipjax.errors import CheckpointError, ConfigError
from clipjax.evaluate.select import select
from clipjax.evaluate.stopping import stop_epoch
from clipjax.evaluate.valley import LOSS, Valley, loss_valley
from clipjax.io.finite import is_finite
from clipjax.log import read_log
from clipjax.model.hf.params import flat
from clipjax.study.evaluator import View
from clipjax.study.run_group import RunGroup
from clipjax.study.training import wise_name
from clipjax.train.checkpoint import warn
from clipjax.train.distributed import processes

PyTree = Any


class Trained(NamedTuple):
    """A method after training."""

    answer: Callable  # (params, embeddings) -> logits, the members' logits, adapted features
    view: View  # its features of any part
    # Name -> parameters stacked over seeds, the method's own result first, by default "last", which
    # the selection rule picks; "average", where there is one, of the run's end, and "wise_0.5", ...
    # on the way from zero-shot; or a closed form's.
    variants: dict[str, PyTree]
    shared: PyTree  # parameters that all seeds and variants have
    history: list[list[dict]]  # per seed the validations of the last phase; none of a closed form
    answer_for: Callable  # classes -> `answer` among these

    @property
    def params(self) -> PyTree:
        """The parameters of the method's own result: heads, and "clip" where that trained."""
        return next(iter(self.variants.values()))


def restored(group: RunGroup) -> dict[str, Trained]:
    """Return what `Trainer.train` returned, read back; the images are not needed."""
    history = histories(group)
    for run, entries in enumerate(history):
        last = group.total_steps // group.per_epoch
        if not entries or entries[-1]["epoch"] != last and _stopped(group, entries) is None:
            raise _unfinished(group, group.names[run // len(group.training.seeds)])
    return split_by_method(group, selected(group, history), history)


def histories(group: RunGroup) -> list[list[dict]]:
    """Return each run's validations of the last phase, with their epochs, oldest first.

    They end with the run (`config.patience`), though others of its program may have gone on.
    """
    found = _validations(group)
    ends = [_stopped(group, entries) for entries in found]
    until = lambda entries, end: [e for e in entries if end is None or e["epoch"] <= end]
    return list(map(until, found, ends))


def enough(group: RunGroup, step: int, run: int | None = None) -> bool:
    """Return whether early stopping ends the last phase after `step`: for all runs, or for one.

    It notes which checkpoints stay, too: where runs end, and what may be in a valley (SWAD). A
    function of the log up to this step, so a run that goes on ends where it would have.
    """
    if not group.training.patience and not group.swad:
        return False
    found = [[e for e in es if e["epoch"] * group.per_epoch <= step] for es in _validations(group)]
    if group.swad:
        group.segments[:] = [_needed(group, entries) for entries in found]
        return False
    ends = [_stopped(group, entries) for entries in found]
    group.ends[:] = [None if end is None else end * group.per_epoch for end in ends]
    return None not in (ends if run is None else [ends[run]])


def _stopped(group: RunGroup, entries: list[dict]) -> int | None:
    """Return the epoch at which a run with these validations ended early, if it did."""
    training = group.training
    if not training.patience:
        return None
    return stop_epoch(entries, training.selection, training.patience, training.min_delta)


def _validations(group: RunGroup) -> list[list[dict]]:
    """Return each run's validations of the last phase as they are in the log, oldest first."""
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
    """Return the states of the epochs that the config's rule picks, stacked over runs.

    Without what the optimizer keeps, which nobody asks of trained methods.
    """
    cached, like = group.cached[-1], group.start_shapes()
    for index in range(len(group.spans)):
        begin = jax.vmap(functools.partial(group.recipe.begin, index), (0, None))
        like = jax.eval_shape(begin, like, group.joining(index))
    like = like._replace(opt_state=())
    if cached:
        return _stacked(_read(group, None, history, range(len(history)), like))
    # A checkpoint for each seed.
    like, seeds = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like), []
    for run in range(len(history)):
        seed = group.training.seeds[run % len(group.training.seeds)]
        seeds += _read(group, seed, history, [run], like)
    return _stacked(seeds)


def _read(
    group: RunGroup, seed: int | None, history: list[list[dict]], runs: Sequence[int], like: PyTree
) -> list[TrainState]:
    """Return the picked states of the runs that share a place of checkpoints."""
    found: dict[int, TrainState] = {}
    with group.checkpointer(group.method.phases[-1], seed) as checkpointer:
        steps = checkpointer.steps
        picked = {run: _picked(group, run, history[run], steps) for run in runs}

        # All runs are in each: read once, not once a run.
        @functools.lru_cache(maxsize=2)
        def stacked(step):
            state, _ = checkpointer.restore(like, step, optimizer=False)
            return jax.device_get(state)

        for run in sorted(runs, key=picked.__getitem__):
            own = lambda step: jax.tree.map(lambda x: x[run] if seed is None else x, stacked(step))  # noqa: B023
            state, end = own(picked[run]), history[run][-1]["epoch"] * group.per_epoch
            end = max(there for there in steps if there <= end)
            if group.swad:
                parts = _valley_steps(group, run, history[run], steps)
                state = state._replace(average=joined([own(part).average for part in parts]))
            elif leaves(like.average) and picked[run] != end:
                # A mean is of the run's end: where another epoch is picked, it may not have begun.
                state = state._replace(average=own(end).average)
            found[run] = state
    return [found[run] for run in runs]


def _stacked(states: list[TrainState]) -> TrainState:
    return jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *states)


def _valley(group: RunGroup, entries: list[dict]) -> Valley:
    options = {key: value for key, value in group.swad.items() if key != "began"}
    return loss_valley([entry.get(LOSS) for entry in entries], **options)


def _needed(group: RunGroup, entries: list[dict]) -> set[int]:
    """Return the steps of a run's segments that its valley may be of, by its validations so far."""
    places = _valley(group, entries).needed(len(entries), group.swad["tolerance"])
    return {entries[place]["epoch"] * group.per_epoch for place in places}


def _valley_steps(group: RunGroup, run: int, entries: list[dict], steps: list[int]) -> list[int]:
    """Return the steps at which segments of a run's valley end."""
    found = _valley(group, entries)
    wanted = [e["epoch"] * group.per_epoch for e in entries[found.start : found.end + 1]]
    if missing := sorted(set(wanted).difference(steps)):
        name = group.names[run // len(group.training.seeds)]
        fault = f"the checkpoints of {name!r} after steps {missing}, of its valley, are missing"
        raise CheckpointError(f"{group.workdir}: {fault}; start anew in another --workdir.")
    return wanted


def _picked(group: RunGroup, run: int, entries: list[dict], steps: list[int]) -> int:
    """Return the step that the config's rule picks of a run's validations, of those on disk."""
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


def split_by_method(group: RunGroup, states: TrainState, history: list) -> dict[str, Trained]:
    """Return what belongs to each method."""
    seeds, found = len(group.training.seeds), {}
    drawn = any(method.config.wise for method in group.methods)
    # In numpy: a program for each shape of a parameter would take longer than the mean.
    starts, clip = jax.device_get((group.start().params, group.plan.params) if drawn else ({}, {}))
    variants = {"last": states.params, "average": _averages(states)}
    variants = {key: jax.device_get(tree) for key, tree in variants.items() if tree is not None}
    for position, name in enumerate(group.names):
        mine = slice(position * seeds, (position + 1) * seeds)
        own = {key: jax.tree.map(lambda x: x[mine], tree) for key, tree in variants.items()}  # noqa: B023
        if shares := group.methods[position].config.wise:
            start = jax.tree.map(lambda x: x[mine], starts) | {"clip": clip}  # noqa: B023
            start = _like(start, own["last"])
            own |= {wise_name(a): between(start, own["last"], a) for a in shares}
        result = group.methods[position].config.result
        own = {result: own[result]} | own  # the method's own is the first
        for params in own.values():
            check_params(group, name, params)
        found[name] = Trained(
            group.recipe.answer,
            group.view,
            own,
            group.shared(len(group.spans) - 1),
            history[mine],
            group.recipe.answer_for,
        )
    return found


def _like(tree: PyTree, other: PyTree) -> PyTree:
    """Return the part of nested dicts that others have."""
    return {k: _like(tree[k], v) if isinstance(v, dict) else tree[k] for k, v in other.items()}


def _averages(states: TrainState) -> PyTree:
    """Return all parameters with running means in place of what trained; None without means."""
    running = states.average
    if not leaves(running):
        return None
    pick = lambda mean, x: x if mean is None else np.asarray(mean).astype(x.dtype)
    return jax.tree.map(pick, running.params, states.params, is_leaf=lambda leaf: leaf is None)


def find_non_finite(params: PyTree) -> str:
    """Return the name of a parameter that holds NaN or infinity; "" if none does."""
    return next((name for name, leaf in flat(params).items() if not is_finite(leaf)), "")


def check_params(group: RunGroup, name: str, params: PyTree) -> None:
    """Raise CheckpointError for trained parameters that are not finite."""
    if where := find_non_finite(params):
        fault = f"the parameters of {name!r} hold NaN or infinity in {where}"
        raise CheckpointError(f"{group.workdir}: {fault}; start anew in another --workdir.")


def _unfinished(group: RunGroup, name: str) -> CheckpointError:
    there = f"{group.workdir} has no checkpoint of {name!r}"
    return CheckpointError(f"{there}; run the experiment first.")
