"""Training on a stream of batches, one run after the other: phases that train an encoder."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.adapt.step import TrainState
from clipjax.log import progress
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import batch_mesh
from clipjax.train.journal import Outputs, StepJournal
from clipjax.train.preemption import leave
from clipjax.train.trace import Trace, traced

PyTree = Any
# Steps that may wait for the device. CPU devices that meet in a sum share one pool of threads, and
# with many steps under way all of its threads can end up waiting for each other.
IN_FLIGHT = 8
SAVE_SECONDS = 600.0  # at most this much of a long epoch is lost to a kill
AGREE_EVERY = 64  # steps after which several processes ask each other whether so much has passed


@dataclasses.dataclass(frozen=True)
class Steps:
    """How long a phase on a stream trains, and how.

    Attributes:
      phase: name in the log.
      total: steps that lie behind the state returned.
      log_every: steps between metric records; every loss is checked to be finite then.
      save_every: steps between checkpoints; there is one every ten minutes besides.
      evaluate_every: steps between measures; 0 for never.
      tags: more that tells these records from others (the seed).
      mesh: devices that share each batch (`clipjax.train.distributed.sharding`); one by default.
      parallel: how they share it, "jit" or "pmap" (`clipjax.train.distributed.program`).
      trace: steps to profile.
    """

    phase: str
    total: int
    log_every: int = 50
    save_every: int = 500
    evaluate_every: int = 0
    tags: dict[str, Any] = dataclasses.field(default_factory=dict)
    mesh: Mesh | None = None
    parallel: str = "jit"
    trace: Trace | None = None


def fit_stream(
    step: Callable[..., tuple[TrainState, dict]],
    state: TrainState,
    open_batches: Callable[[int], Iterator[PyTree]],
    plan: Steps,
    out: Outputs,
    *shared: PyTree,
) -> TrainState:
    """Trains on batches from a stream, resuming from the newest checkpoint.

    The next batch is brought to the devices while a step runs; nothing else goes there from the
    host, and nothing comes back but at records. No more than `IN_FLIGHT` steps are under way.

    Args:
      step: pure train step; compiled here, its state donated. The same function object is traced
        once, however many seeds are trained with it. For `parallel="pmap"`: of axis `DATA`.
      state: where to start when nothing was saved; its buffers are donated.
      open_batches: first step -> iterator of the batches from there on.
      plan: how long, on which devices.
      out: gets the means of all metrics since the record before, and measures of the parameters.
      shared: parameters that no step changes, which the step takes after the batch.

    Returns:
      The state after `plan.total` steps.

    Raises:
      NonFiniteError: a loss became NaN or infinite; nothing after it is saved.
      Preempted: `out.stop` said so; the state is saved.
    """
    total, mesh = plan.total, plan.mesh or batch_mesh(1)
    program = make_program(step, state, mesh, plan.parallel, *shared)
    state = _newest(out.checkpointer, program.place_state(state))
    first, saved = int(state.step), time.perf_counter()
    run = traced(program.run, plan.trace, first, total) if plan.trace else program.run
    batches = open_batches(first) if first < total else iter(())
    following = lambda n: program.place_batch(next(batches)) if n < total else None
    driven = _driven(run, state, following(first), following, range(first, total), plan.phase)
    journal = StepJournal(out, {"phase": plan.phase, **plan.tags}, first, total)
    every = plan.evaluate_every if out.evaluate else 0
    for done, state, metrics in driven:
        journal.add(metrics)
        saving, scores = done % plan.save_every == 0 or done == total, None
        if done % plan.log_every == 0 or saving:  # no state is saved whose losses were not seen
            journal.write_means(done)
        if every and (done % every == 0 or done == total):
            scores = journal.write_scores(done, out.evaluate(state.params))
        stopping = out.stop(done)
        late = stopping or _is_late(time.perf_counter() - saved, done)
        if saving or late:
            journal.means(done)  # looked at where no record is due, too
            out.checkpointer.save(done, state, scores=scores)
            saved = time.perf_counter()
        if stopping:
            leave(out.checkpointer, plan.phase, done)
    return state


def _driven(
    run: Callable, state: TrainState, batch: PyTree, following: Callable, steps: range, phase: str
) -> Iterator[tuple[int, TrainState, dict]]:
    """Step by step: the steps behind, the state and the metrics, which may still be computed.

    `following(n)` is step n's batch on the devices; it is brought there while a step runs.
    """
    waiting = collections.deque()
    for number in progress(steps, what=phase, unit="step"):
        # The first call compiles, which may read constants from the host.
        with jax.transfer_guard("disallow" if number > steps.start else "allow"):
            state, metrics = run(state, batch)
        batch = following(number + 1)
        waiting.append(metrics)
        if len(waiting) > IN_FLIGHT:
            jax.block_until_ready(waiting.popleft())
        yield number + 1, state, metrics


def _is_late(seconds: float, done: int) -> bool:
    """Whether the last checkpoint is too old, to all processes: each has a clock of its own."""
    late = seconds > SAVE_SECONDS
    if not processes.several():
        return late
    return done % AGREE_EVERY == 0 and processes.any_of(late)


def _newest(checkpointer: Checkpointer, state: TrainState) -> TrainState:
    """The newest checkpoint, if it is ahead of a state, whose buffers are then freed."""
    if checkpointer.latest is None or checkpointer.latest <= int(state.step):
        return state
    return checkpointer.restore(state, donate=True)[0]
