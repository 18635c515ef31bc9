"""Training on a stream of batches, one run at a time: phases that train an encoder."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.adapt.step import TrainState
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import batch_mesh
from clipjax.train.journal import Outputs, StepJournal
from clipjax.train.preemption import leave
from clipjax.train.trace import Trace, traced

PyTree = Any
# Steps under way: CPU devices share one pool of threads, which many steps can lock up in a sum.
IN_FLIGHT = 8
SAVE_SECONDS = 600.0  # the most that a kill in a long epoch costs
AGREE_EVERY = 64  # steps after which several processes agree on whether so much has passed


@dataclasses.dataclass(frozen=True)
class Steps:
    """The length of a phase on a stream, and how it trains."""

    phase: str  # name in the log
    total: int  # steps made when it ends
    log_every: int = 50  # steps between metric records, which check that losses are finite
    save_every: int = 500  # steps between checkpoints, besides those of every `SAVE_SECONDS`
    evaluate_every: int = 0  # steps between measures; 0 for never
    tags: dict[str, Any] = dataclasses.field(default_factory=dict)  # of its records: the seed
    mesh: Mesh | None = None  # devices that share each batch; one by default
    parallel: str = "jit"  # how they share it (`clipjax.train.distributed.program`)
    trace: Trace | None = None  # steps to profile


def fit_stream(
    step: Callable[..., tuple[TrainState, dict]],
    state: TrainState,
    open_batches: Callable[[int], Iterator[PyTree]],
    plan: Steps,
    out: Outputs,
    *shared: PyTree,
) -> TrainState:
    """Train on batches from a stream, from the newest checkpoint on.

    The next batch goes to the devices while a step runs; nothing else does, and nothing comes back
    except at records.

    Args:
      step: pure train step, (state, batch, *shared); traced once per function object, its state
        donated. For `parallel="pmap"`: of axis `DATA`.
      state: where to start if nothing was saved; donated.
      open_batches: first step -> iterator of the batches from there on.
      plan: length and devices.
      out: gets the means of all metrics since the last record, and measures of the parameters.
      shared: parameters that no step changes.

    Raises:
      NonFiniteError: a loss became NaN or infinite; nothing after it is saved.
      Preempted: `out.stop` was true; the state is saved.
    """
    total, mesh = plan.total, plan.mesh or batch_mesh(1)
    program = make_program(step, state, mesh, plan.parallel, *shared)
    state = _newest(out.checkpointer, program.place_state(state))
    first, saved = int(state.step), time.perf_counter()
    if out.enough(first):
        return state
    run = traced(program.run, plan.trace, first, total) if plan.trace else program.run
    batches = open_batches(first) if first < total else iter(())
    following = lambda n: program.place_batch(next(batches)) if n < total else None
    driven = _driven(run, state, following(first), following, range(first, total))
    every = plan.evaluate_every if out.evaluate else 0
    with StepJournal(out, {"phase": plan.phase, **plan.tags}, first, total) as journal:
        for done, state, metrics in driven:
            journal.count(metrics)
            saving, scores = done % plan.save_every == 0 or done == total, None
            ending = False
            if done % plan.log_every == 0 or saving:
                journal.write_means(done)
            if every and (done % every == 0 or done == total):
                scores = journal.write_scores(done, out.evaluate(state.params))
                ending = out.enough(done)
            stopping = out.stop(done)
            late = stopping or ending or _is_late(time.perf_counter() - saved, done)
            if saving or late:
                journal.means(done)  # no state is saved with unchecked losses
                out.checkpointer.save(done, state, scores=scores)
                saved = time.perf_counter()
            if stopping:
                leave(out.checkpointer, plan.phase, done)
            if ending:
                break
    return state


def _driven(
    run: Callable, state: TrainState, batch: PyTree, following: Callable, steps: range
) -> Iterator[tuple[int, TrainState, dict]]:
    """After each step: steps made, state and metrics, which may still be computed.

    `following(n)` is step n's batch on the devices, asked for while the step before runs.
    """
    waiting = collections.deque()
    for number in steps:
        # The first call compiles, and may read constants from the host.
        with jax.transfer_guard("disallow" if number > steps.start else "allow"):
            state, metrics = run(state, batch)
        batch = following(number + 1)
        waiting.append(metrics)
        if len(waiting) > IN_FLIGHT:
            jax.block_until_ready(waiting.popleft())
        yield number + 1, state, metrics


def _is_late(seconds: float, done: int) -> bool:
    """Return whether the last checkpoint is too old, by the clock of any process."""
    late = seconds > SAVE_SECONDS
    if processes.several():
        late = done % AGREE_EVERY == 0 and any(processes.gather(late))
    return late


def _newest(checkpointer: Checkpointer, state: TrainState) -> TrainState:
    """The newest checkpoint if it is ahead of a state, which is then freed."""
    if checkpointer.latest is None or checkpointer.latest <= int(state.step):
        return state
    return checkpointer.restore(state, donate=True)[0]
