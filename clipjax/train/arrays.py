"""Training on cached features: whole epochs in one compiled scan, many runs at once."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from clipjax.adapt.step import TrainState
from clipjax.data.loading.sampler import ONE_PASS, PARTS, Plan, Sampler, epoch_key
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed.sharding import on_each, replicated
from clipjax.train.journal import EpochJournal, Outputs
from clipjax.train.preemption import leave
from clipjax.train.turns import fits, gathered, in_turns, spread

# Examples, of all runs together, up to which several epochs are one compiled call: some 10 s on two
# cores, in which nothing is shown and Ctrl-C waits.
EXAMPLES_A_CALL = 200_000

PyTree = Any
Data = dict[str, dict[str, jax.Array]]  # {"source": {"inputs", "label"}, "target": {"inputs"}}


@dataclasses.dataclass(frozen=True)
class Epochs:
    """The length and the data of a phase on cached features."""

    names: tuple[str, ...]  # of the phase in the log and in errors, one per method
    epochs: int  # of the run when the phase ends, earlier phases included
    batch_size: int  # examples per domain and step
    save_every: int  # epochs between checkpoints
    sampler: Sampler = ONE_PASS
    # "source" and "target" -> int [methods, n], the examples of each method; None for all.
    rows: Mapping[str, np.ndarray] | None = None
    # Devices that share the runs, of `run_mesh`; None stacks all runs on one. The numbers are the
    # same up to rounding, which DANN amplifies from step to step.
    mesh: Mesh | None = None


def fit_arrays(
    run: Callable, states: TrainState, data: Data, plan: Epochs, out: Outputs, *shared: PyTree
) -> TrainState:
    """Train many runs together in one program, from the newest checkpoint on.

    Runs are seeds of one method, or of several that differ only in numbers (rates, lambdas).

    Args:
      run: of `epochs_program`, for this plan.
      states: states stacked over runs: all seeds of the first method, then of the next.
      data: features (of 16 or 32 bits) and labels of all runs; memory-mapped or not.
      plan: epochs and batches.
      out: gets one record per epoch and method: means over steps, lists over seeds. `evaluate` is
        given stacked parameters and returns lists over runs.
      shared: parameters that no run changes, for the step: one copy for all runs.

    Returns:
      The stacked states after the last epoch, or after that at which `out.enough` was true.

    Raises:
      NonFiniteError: a loss became NaN or infinite; nothing after it is saved.
      Preempted: `out.stop` was true for a step of the last call; the states are saved.
    """
    runs, mesh = len(states.step), plan.mesh
    own = [plan.rows[part].shape[1] for part in ("source", "target")] if plan.rows else None
    per_epoch = plan.sampler.steps(*(own or domain_sizes(data)), plan.batch_size)
    place = on_each if mesh is None else lambda x: jax.device_put(x, replicated(mesh))
    # As uint16: to gather bfloat16 rows, XLA's CPU backend copies the whole array to float32.
    bits = lambda x: x.view(np.uint16) if x.dtype == jnp.bfloat16 else x
    data = jax.tree.map(lambda x: place(bits(x)), data)  # mapped files are not copied on a CPU
    shared = jax.tree.map(place, shared)
    origin = int(np.asarray(states.step)[0]) // per_epoch
    states = _newest(out.checkpointer, states)
    if out.enough(int(np.asarray(states.step)[0])):
        return states
    methods = np.arange(runs) * len(plan.names) // runs
    call = lambda methods, states, first, count: run(methods, states, data, first, count, *shared)
    method_of, padded, dealt = spread(methods, mesh), states, False  # not yet on the devices
    begun = int(np.asarray(states.step)[0]) // per_epoch
    examples = per_epoch * plan.batch_size * runs
    with EpochJournal(out, plan.names, runs, per_epoch, range(begun, plan.epochs)) as journal:
        for first, count in _calls(begun, plan.epochs, plan.save_every, examples, origin):
            started = time.perf_counter()
            if fits(runs, mesh, count):
                padded, metrics = in_turns(call, methods, padded, first, count, mesh)
                dealt = False
            else:
                begin = spread(np.full(runs, first, np.int32), mesh)
                padded, dealt = padded if dealt else spread(padded, mesh), True
                padded, metrics = call(method_of, padded, begin, count)
            journal.write_epochs(metrics, first, started)
            done = first + count
            stopping = any([out.stop(n + 1) for n in range(first * per_epoch, done * per_epoch)])
            due, scores = (done - origin) % plan.save_every == 0 or done == plan.epochs, None
            ending = False
            if due or stopping:
                states = gathered(padded, runs, mesh)
                if due and out.evaluate:
                    scores = journal.write_scores(done, out.evaluate(states.params))
                    ending = out.enough(done * per_epoch)
                out.checkpointer.save(done * per_epoch, states, scores=scores)
            if stopping:
                leave(out.checkpointer, " and ".join(plan.names), done * per_epoch)
            if ending:
                break
    return states


def _calls(
    first: int, epochs: int, save_every: int, examples: int, origin: int = 0
) -> Iterator[tuple[int, int]]:
    """(first epoch, epochs) of each compiled call; `examples` per epoch.

    Checkpoints are due every `save_every` epochs after `origin`, wherever a run goes on.

    >>> list(_calls(0, 5, 2, 1000)), list(_calls(3, 5, 2, 1_000_000))
    ([(0, 2), (2, 2), (4, 1)], [(3, 1), (4, 1)])
    >>> list(_calls(3, 9, 4, 1000)), list(_calls(3, 9, 4, 1000, origin=3))
    ([(3, 1), (4, 4), (8, 1)], [(3, 4), (7, 2)])
    """
    # Few lengths, as each is compiled: one epoch, or all to the next checkpoint.
    count = save_every if save_every * examples <= EXAMPLES_A_CALL else 1
    while first < epochs:
        until = min(epochs, first + count - (first - origin) % count)
        yield first, until - first
        first = until


def run_mesh(runs: int) -> Mesh | None:
    """The CPU devices that share many runs; None to stack them, as on accelerators.

    On CPU a device trains its runs one after the other: their matrices are too small for several
    threads, and stacks leave the cache (docs/performance.md has the times). Several processes, all
    of which train the same, stack the runs too.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu" or jax.process_count() > 1:
        return None
    return Mesh(np.array(devices[: min(runs, len(devices))]), ("runs",))


def epochs_program(step_of: Callable, plan: Epochs) -> Callable:
    """`(methods, states, data, firsts, count, *shared)` -> all runs trained for `count` epochs.

    Each from its own first epoch on. Compiled, and for any data, with which it is compiled again if
    their shapes are others.

    Args:
      step_of: method's position (traced) -> pure train step of one of its runs.
      plan: its batches, `rows` and mesh; its length does not matter.
    """

    def one(method, state, data, first, count, *shared):
        own = {p: jnp.asarray(x, jnp.int32)[method] for p, x in (plan.rows or {}).items()}
        epochs = make_epochs(step_of(method), plan.batch_size, plan.sampler, own)
        return epochs(state, data, first, count, *shared)

    def one_by_one(methods, states, data, firsts, count, *shared):
        def on_a_device(methods, states, firsts, data, *shared):
            each = lambda run: one(*run[:2], data, run[2], count, *shared)
            return jax.lax.map(each, (methods, states, firsts))

        part, same = PartitionSpec("runs"), PartitionSpec()
        specs = (part, part, part, same, *(same for _ in shared))
        run = jax.shard_map(on_a_device, mesh=plan.mesh, in_specs=specs, out_specs=part)
        return run(methods, states, firsts, data, *shared)

    def stacked(methods, states, data, firsts, count, *shared):
        together = lambda method, state, first: one(method, state, data, first, count, *shared)
        return jax.vmap(together)(methods, states, firsts)

    return jax.jit(stacked if plan.mesh is None else one_by_one, static_argnums=4)


def _newest(checkpointer: Checkpointer, states: TrainState) -> TrainState:
    """The newest checkpoint if it is ahead of these states, else these."""
    found = checkpointer.restore(states)
    return found[0] if found and found[0].step[0] > states.step[0] else states


def _gather(array: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of an array; 16-bit floats (uint16 is bfloat16) become float32."""
    rows = array[index]
    if rows.dtype == jnp.uint16:
        rows = jax.lax.bitcast_convert_type(rows, jnp.bfloat16)
    return rows.astype(jnp.float32) if rows.dtype in (jnp.bfloat16, jnp.float16) else rows


def _batch(data: Data, plan: Plan) -> PyTree:
    """The parts that both plan and data have, with the source's mask."""
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


def make_epochs(
    step: Callable, batch_size: int, sampler: Sampler = ONE_PASS, rows: Mapping | None = None
) -> Callable:
    """Turn a step into `epochs(state, data, first, count, *shared)` -> (state, metrics [count, S]).

    Epoch e of a seed is shuffled by fold_in(key(seed), e) alone, so resuming repeats nothing.
    `rows`: as in `Epochs`, of one method.
    """

    def epochs(state: TrainState, data: Data, first: jax.Array, count: int, *shared: PyTree):
        def one_epoch(carry, epoch):
            state, data = carry
            labels, sizes = data["source"]["label"], domain_sizes(data)
            if rows:
                labels = labels[rows["source"]]
                sizes = [len(rows[part]) if part in data else 0 for part in ("source", "target")]
            plan = sampler.plan(epoch_key(state.seed, epoch), *sizes, batch_size, labels)
            if rows:
                parts = [part for part in plan if PARTS.get(part) in data]
                plan = plan | {part: rows[PARTS[part]][plan[part]] for part in parts}
            one_step = lambda s, p: step(s, _batch(data, p), *shared)
            state, metrics = jax.lax.scan(one_step, state, plan)
            return (state, data), metrics

        (state, _), metrics = jax.lax.scan(one_epoch, (state, data), first + jnp.arange(count))
        return state, metrics

    return epochs
