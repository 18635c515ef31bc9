"""Batches of pixels for training: pairs of source and target, resumable at any step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from clipjax.data.loading.image_cache import Crops, PairLoader, needed_workers
from clipjax.data.loading.sampler import ONE_PASS, Sampler, epoch_key, process_rows
from clipjax.data.loading.workers import load_ahead


@dataclasses.dataclass(frozen=True)
class Batching:
    """Which examples make up each batch.

    Attributes:
      seed: shuffles.
      batch_size: images per domain and step, over all processes.
      sampler: length of an epoch, and which examples a batch has.
      process: (p, n): the p-th of n parts of every batch. The parts of all n make up the batch.
    """

    seed: int
    batch_size: int
    sampler: Sampler = ONE_PASS
    process: tuple[int, int] = (0, 1)


def paired_batches(
    source: Crops,
    target: Crops | None,
    batching: Batching,
    *,
    first: int,
    last: int,
    workers: int = 0,
    threads: int | None = None,
) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """The batches of steps first .. last - 1, in the order that cached features are trained in.

    A batch is a function of (seed, step), so the step in a checkpoint is this iterator's state:
    a resumed run goes on with the same bytes, with whatever workers and threads.

    Args:
      source: labelled images.
      target: unlabelled images; None where the loss needs none. Then the sampler's epoch cannot be
        "target": give the number of steps.
      batching: which examples make up each batch.
      first: step of the first batch.
      last: one past the last step.
      workers: processes that decode what does not fit in memory; 0 decodes in threads of this one.
      threads: that decode some batches ahead, per process; see `load_ahead`.

    Returns:
      Iterator of {"source": {"inputs" uint8 [b, S, S, 3], "label" int32 [b], "mask" bool [b]},
      "target": {"inputs"}}, where b = batch_size / n; of episodes also "support", as "source".

    Raises:
      ConfigError: a batch that cannot be shared evenly, or an epoch of unknown length.
      DataError: an image became unreadable (the message names it), or a worker died.
    """
    targets = len(target) if target is not None else 0
    process_rows(batching.batch_size, batching.process)  # refuses one that cannot be shared
    per_epoch = batching.sampler.steps(len(source), targets, batching.batch_size)
    plan_of = _epoch_plans(batching, source.labels, targets)

    def prepare(step: int) -> dict[str, np.ndarray]:
        epoch, position = divmod(step, per_epoch)
        rows = {key: value[position] for key, value in plan_of(epoch).items()}
        return {
            key: value[process_rows(len(value), batching.process)] for key, value in rows.items()
        }

    return load_ahead(
        PairLoader(source, target),
        first,
        last,
        workers=needed_workers(workers, source, target),
        threads=threads,
        prepare=prepare,
    )


def _epoch_plans(
    batching: Batching, labels: np.ndarray, num_target: int
) -> Callable[[int], dict[str, np.ndarray]]:
    """epoch -> its plan as numpy arrays; the last few are remembered."""

    sampler, size = batching.sampler, batching.batch_size

    @jax.jit
    def make(key, labels):
        return sampler.plan(key, len(labels), num_target, size, labels)

    @functools.lru_cache(maxsize=4)
    def plan_of(epoch: int) -> dict[str, np.ndarray]:
        return jax.tree.map(np.asarray, make(epoch_key(np.uint32(batching.seed), epoch), labels))

    return plan_of
