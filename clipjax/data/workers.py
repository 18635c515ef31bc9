"""Loads numbered items ahead of their use, in threads or in processes, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def load_ahead(
    load: Callable[[int], T], first: int, last: int, *, workers: int = 0, threads: int = 2
) -> Iterator[T]:
    """Yields load(first) ... load(last - 1), some prepared ahead.

    Args:
      load: a pure function of the number; picklable where there are worker processes.
      first: number of the first item.
      last: one past the last.
      workers: processes that load; 0 loads in threads of this process.
      threads: per process.
    """
    import grain

    dataset = grain.MapDataset.range(first, last).map(lambda number: load(int(number)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))
