"""Training on cached features: whole epochs inside one compiled scan, many runs at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.adapt.step import TrainState
from clipjax.data.order import ONE_PASS, Sampling, epoch_key, epoch_plan, steps_per_epoch
from clipjax.log import MetricsLog, progress
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.loop import check_finite
from clipjax.train.preemption import leave, never
from clipjax.train.sharding import on_each, replicated

# Examples, of all runs together, that one compiled call may go through in several epochs: some 10 s
# on two cores. Nothing is shown meanwhile, and Ctrl-C waits.
EXAMPLES_A_CALL = 200_000

PyTree = Any
Data = dict[str, dict[str, jax.Array]]  # {"source": {"inputs", "label"}, "target": {"inputs"}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _BFloat16:
    """bfloat16 features as integers of the same bits.

    To gather rows of a bfloat16 array XLA's CPU backend makes all of it float32 first.
    """

    bits: jax.Array  # uint16 [N, P]

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(self.bits[index], jnp.bfloat16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Chosen:
    """Some rows of an array, gathered when they are asked for."""

    array: jax.Array | _BFloat16  # [N, ...]
    rows: jax.Array  # int32 [n]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: jax.Array) -> jax.Array:
        return self.array[self.rows[index]]


def _on_device(array: Any, mesh: Mesh | None = None) -> jax.Array | _BFloat16:
    """What `_batch` gathers from. `device_put` on a CPU copies no mapped file; `asarray` would."""
    put = on_each if mesh is None else lambda x: jax.device_put(x, replicated(mesh))
    if array.dtype != jnp.bfloat16:
        return put(array)
    if isinstance(array, np.ndarray):
        return _BFloat16(put(array.view(np.uint16)))
    return _BFloat16(put(jax.lax.bitcast_convert_type(array, jnp.uint16)))


def _gather(array: jax.Array | _BFloat16 | _Chosen, index: jax.Array) -> jax.Array:
    """Rows of an array; 16-bit floats become float32 here, where they are few."""
    rows = array[index]
    half = jnp.issubdtype(rows.dtype, jnp.floating) and rows.dtype.itemsize == 2
    return rows.astype(jnp.float32) if half else rows


def _batch(data: Data, plan: dict[str, jax.Array]) -> PyTree:
    take = lambda part, index: {key: _gather(x, index) for key, x in part.items()}  # noqa: E731
    batch = {"source": take(data["source"], plan["source"]) | {"mask": plan["mask"]}}
    if "target" in data:
        batch["target"] = take(data["target"], plan["target"])
    return batch


def _sizes(data: Data) -> tuple[int, int]:
    """Examples of source and target."""
    targets = len(data["target"]["inputs"]) if "target" in data else 0
    return len(data["source"]["label"]), targets


def make_epochs(step: Callable, batch_size: int, sampling: Sampling = ONE_PASS) -> Callable:
    """Turns a step into `epochs(state, data, first, count) -> (state, metrics [count, S])`.

    Epoch e of a seed is shuffled by fold_in(key(seed), e) alone, so resuming repeats nothing.
    """

    def one_epoch(carry, epoch):
        state, data = carry
        key, sizes = epoch_key(state.seed, epoch), _sizes(data)
        labels = data["source"]["label"]
        labels = labels[jnp.arange(len(labels))] if isinstance(labels, _Chosen) else labels
        plan = epoch_plan(key, *sizes, batch_size, sampling, labels)
        state, metrics = jax.lax.scan(lambda s, p: step(s, _batch(data, p)), state, plan)
        return (state, data), metrics

    def epochs(state: TrainState, data: Data, first: jax.Array, count: int):
        (state, _), metrics = jax.lax.scan(one_epoch, (state, data), first + jnp.arange(count))
        return state, metrics

    return epochs


def fit_arrays(
    step: Callable,
    states: TrainState,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    phase: str | Sequence[str],
    checkpointer: Checkpointer,
    log: MetricsLog,
    save_every: int,
    sampling: Sampling = ONE_PASS,
    rates: Callable[[int, int], dict[str, float]] | None = None,
    evaluate: Callable[[PyTree], dict[str, list]] | None = None,
    rows: Mapping[str, np.ndarray] | None = None,
    mesh: Mesh | None = None,
    stop: Callable[[int], bool] = never,
) -> TrainState:
    """Trains many runs together in one program, resuming from the newest checkpoint.

    Runs are seeds of one method, or of several methods that differ in numbers alone: networks, loss
    and length are the same, learning rates and lambdas are not.

    Args:
      step: pure train step of one run; with several methods a function of the method's position
        (traced) that gives the step.
      states: states stacked over runs: all seeds of the first method, then of the next.
      data: features and labels, the same for all runs; features may be of 16 bits and arrays in
        memory-mapped files.
      epochs: how many lie behind the states returned, those that `states` has behind it included.
      batch_size: examples per domain and step.
      phase: name in the log and in errors; one for each method.
      checkpointer: where states go.
      log: gets one record an epoch and method: means over its steps, a list over seeds.
      save_every: epochs between checkpoints. They are one compiled call where that is short
        (`EXAMPLES_A_CALL`), otherwise each epoch is one; the numbers are the same.
      sampling: length of an epoch, and how the source is drawn.
      rates: position of a method, updates made -> learning rates, for the log.
      evaluate: stacked parameters -> measures, lists over runs, logged beside each checkpoint.
      rows: "source" and "target" -> int [methods, n], the examples of `data` that each method
        trains on; None for all.
      mesh: devices that share the runs, of `run_mesh`; None stacks all runs on one. The numbers
        are the same up to rounding, which DANN amplifies from step to step.
      stop: steps behind -> whether to save and leave (`clipjax.train.preemption.Notice.reached`);
        asked for all steps of a call after it.

    Returns:
      The stacked states after the last epoch.

    Raises:
      NonFiniteError: a loss became NaN or infinite; nothing after it is saved.
      Preempted: `stop` said so; the states are saved.
    """
    names = [phase] if isinstance(phase, str) else list(phase)
    step_of = (lambda row: step) if isinstance(phase, str) else step
    seeds = len(states.step) // len(names)
    share = {name: slice(i * seeds, (i + 1) * seeds) for i, name in enumerate(names)}
    runs = len(states.step)
    run = _program(step_of, batch_size, sampling, mesh, rows)
    sizes = [rows[part].shape[1] for part in ("source", "target")] if rows else _sizes(data)
    per_epoch = steps_per_epoch(*sizes, batch_size, sampling.epoch)
    data = jax.tree.map(lambda x: _on_device(x, mesh), data)  # once, not at every call
    origin = int(np.asarray(states.step)[0]) // per_epoch
    states = _newest(checkpointer, states)
    method_of, padded = _spread((np.repeat(np.arange(len(names)), seeds), states), mesh)
    begun = int(np.asarray(states.step)[0]) // per_epoch
    log.rewind(lambda record: record.get("phase") not in names or record["epoch"] <= begun)
    epoch_examples = per_epoch * batch_size * runs
    bar = progress(total=epochs, what=" ".join(names), unit="epoch")
    bar.update(begun)
    for first, count in _calls(begun, epochs, save_every, epoch_examples, origin):
        started = time.perf_counter()
        padded, metrics = run(method_of, padded, data, np.int32(first), count)
        metrics = {k: np.asarray(v)[:runs] for k, v in metrics.items()}  # [runs, count, S]
        _check(metrics, share, first * per_epoch, checkpointer.latest)
        seconds = {"s_per_epoch": round((time.perf_counter() - started) / count, 4)}
        for position, (name, own) in enumerate(_apart(metrics, share)):
            for done in range(first + 1, first + count + 1):
                record = _means(own, done - first - 1) | seconds
                record |= rates(position, done * per_epoch - 1) if rates else {}
                log.append(_place(name, done, per_epoch) | record)
        done = first + count
        bar.update(count)
        stopping = any([stop(n + 1) for n in range(first * per_epoch, done * per_epoch)])
        due, scores = (done - origin) % save_every == 0 or done == epochs, None
        if due or stopping:
            states = _gathered(padded, runs, mesh)
        if due and evaluate:
            scores = {"evaluation": evaluate(states.params)}
            for name, own in _apart(scores["evaluation"], share):
                log.append(_place(name, done, per_epoch) | {"evaluation": own})
        if due or stopping:
            checkpointer.save(done * per_epoch, states, scores=scores)
        if stopping:
            leave(checkpointer, " and ".join(names), done * per_epoch)
    bar.close()
    return states


def _calls(
    first: int, epochs: int, save_every: int, examples: int, origin: int = 0
) -> Iterator[tuple[int, int]]:
    """(first epoch, epochs) of each compiled call; `examples` an epoch.

    Checkpoints are due at the same epochs wherever a run goes on: every `save_every` after
    `origin`, the first epoch of the phase.

    >>> list(_calls(0, 5, 2, 1000)), list(_calls(3, 5, 2, 1_000_000))
    ([(0, 2), (2, 2), (4, 1)], [(3, 1), (4, 1)])
    >>> list(_calls(3, 9, 4, 1000)), list(_calls(3, 9, 4, 1000, origin=3))
    ([(3, 1), (4, 4), (8, 1)], [(3, 4), (7, 2)])
    """
    # Few lengths, because each is compiled: one epoch, or all to the next checkpoint.
    count = save_every if save_every * examples <= EXAMPLES_A_CALL else 1
    while first < epochs:
        until = min(epochs, first + count - (first - origin) % count)
        yield first, until - first
        first = until


def run_mesh(runs: int) -> Mesh | None:
    """The CPU devices that share many runs; None where they are stacked: on an accelerator.

    On CPU every device trains its runs one after the other: their matrices are too small for
    several threads, a stack of them leaves the cache, and a run's numbers do not depend on which
    others are with it (docs/performance.md has the times). On an accelerator a stack of small
    products is what fills it. Several processes, which all train the same, stack them too.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu" or jax.process_count() > 1:
        return None
    return Mesh(np.array(devices[: min(runs, len(devices))]), ("runs",))


def _program(
    step_of: Callable,
    batch_size: int,
    sampling: Sampling,
    mesh: Mesh | None,
    rows: Mapping[str, np.ndarray] | None = None,
) -> Callable:
    """`(methods, states, data, first, count)` -> all runs trained for `count` epochs."""

    def one(method, state, data, first, count):
        if rows:
            own = {part: jnp.asarray(index, jnp.int32)[method] for part, index in rows.items()}
            data = {
                part: {key: _Chosen(x, own[part]) for key, x in arrays.items()}
                for part, arrays in data.items()
            }
        return make_epochs(step_of(method), batch_size, sampling)(state, data, first, count)

    def one_by_one(methods, states, data, first, count):
        part, whole = PartitionSpec("runs"), PartitionSpec()
        return jax.shard_map(
            lambda methods, states, data, first: jax.lax.map(
                lambda run: one(*run, data, first, count), (methods, states)
            ),
            mesh=mesh,
            in_specs=(part, part, whole, whole),
            out_specs=part,
        )(methods, states, data, first)

    stacked = jax.vmap(one, in_axes=(0, 0, None, None, None))
    return jax.jit(stacked if mesh is None else one_by_one, static_argnums=4)


def _spread(runs: PyTree, mesh: Mesh | None) -> PyTree:
    """Runs dealt out to the devices of a mesh, the last ones repeated until they divide evenly."""
    if mesh is None:
        return runs

    def place(x):
        x = np.asarray(x)
        missing = -len(x) % mesh.size
        x = np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec("runs")))

    return jax.tree.map(place, runs)


def _gathered(states: PyTree, runs: int, mesh: Mesh | None) -> PyTree:
    """Undoes `_spread`: the states of all runs on one device."""
    if mesh is None:
        return states
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x)[:runs]), states)


def _newest(checkpointer: Checkpointer, states: TrainState) -> TrainState:
    """What was saved, if it is ahead of these states."""
    found = checkpointer.restore(states)
    return found[0] if found and found[0].step[0] > states.step[0] else states


def _apart(values: dict, share: dict[str, slice]) -> list[tuple[str, dict]]:
    """Each method's name with its own runs of values that are stacked over all runs."""
    return [(name, {k: v[mine] for k, v in values.items()}) for name, mine in share.items()]


def _means(metrics: dict[str, np.ndarray], epoch: int) -> dict[str, list[float]]:
    """Means over the steps of one of the epochs, a list over runs; of [runs, epochs, steps]."""
    return {key: v[:, epoch].mean(axis=-1).round(6).tolist() for key, v in metrics.items()}


def _place(name: str, epoch: int, per_epoch: int) -> dict[str, Any]:
    return {"phase": name, "epoch": epoch, "step": epoch * per_epoch}


def _check(metrics: dict, share: dict[str, slice], first_step: int, last_good: int | None) -> None:
    """Looks for losses that are not finite, method by method; metrics are [runs, epochs, steps]."""
    for name, mine in share.items():
        flat = {k: v[mine].reshape(len(v[mine]), -1) for k, v in metrics.items()}
        check_finite(
            flat["loss"] + 0.0 * flat["grad_norm"],  # inf * 0 is NaN
            first_step=first_step,
            phase=name,
            lam=flat.get("lam"),
            last_good=last_good,
        )
