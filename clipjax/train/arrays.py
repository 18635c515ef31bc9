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
from clipjax.data.loading.sampler import ONE_PASS, Sampling, steps_per_epoch
from clipjax.log import MetricsLog, progress
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.epochs import Chosen, Data, domain_sizes, make_epochs, on_device
from clipjax.train.preemption import leave, never
from clipjax.train.stream import check_finite

# Examples, of all runs together, that one compiled call may go through in several epochs: some 10 s
# on two cores. Nothing is shown meanwhile, and Ctrl-C waits.
EXAMPLES_A_CALL = 200_000

PyTree = Any


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
      data: features (of 16 or 32 bits) and labels, the same for all runs; maybe mapped files.
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
    runs = _Runs((phase,) if isinstance(phase, str) else tuple(phase), len(states.step))
    step_of = (lambda row: step) if isinstance(phase, str) else step
    run = _program(step_of, batch_size, sampling, mesh, rows)
    per_epoch = steps_per_epoch(*_sizes(data, rows), batch_size, sampling.epoch)
    data = jax.tree.map(lambda x: on_device(x, mesh), data)  # once, not at every call
    origin = int(np.asarray(states.step)[0]) // per_epoch
    states = _newest(checkpointer, states)
    method_of, padded = _spread((runs.method_of, states), mesh)
    begun = int(np.asarray(states.step)[0]) // per_epoch
    journal = _Journal(log, runs, per_epoch, begun, epochs, rates)
    examples = per_epoch * batch_size * runs.count
    for first, count in _calls(begun, epochs, save_every, examples, origin):
        started = time.perf_counter()
        padded, metrics = run(method_of, padded, data, np.int32(first), count)
        journal.write_epochs(metrics, first, started, checkpointer.latest)
        done = first + count
        stopping = any([stop(n + 1) for n in range(first * per_epoch, done * per_epoch)])
        due, scores = (done - origin) % save_every == 0 or done == epochs, None
        if due or stopping:
            states = _gathered(padded, runs.count, mesh)
            if due and evaluate:
                scores = journal.write_scores(done, evaluate(states.params))
            checkpointer.save(done * per_epoch, states, scores=scores)
        if stopping:
            leave(checkpointer, " and ".join(runs.names), done * per_epoch)
    journal.close()
    return states


def _sizes(data: Data, rows: Mapping[str, np.ndarray] | None) -> tuple[int, int]:
    """Examples of source and target that a method trains on."""
    return (rows["source"].shape[1], rows["target"].shape[1]) if rows else domain_sizes(data)


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Runs as they are stacked: all seeds of the first method, then of the next."""

    names: tuple[str, ...]  # of the methods
    count: int

    @property
    def seeds(self) -> int:
        return self.count // len(self.names)

    @property
    def method_of(self) -> np.ndarray:
        """Each run's position in `names`."""
        return np.repeat(np.arange(len(self.names)), self.seeds)

    def apart(self, values: dict) -> list[tuple[str, dict]]:
        """Each method's name with its own runs of values that are stacked over all runs."""
        shares = [slice(i * self.seeds, (i + 1) * self.seeds) for i in range(len(self.names))]
        own = [{key: value[share] for key, value in values.items()} for share in shares]
        return list(zip(self.names, own, strict=True))


class _Journal:
    """What is said of epochs: their metrics, looked at first, and measures in the log; a bar."""

    def __init__(
        self,
        log: MetricsLog,
        runs: _Runs,
        per_epoch: int,
        begun: int,
        epochs: int,
        rates: Callable[[int, int], dict[str, float]] | None,
    ):
        """Forgets what the log says of epochs after `begun`: they are trained again."""
        self.bar = progress(total=epochs, what=" ".join(runs.names), unit="epoch")
        self.bar.update(begun)
        self.log, self.runs, self.per_epoch = log, runs, per_epoch
        self.rates = rates or (lambda position, updates: {})
        log.rewind(lambda record: record.get("phase") not in runs.names or record["epoch"] <= begun)

    def write_epochs(
        self, metrics: dict, first: int, started: float, last_good: int | None
    ) -> None:
        """Of one call that went on from `first` and began at `started`; [runs, epochs, steps]."""
        metrics = {key: np.asarray(value)[: self.runs.count] for key, value in metrics.items()}
        _check(self.runs.apart(metrics), first * self.per_epoch, last_good)
        count = metrics["loss"].shape[1]
        seconds = {"s_per_epoch": round((time.perf_counter() - started) / count, 4)}
        self.bar.update(count)
        for position, (name, own) in enumerate(self.runs.apart(metrics)):
            for done in range(first + 1, first + count + 1):
                rates = self.rates(position, done * self.per_epoch - 1)
                means = _means(own, done - first - 1)
                self.log.append(self._place(name, done) | means | seconds | rates)

    def write_scores(self, done: int, found: dict[str, list]) -> dict[str, dict[str, list]]:
        """Logs measures method by method; returns them as a checkpoint keeps them."""
        for name, own in self.runs.apart(found):
            self.log.append(self._place(name, done) | {"evaluation": own})
        return {"evaluation": found}

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()

    def _place(self, name: str, epoch: int) -> dict[str, Any]:
        return {"phase": name, "epoch": epoch, "step": epoch * self.per_epoch}


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
                part: {key: Chosen(x, own[part]) for key, x in arrays.items()}
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


def _means(metrics: dict[str, np.ndarray], epoch: int) -> dict[str, list[float]]:
    """Means over the steps of one of the epochs, a list over runs; of [runs, epochs, steps]."""
    return {key: v[:, epoch].mean(axis=-1).round(6).tolist() for key, v in metrics.items()}


def _check(parts: list[tuple[str, dict]], first_step: int, last_good: int | None) -> None:
    """Looks for losses that are not finite, method by method; metrics are [runs, epochs, steps]."""
    for name, own in parts:
        flat = {key: value.reshape(len(value), -1) for key, value in own.items()}
        check_finite(
            flat["loss"] + 0.0 * flat["grad_norm"],  # inf * 0 is NaN
            first_step=first_step,
            phase=name,
            lam=flat.get("lam"),
            last_good=last_good,
            accuracy=flat.get("source_accuracy"),
        )
