"""Records of training loops: metrics in the log, progress for people, checks of losses."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import numpy as np

from clipjax.errors import NonFiniteError
from clipjax.log import MetricsLog
from clipjax.log.bars import Bar
from clipjax.train.checkpoint import Checkpointer

PyTree = Any
LINE = 72  # characters of metrics that are printed; metrics.jsonl has all


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The destinations of a loop's results, and its callbacks."""

    checkpointer: Checkpointer
    log: MetricsLog
    # Parameters -> measures, logged beside the metrics.
    evaluate: Callable[[PyTree], dict[str, Any]] | None = None
    # (Position of the method, updates made) -> more for a record: learning rates, the epoch.
    describe: Callable[[int, int], dict[str, Any]] = lambda position, updates: {}
    # Steps made -> whether to save and leave (`clipjax.train.preemption.Notice.reached`).
    stop: Callable[[int], bool] = lambda step: False
    # Steps made, as of a checkpoint -> whether validations say that the phase ends here.
    enough: Callable[[int], bool] = lambda step: False
    say: Callable[[str], None] = lambda line: None  # prints a line


def check_finite(
    metrics: dict[str, np.ndarray], *, first_step: int, phase: str, last_good: int | None
) -> None:
    """Raise NonFiniteError naming step, phase, lambda and checkpoint of the first bad loss.

    `metrics` are float [..., T] over seeds and steps from `first_step` on: loss, grad_norm (bad a
    step before the loss), maybe lam and source_accuracy (NaN only where a label is no class).
    """
    watched = metrics["loss"] + 0.0 * metrics["grad_norm"]  # inf * 0 is NaN
    bad = ~np.isfinite(watched.reshape(-1, watched.shape[-1])).all(axis=0)
    if not bad.any():
        return
    where = int(np.argmax(bad))
    step = f"step {first_step + where} of phase {phase!r}"
    if np.isnan(metrics.get("source_accuracy", np.zeros(len(bad)))[..., where]).any():
        raise NonFiniteError(
            f"the loss became NaN at {step} because a label of the source is no class: labels "
            "outside 0 to K-1, where there are K; number them from 0, and set the mask to False "
            "where there is no label."
        )
    lam = metrics.get("lam")
    strength = "" if lam is None else f", lambda {lam[..., where].ravel()[0]:.3g}"
    saved = "none was saved yet" if last_good is None else f"step {last_good}"
    raise NonFiniteError(
        f"the loss or its gradient became non-finite at {step}{strength}; last good checkpoint: "
        f"{saved}. Lower optim.lr (or methods.*.lam_max), or set optim.clip_norm."
    )


class _Journal:
    """A journal closes its bar when a `with` is left."""

    bar: Bar

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()


class EpochJournal(_Journal):
    """Records of a loop over whole epochs of stacked runs, all of one method, then of the next."""

    def __init__(
        self, out: Outputs, names: tuple[str, ...], runs: int, per_epoch: int, epochs: range
    ):
        """Drop records of `epochs` from the log: these are trained now."""
        what = f"train {' '.join(names)}" if len(names) < 4 else f"train {len(names)} settings"
        self.bar = Bar(epochs.stop, what, "epoch", done=epochs.start, say=out.say)
        self.out, self.names, self.runs, self.per_epoch = out, names, runs, per_epoch
        other = lambda record: record.get("phase") not in names
        out.log.rewind(lambda record: other(record) or record["epoch"] <= epochs.start)

    def write_epochs(self, metrics: dict, first: int, started: float) -> None:
        """Log metrics [runs, epochs, steps] of a call from epoch `first`, begun at `started`."""
        metrics = {key: np.asarray(value)[: self.runs] for key, value in metrics.items()}
        for name, own in self._by_method(metrics):
            flat = {key: value.reshape(len(value), -1) for key, value in own.items()}
            step, last_good = first * self.per_epoch, self.out.checkpointer.latest
            check_finite(flat, first_step=step, phase=name, last_good=last_good)
        count = metrics["loss"].shape[1]
        seconds = {"s_per_epoch": round((time.perf_counter() - started) / count, 4)}
        self.bar.note = f"loss {metrics['loss'][:, -1].mean():.3g}"
        self.bar.update(count)
        for position, (name, own) in enumerate(self._by_method(metrics)):
            for done in range(first + 1, first + count + 1):
                epoch = {key: value[:, done - first - 1] for key, value in own.items()}
                means = {k: v.mean(axis=-1).round(6).tolist() for k, v in epoch.items()}
                more = self.out.describe(position, done * self.per_epoch)
                self.out.log.append(self._place(name, done) | means | seconds | more)

    def write_scores(self, done: int, found: dict[str, list]) -> dict[str, dict[str, list]]:
        """Log measures method by method; return the scores for a checkpoint."""
        for name, own in self._by_method(found):
            self.out.log.append(self._place(name, done) | {"evaluation": own})
        return {"evaluation": found}

    def _by_method(self, values: dict) -> Iterator[tuple[str, dict]]:
        seeds = self.runs // len(self.names)
        for first, name in zip(range(0, self.runs, seeds), self.names, strict=True):
            yield name, {key: value[first : first + seeds] for key, value in values.items()}

    def _place(self, name: str, epoch: int) -> dict[str, Any]:
        return {"phase": name, "epoch": epoch, "step": epoch * self.per_epoch}


class StepJournal(_Journal):
    """Records of a loop over single steps of one run."""

    def __init__(self, out: Outputs, tags: dict[str, Any], first: int, total_steps: int):
        """Drop this run's records of steps after `first` from the log: these are trained again.

        `tags` (the phase, the seed) tell this run's records from others.
        """
        self.out, self.tags, self.total_steps = out, tags, total_steps
        self.started, self.begun = time.perf_counter(), first
        more = "".join(f", {key} {value}" for key, value in tags.items() if key != "phase")
        what = f"train {tags['phase']}{more}"
        self.bar = Bar(total_steps, what, "step", done=first, say=out.say)
        self.pending: list[dict] = []  # metrics since the last record, maybe still computed
        mine = lambda record: all(record.get(k) == v for k, v in tags.items())
        out.log.rewind(lambda record: not mine(record) or record["step"] <= first)

    def count(self, metrics: dict) -> None:
        """Take the metrics of a step, which may still be computed."""
        self.pending.append(metrics)
        self.bar.update()

    def means(self, done: int) -> dict[str, float]:
        """Means of the pending metrics; NonFiniteError if one of their losses is not finite."""
        if not self.pending:
            return {}
        pending = jax.device_get(self.pending)
        stacked = {key: np.array([float(m[key]) for m in pending]) for key in pending[0]}
        step, last_good = done - len(pending), self.out.checkpointer.latest
        check_finite(stacked, first_step=step, phase=self.tags["phase"], last_good=last_good)
        return {key: round(float(values.mean()), 6) for key, values in stacked.items()}

    def write_means(self, done: int) -> None:
        """Log the means of the pending metrics; print those of the last step."""
        values, self.pending = self.means(done), []
        self.bar.note = f"loss {values['loss']:.3g}" if "loss" in values else ""
        rate = (done - self.begun) / (time.perf_counter() - self.started)
        record = {"steps_per_s": round(rate, 3), **values}
        self._write(done, record, f"{_line(values)} ({rate:.2f} steps/s)")

    def write_scores(self, done: int, scores: dict[str, Any]) -> dict[str, Any]:
        """Log measures, print those of the last step; return them."""
        self._write(done, scores, _line(scores))
        return scores

    def _write(self, done: int, record: dict[str, Any], line: str) -> None:
        self.out.log.append(self.tags | {"step": done, **self.out.describe(0, done), **record})
        if done == self.total_steps:
            self.out.say(f"{self.tags['phase']} step {done}/{self.total_steps}: {line}")


def _line(values: dict[str, Any]) -> str:
    """Name the first numbers, as many as a line has room for."""
    numbers = {k: v for k, v in values.items() if isinstance(v, float) and not math.isnan(v)}
    said = ""
    for each in (f"{k} {v:.4g}" for k, v in numbers.items()):
        if len(said) + len(each) > LINE:
            return f"{said}, ..."
        said += f", {each}" if said else each
    return said
