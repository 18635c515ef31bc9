"""The loops that drive a step: over a stream of batches, or over cached arrays (whole epochs)."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.adapt.step import TrainState
from clipjax.errors import NonFiniteError
from clipjax.log import MetricsLog, progress
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import batch_mesh
from clipjax.train.preemption import leave, never
from clipjax.train.trace import Trace, traced

PyTree = Any
# Steps that may wait for the device. CPU devices that meet in a sum share one pool of threads, and
# with many steps under way all of its threads can end up waiting for each other.
IN_FLIGHT = 8
SAVE_SECONDS = 600.0  # at most this much of a long epoch is lost to a kill
AGREE_EVERY = 64  # steps after which several processes ask each other whether so much has passed


def check_finite(
    losses, *, first_step: int, phase: str, lam, last_good: int | None, accuracy=None
) -> None:
    """Raises NonFiniteError naming step, phase, lambda and checkpoint of the first bad loss.

    Args:
      losses: float [..., T], one per step; leading axes are seeds.
      first_step: the step of losses[..., 0].
      phase: its name.
      lam: float [..., T] or None where the method has no lambda.
      last_good: step of the newest checkpoint, or None.
      accuracy: float [..., T] or None, the source's; NaN where a label is no class, and never
        because of the loss (`clipjax.adapt.losses.label_accuracy`).
    """
    losses = np.asarray(losses)
    bad = ~np.isfinite(losses.reshape(-1, losses.shape[-1])).all(axis=0)
    if not bad.any():
        return
    where = int(np.argmax(bad))
    strength = "" if lam is None else f", lambda {np.asarray(lam)[..., where].ravel()[0]:.3g}"
    saved = "none was saved yet" if last_good is None else f"step {last_good}"
    if accuracy is not None and np.isnan(np.asarray(accuracy)[..., where]).any():
        raise NonFiniteError(
            f"the loss became NaN at step {first_step + where} of phase {phase!r} because a label "
            "of the source is no class: labels outside 0 to K-1, where there are K; number them "
            "from 0, and set the mask to False where there is no label."
        )
    raise NonFiniteError(
        f"the loss or its gradient became non-finite at step {first_step + where} of phase "
        f"{phase!r}{strength}; "
        f"last good checkpoint: {saved}. Lower optim.lr (or methods.*.lam_max), or set "
        "optim.clip_norm."
    )


def fit_stream(
    step: Callable[[TrainState, PyTree], tuple[TrainState, dict]],
    state: TrainState,
    open_batches: Callable[[int], Iterator[PyTree]],
    total_steps: int,
    *,
    phase: str,
    checkpointer: Checkpointer,
    log: MetricsLog,
    log_every: int = 50,
    save_every: int = 500,
    evaluate: Callable[[PyTree], dict[str, Any]] | None = None,
    evaluate_every: int = 0,
    say: Callable[[str], None] = print,
    tags: dict[str, Any] | None = None,
    describe: Callable[[int], dict[str, Any]] = lambda step: {},
    mesh: Mesh | None = None,
    parallel: str = "jit",
    trace: Trace | None = None,
    stop: Callable[[int], bool] = never,
) -> TrainState:
    """Trains on batches from a stream, resuming from the newest checkpoint.

    The next batch is brought to the devices while a step runs; nothing else goes there from the
    host, and nothing comes back but at records. No more than `IN_FLIGHT` steps are under way.

    Args:
      step: pure train step; compiled here, its state donated. The same function object is traced
        once, however many seeds are trained with it. For `parallel="pmap"`: of axis `DATA`.
      state: where to start when nothing was saved; its buffers are donated.
      open_batches: first step -> iterator of the batches from there on.
      total_steps: where to stop.
      phase: name in the log.
      checkpointer: where states go.
      log: gets the means of all metrics since the record before.
      log_every: steps between metric records; every loss is checked to be finite then.
      save_every: steps between checkpoints; there is one every ten minutes besides.
      evaluate: params -> measures, run every `evaluate_every` steps.
      evaluate_every: 0 for never.
      say: prints a line.
      tags: more that tells these records from others (the seed).
      describe: updates made -> what else goes into a record (epoch, learning rates).
      mesh: devices that share each batch (`clipjax.train.distributed.sharding`); one by default.
      parallel: how they share it, "jit" or "pmap" (`clipjax.train.distributed.program`).
      trace: steps to profile.
      stop: steps behind -> whether to save and leave (`clipjax.train.preemption.Notice.reached`).

    Returns:
      The state after `total_steps`.

    Raises:
      NonFiniteError: a loss became NaN or infinite; nothing after it is saved.
      Preempted: `stop` said so; the state is saved.
    """
    tags, mesh = {"phase": phase, **(tags or {})}, mesh or batch_mesh(1)
    program = make_program(step, state, mesh, parallel)
    state = _newest(checkpointer, program.place_state(state))
    first, saved = int(state.step), time.perf_counter()
    run = traced(program.run, trace, first, total_steps) if trace else program.run
    batches = open_batches(first) if first < total_steps else iter(())
    following = lambda n: program.place_batch(next(batches)) if n < total_steps else None  # noqa: E731
    driven = _driven(run, state, following(first), following, range(first, total_steps), phase)
    journal = _Journal(log, say, tags, describe, checkpointer, first, total_steps)
    for done, state, metrics in driven:
        journal.add(metrics)
        saving, scores = done % save_every == 0 or done == total_steps, None
        if done % log_every == 0 or saving:  # no state is saved whose losses were not looked at
            journal.write_means(done)
        if evaluate and evaluate_every and (done % evaluate_every == 0 or done == total_steps):
            scores = journal.write_scores(done, evaluate(state.params))
        stopping = stop(done)
        late = stopping or _is_late(time.perf_counter() - saved, done)
        if saving or late:
            journal.means(done)  # looked at where no record is due, too
            checkpointer.save(done, state, scores=scores)
            saved = time.perf_counter()
        if stopping:
            leave(checkpointer, phase, done)
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


class _Journal:
    """What goes into the log and onto the console: means of metrics, looked at first; measures."""

    def __init__(self, log, say, tags, describe, checkpointer, first: int, total_steps: int):
        """Forgets what the log says of steps after `first`: they are trained again."""
        self.log, self.say, self.tags, self.describe = log, say, tags, describe
        self.checkpointer, self.total_steps = checkpointer, total_steps
        self.started, self.begun = time.perf_counter(), first
        self.pending: list[dict] = []  # metrics since the record before
        mine = lambda record: all(record.get(k) == v for k, v in tags.items())  # noqa: E731
        log.rewind(lambda record: not mine(record) or record["step"] <= first)

    def add(self, metrics: dict) -> None:
        """Takes a step's metrics, which may still be computed."""
        self.pending.append(metrics)

    def means(self, done: int) -> dict[str, float]:
        """Means of the pending metrics.

        Raises:
          NonFiniteError: one of their losses is not finite.
        """
        if not self.pending:
            return {}
        first, phase = done - len(self.pending), self.tags["phase"]
        return _means(self.pending, first, phase, self.checkpointer.latest)

    def write_means(self, done: int) -> None:
        """A record of the pending metrics."""
        values, self.pending = self.means(done), []
        rate = (done - self.begun) / (time.perf_counter() - self.started)
        record = {"steps_per_s": round(rate, 3), **values}
        self._write(done, record, f"{_line(values)} ({rate:.2f} steps/s)")

    def write_scores(self, done: int, scores: dict[str, Any]) -> dict[str, Any]:
        """A record of measures, which are returned."""
        self._write(done, scores, _line(scores))
        return scores

    def _write(self, done: int, record: dict[str, Any], line: str) -> None:
        self.log.append(self.tags | {"step": done, **self.describe(done), **record})
        self.say(f"{self.tags['phase']} step {done}/{self.total_steps}: {line}")


def _is_late(seconds: float, done: int) -> bool:
    """Whether the last checkpoint is too old, to all processes: each has a clock of its own."""
    late = seconds > SAVE_SECONDS
    if not processes.several():
        return late
    return done % AGREE_EVERY == 0 and processes.any_of(late)


def _newest(checkpointer: Checkpointer, state: TrainState) -> TrainState:
    """What was saved, if it is ahead of a state, whose buffers are then freed."""
    if checkpointer.latest is None or checkpointer.latest <= int(state.step):
        return state
    return checkpointer.restore(state, donate=True)[0]


def _means(pending: list[dict], first: int, phase: str, last_good: int | None) -> dict[str, float]:
    """Means of the metrics of some steps, their losses checked."""
    pending = jax.device_get(pending)
    stacked = {key: np.array([float(m[key]) for m in pending]) for key in pending[0]}
    lam = stacked.get("lam")
    # A gradient that is not finite spoils the parameters before any loss shows it.
    watched = stacked["loss"] + 0.0 * stacked["grad_norm"]
    where = {"first_step": first, "phase": phase, "last_good": last_good}
    check_finite(watched, lam=lam, accuracy=stacked.get("source_accuracy"), **where)
    return {key: round(float(values.mean()), 6) for key, values in stacked.items()}


def _line(values: dict[str, Any]) -> str:
    numbers = {k: v for k, v in values.items() if isinstance(v, float) and not math.isnan(v)}
    return ", ".join(f"{k} {v:.4g}" for k, v in numbers.items())
