"""Training on cached features: whole epochs inside one compiled scan, many runs at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.adapt.step import TrainState
from clipjax.data.loading.sampler import ONE_PASS, PARTS, Plan, Sampler, epoch_key
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed.sharding import on_each, replicated
from clipjax.train.journal import EpochJournal, Outputs, Runs
from clipjax.train.preemption import leave

# Examples, of all runs together, that one compiled call may go through in several epochs: some 10 s
# on two cores. Nothing is shown meanwhile, and Ctrl-C waits.
EXAMPLES_A_CALL = 200_000

PyTree = Any
Data = dict[str, dict[str, jax.Array]]  # {"source": {"inputs", "label"}, "target": {"inputs"}}


@dataclasses.dataclass(frozen=True)
class Epochs:
    """How long a phase on cached features trains, and on what.

    Attributes:
      names: of the phase in the log and in errors; one for each method.
      epochs: of the run when the phase ends; those of earlier phases count.
      batch_size: examples per domain and step.
      save_every: epochs between checkpoints. They are one compiled call where that is short
        (`EXAMPLES_A_CALL`), otherwise each epoch is one; the numbers are the same.
      sampler: length of an epoch, and which examples a batch has.
      rows: "source" and "target" -> int [methods, n], the examples that each method trains on; None
        for all.
      mesh: devices that share the runs, of `run_mesh`; None stacks all runs on one. The numbers
        are the same up to rounding, which DANN amplifies from step to step.
    """

    names: tuple[str, ...]
    epochs: int
    batch_size: int
    save_every: int
    sampler: Sampler = ONE_PASS
    rows: Mapping[str, np.ndarray] | None = None
    mesh: Mesh | None = None


def fit_arrays(
    step: Callable, states: TrainState, data: Data, plan: Epochs, out: Outputs, *shared: PyTree
) -> TrainState:
    """Trains many runs together in one program, resuming from the newest checkpoint.

    Runs are seeds of one method, or of several methods that differ in numbers alone: networks, loss
    and length are the same, learning rates and lambdas are not.

    Args:
      step: method's position (traced) -> pure train step of one of its runs.
      states: states stacked over runs: all seeds of the first method, then of the next.
      data: features (of 16 or 32 bits) and labels, the same for all runs; maybe mapped files.
      plan: how long, which batches.
      out: gets one record an epoch and method: means over its steps, a list over seeds; measures
        are lists over runs, of stacked parameters.
      shared: parameters that no run changes, for the step: one copy, however many runs.

    Returns:
      The stacked states after the last epoch.

    Raises:
      NonFiniteError: a loss became NaN or infinite; nothing after it is saved.
      Preempted: `out.stop` said so, asked for all steps of a call after it; the states are saved.
    """
    runs, mesh = Runs(plan.names, len(states.step)), plan.mesh
    run = _program(step, plan)
    per_epoch = plan.sampler.steps(*_sizes(data, plan.rows), plan.batch_size)
    data = jax.tree.map(lambda x: on_device(x, mesh), data)  # once, not at every call
    shared = jax.tree.map(lambda x: whole(x, mesh), shared)
    origin = int(np.asarray(states.step)[0]) // per_epoch
    states = _newest(out.checkpointer, states)
    method_of, padded = _spread((runs.method_of, states), mesh)
    begun = int(np.asarray(states.step)[0]) // per_epoch
    journal = EpochJournal(out, runs, per_epoch, begun, plan.epochs)
    examples = per_epoch * plan.batch_size * runs.count
    for first, count in _calls(begun, plan.epochs, plan.save_every, examples, origin):
        started = time.perf_counter()
        padded, metrics = run(method_of, padded, data, np.int32(first), count, *shared)
        journal.write_epochs(metrics, first, started)
        done = first + count
        stopping = any([out.stop(n + 1) for n in range(first * per_epoch, done * per_epoch)])
        due, scores = (done - origin) % plan.save_every == 0 or done == plan.epochs, None
        if due or stopping:
            states = _gathered(padded, runs.count, mesh)
            if due and out.evaluate:
                scores = journal.write_scores(done, out.evaluate(states.params))
            out.checkpointer.save(done * per_epoch, states, scores=scores)
        if stopping:
            leave(out.checkpointer, " and ".join(runs.names), done * per_epoch)
    journal.close()
    return states


def _sizes(data: Data, rows: Mapping[str, np.ndarray] | None) -> tuple[int, int]:
    """Examples of source and target that a method trains on."""
    return (rows["source"].shape[1], rows["target"].shape[1]) if rows else domain_sizes(data)


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


def _program(step_of: Callable, plan: Epochs) -> Callable:
    """`(methods, states, data, first, count, *shared)` -> all runs trained for `count` epochs."""

    def one(method, state, data, first, count, *shared):
        if plan.rows:
            own = {part: jnp.asarray(rows, jnp.int32)[method] for part, rows in plan.rows.items()}
            data = {
                part: {key: Chosen(x, own[part]) for key, x in arrays.items()}
                for part, arrays in data.items()
            }
        epochs = make_epochs(step_of(method), plan.batch_size, plan.sampler)
        return epochs(state, data, first, count, *shared)

    def one_by_one(methods, states, data, first, count, *shared):
        part, same = PartitionSpec("runs"), PartitionSpec()
        return jax.shard_map(
            lambda methods, states, data, first, *shared: jax.lax.map(
                lambda run: one(*run, data, first, count, *shared), (methods, states)
            ),
            mesh=plan.mesh,
            in_specs=(part, part, same, same, *(same for _ in shared)),
            out_specs=part,
        )(methods, states, data, first, *shared)

    def stacked(methods, states, data, first, count, *shared):
        together = lambda method, state: one(method, state, data, first, count, *shared)
        return jax.vmap(together)(methods, states)

    return jax.jit(stacked if plan.mesh is None else one_by_one, static_argnums=4)


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
    """The newest checkpoint, if it is ahead of these states; else these."""
    found = checkpointer.restore(states)
    return found[0] if found and found[0].step[0] > states.step[0] else states


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
class Chosen:
    """Some rows of an array, gathered when they are asked for."""

    array: jax.Array | _BFloat16  # [N, ...]
    rows: jax.Array  # int32 [n]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: jax.Array) -> jax.Array:
        return self.array[self.rows[index]]


def whole(array: Any, mesh: Mesh | None = None) -> jax.Array:
    """An array on every device of the mesh, or on one. A mapped file is not copied on a CPU."""
    return on_each(array) if mesh is None else jax.device_put(array, replicated(mesh))


def on_device(array: Any, mesh: Mesh | None = None) -> jax.Array | _BFloat16:
    """An array as `_batch` gathers rows from it."""
    if array.dtype != jnp.bfloat16:
        return whole(array, mesh)
    if isinstance(array, np.ndarray):
        return _BFloat16(whole(array.view(np.uint16), mesh))
    return _BFloat16(whole(jax.lax.bitcast_convert_type(array, jnp.uint16), mesh))


def _gather(array: jax.Array | _BFloat16 | Chosen, index: jax.Array) -> jax.Array:
    """Rows of an array; 16-bit floats become float32 here, where they are few."""
    rows = array[index]
    half = jnp.issubdtype(rows.dtype, jnp.floating) and rows.dtype.itemsize == 2
    return rows.astype(jnp.float32) if half else rows


def _batch(data: Data, plan: Plan) -> PyTree:
    """The parts that a plan has rows of and the data have examples of, with the source's mask."""
    batch = {
        part: {key: _gather(x, plan[part]) for key, x in data[PARTS[part]].items()}
        for part in plan
        if PARTS.get(part) in data
    }
    batch["source"]["mask"] = plan["mask"]
    return batch


def domain_sizes(data: Data) -> tuple[int, int]:
    """Examples of source and target."""
    targets = len(data["target"]["inputs"]) if "target" in data else 0
    return len(data["source"]["label"]), targets


def make_epochs(step: Callable, batch_size: int, sampler: Sampler = ONE_PASS) -> Callable:
    """Turns a step into `epochs(state, data, first, count, *shared)`.

    That gives (state, metrics [count, S]). Epoch e of a seed is shuffled by fold_in(key(seed), e)
    alone, so resuming repeats nothing. `shared` goes to the step as it is.
    """

    def epochs(state: TrainState, data: Data, first: jax.Array, count: int, *shared: PyTree):
        def one_epoch(carry, epoch):
            state, data = carry
            key, sizes = epoch_key(state.seed, epoch), domain_sizes(data)
            labels = data["source"]["label"]
            labels = labels[jnp.arange(len(labels))] if isinstance(labels, Chosen) else labels
            plan = sampler.plan(key, *sizes, batch_size, labels)
            one_step = lambda s, p: step(s, _batch(data, p), *shared)
            state, metrics = jax.lax.scan(one_step, state, plan)
            return (state, data), metrics

        (state, _), metrics = jax.lax.scan(one_epoch, (state, data), first + jnp.arange(count))
        return state, metrics

    return epochs
