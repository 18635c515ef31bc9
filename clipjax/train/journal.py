"""What loops say of their steps: losses looked at, records in the log, progress for people."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from clipjax.errors import NonFiniteError
from clipjax.log import MetricsLog, progress
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.preemption import never

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The destinations of a loop's results, and its callbacks.

    Attributes:
      checkpointer: takes states.
      log: takes records.
      evaluate: parameters -> measures, logged beside the metrics.
      describe: (position of the method, updates made) -> what else belongs in a record: learning
        rates, the epoch.
      stop: steps behind -> whether to save and leave (`clipjax.train.preemption.Notice.reached`).
      say: prints a line.
    """

    checkpointer: Checkpointer
    log: MetricsLog
    evaluate: Callable[[PyTree], dict[str, Any]] | None = None
    describe: Callable[[int, int], dict[str, Any]] = lambda position, updates: {}
    stop: Callable[[int], bool] = never
    say: Callable[[str], None] = lambda line: None


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs as they are stacked: all seeds of the first method, then of the next."""

    names: tuple[str, ...]  # of the methods
    count: int

    @property
    def seeds(self) -> int:
        """Runs (seeds) of each method."""
        return self.count // len(self.names)

    @property
    def method_of(self) -> np.ndarray:
        """Each run's position in `names`, int [count]."""
        return np.repeat(np.arange(len(self.names)), self.seeds)

    def by_method(self, values: dict) -> list[tuple[str, dict]]:
        """Each method's name with its own runs of values that are stacked over all runs."""
        shares = [slice(i * self.seeds, (i + 1) * self.seeds) for i in range(len(self.names))]
        own = [{key: value[share] for key, value in values.items()} for share in shares]
        return list(zip(self.names, own, strict=True))


def check_finite(
    metrics: dict[str, np.ndarray], *, first_step: int, phase: str, last_good: int | None
) -> None:
    """Raises NonFiniteError naming step, phase, lambda and checkpoint of the first bad loss.

    Args:
      metrics: float [..., T] each, one per step, leading axes are seeds: loss, grad_norm (a bad
        gradient spoils the parameters before any loss shows it), maybe lam and source_accuracy
        (NaN where a label is no class, and never because of the loss).
      first_step: the step of metrics[..., 0].
      phase: its name.
      last_good: step of the newest checkpoint, or None.
    """
    watched = metrics["loss"] + 0.0 * metrics["grad_norm"]  # inf * 0 is NaN
    bad = ~np.isfinite(watched.reshape(-1, watched.shape[-1])).all(axis=0)
    if not bad.any():
        return
    where = int(np.argmax(bad))
    if np.isnan(metrics.get("source_accuracy", np.zeros(len(bad)))[..., where]).any():
        raise NonFiniteError(
            f"the loss became NaN at step {first_step + where} of phase {phase!r} because a label "
            "of the source is no class: labels outside 0 to K-1, where there are K; number them "
            "from 0, and set the mask to False where there is no label."
        )
    lam = metrics.get("lam")
    strength = "" if lam is None else f", lambda {lam[..., where].ravel()[0]:.3g}"
    saved = "none was saved yet" if last_good is None else f"step {last_good}"
    raise NonFiniteError(
        f"the loss or its gradient became non-finite at step {first_step + where} of phase "
        f"{phase!r}{strength}; "
        f"last good checkpoint: {saved}. Lower optim.lr (or methods.*.lam_max), or set "
        "optim.clip_norm."
    )


class EpochJournal:
    """Records of a loop over whole epochs of many runs."""

    def __init__(self, out: Outputs, runs: Runs, per_epoch: int, begun: int, epochs: int):
        """Forgets what the log says of epochs after `begun`: they are trained again."""
        self.bar = progress(total=epochs, what=" ".join(runs.names), unit="epoch")
        self.bar.update(begun)
        self.out, self.runs, self.per_epoch = out, runs, per_epoch
        out.log.rewind(
            lambda record: record.get("phase") not in runs.names or record["epoch"] <= begun
        )

    def write_epochs(self, metrics: dict, first: int, started: float) -> None:
        """Log metrics [runs, epochs, steps] of a call from epoch `first`, begun at `started`."""
        metrics = {key: np.asarray(value)[: self.runs.count] for key, value in metrics.items()}
        for name, own in self.runs.by_method(metrics):
            flat = {key: value.reshape(len(value), -1) for key, value in own.items()}
            check_finite(
                flat,
                first_step=first * self.per_epoch,
                phase=name,
                last_good=self.out.checkpointer.latest,
            )
        count = metrics["loss"].shape[1]
        seconds = {"s_per_epoch": round((time.perf_counter() - started) / count, 4)}
        self.bar.update(count)
        for position, (name, own) in enumerate(self.runs.by_method(metrics)):
            for done in range(first + 1, first + count + 1):
                more = self.out.describe(position, done * self.per_epoch)
                means = _epoch_means(own, done - first - 1)
                self.out.log.append(self._place(name, done) | means | seconds | more)

    def write_scores(self, done: int, found: dict[str, list]) -> dict[str, dict[str, list]]:
        """Logs measures method by method; returns them as a checkpoint keeps them."""
        for name, own in self.runs.by_method(found):
            self.out.log.append(self._place(name, done) | {"evaluation": own})
        return {"evaluation": found}

    def close(self) -> None:
        """End the progress bar."""
        self.bar.close()

    def _place(self, name: str, epoch: int) -> dict[str, Any]:
        return {"phase": name, "epoch": epoch, "step": epoch * self.per_epoch}


def _epoch_means(metrics: dict[str, np.ndarray], epoch: int) -> dict[str, list[float]]:
    """Means over the steps of one of the epochs, a list over runs; of [runs, epochs, steps]."""
    return {key: v[:, epoch].mean(axis=-1).round(6).tolist() for key, v in metrics.items()}


class StepJournal:
    """Records of a loop over single steps of one run."""

    def __init__(self, out: Outputs, tags: dict[str, Any], first: int, total_steps: int):
        """Forgets what the log says of steps after `first`: they are trained again.

        `tags` tell these records from others': the phase, the seed.
        """
        self.out, self.tags, self.total_steps = out, tags, total_steps
        self.started, self.begun = time.perf_counter(), first
        self.pending: list[dict] = []  # metrics since the record before
        mine = lambda record: all(record.get(k) == v for k, v in tags.items())
        out.log.rewind(lambda record: not mine(record) or record["step"] <= first)

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
        pending = jax.device_get(self.pending)
        stacked = {key: np.array([float(m[key]) for m in pending]) for key in pending[0]}
        check_finite(
            stacked,
            first_step=done - len(pending),
            phase=self.tags["phase"],
            last_good=self.out.checkpointer.latest,
        )
        return {key: round(float(values.mean()), 6) for key, values in stacked.items()}

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
        self.out.log.append(self.tags | {"step": done, **self.out.describe(0, done), **record})
        self.out.say(f"{self.tags['phase']} step {done}/{self.total_steps}: {line}")


def _line(values: dict[str, Any]) -> str:
    numbers = {k: v for k, v in values.items() if isinstance(v, float) and not math.isnan(v)}
    return ", ".join(f"{k} {v:.4g}" for k, v in numbers.items())
