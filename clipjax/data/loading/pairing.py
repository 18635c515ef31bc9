"""Batches of pixels for training: pairs of source and target, resumable at any step."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from clipjax.data.loading.image_cache import Crops, needed_workers
from clipjax.data.loading.sampler import ONE_PASS, Sampler, epoch_key, process_rows
from clipjax.data.loading.workers import load_ahead


@dataclasses.dataclass(frozen=True)
class Batching:
    """Which examples make up each batch."""

    seed: int  # of the shuffling
    batch_size: int  # images per domain and step, over all processes
    sampler: Sampler = ONE_PASS
    process: tuple[int, int] = (0, 1)  # (p, n): load the p-th of n equal parts of every batch


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
    """Yield the batches of steps first .. last - 1, in the same order as cached features.

    A batch is a function of (seed, step), so a resumed run continues with the same bytes, for any
    number of `workers` and `threads` (`load_ahead`), which decode what is not kept in memory.

    Returns:
      Iterator of {"source": {"inputs" uint8 [b, S, S, 3], "label" int32 [b], "mask" bool [b]},
      "target": {"inputs"}}, where b = batch_size / n; of episodes also "support", as "source".

    ConfigError for a batch that cannot be shared evenly; DataError if an image became unreadable.
    """
    sampler, size = batching.sampler, batching.batch_size
    targets = len(target) if target is not None else 0
    process_rows(size, batching.process)  # raises if it cannot be shared
    per_epoch = sampler.steps(len(source), targets, size)

    @jax.jit
    def make(key, labels):
        return sampler.plan(key, len(labels), targets, size, labels)

    @functools.lru_cache(maxsize=4)
    def plan_of(epoch: int) -> dict[str, np.ndarray]:
        key = epoch_key(np.uint32(batching.seed), epoch)
        return jax.tree.map(np.asarray, make(key, source.labels))

    def prepare(step: int) -> dict[str, np.ndarray]:
        epoch, position = divmod(step, per_epoch)
        rows = {key: value[position] for key, value in plan_of(epoch).items()}
        return {key: row[process_rows(len(row), batching.process)] for key, row in rows.items()}

    def load(plan: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        batch = {"source": source.part(plan["source"], labelled=True) | {"mask": plan["mask"]}}
        if "support" in plan:
            batch["support"] = source.part(plan["support"], labelled=True)
        if target is not None:
            batch["target"] = target.part(plan["target"], labelled=False)
        return batch

    workers = needed_workers(workers, source, target)
    return load_ahead(load, first, last, workers=workers, threads=threads, prepare=prepare)
