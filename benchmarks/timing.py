"""How the benchmarks that compare with PyTorch in one process take time."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Pairs(NamedTuple):
    """Times of two calls in alternation."""

    seconds: tuple[float, float]  # medians
    ratio: float  # median of the paired ratios, above 1 where the first call is faster
    least: float
    most: float


def seconds(call: Callable) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def median(call: Callable, rounds: int) -> float:
    """Median wall time of a call, after two that compile and warm up."""
    for _ in range(2):
        call()
    return statistics.median(seconds(call) for _ in range(rounds))


def synchronised(call: Callable, device: str) -> Callable:
    """A call of PyTorch's that waits until the device is done, as JAX's `block_until_ready`."""
    import torch

    def waiting():
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return waiting


def best(calls: Sequence[Callable]) -> tuple[Callable, int]:
    """The fastest of PyTorch's calls, and the thread count that it is fastest with."""
    import torch

    def cost(pair):
        call, count = pair
        torch.set_num_threads(count)
        call()
        return min(seconds(call) for _ in range(2))

    counts = sorted({1, os.cpu_count() // 2 or 1, os.cpu_count()})
    return min(((call, count) for call in calls for count in counts), key=cost)


def alternate(ours: Callable, theirs: Callable, rounds: int) -> Pairs:
    """Times two calls in turn, after as many calls as the heap that both share needs to grow."""
    for call in (ours, theirs) * 2:
        call()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    medians = tuple(statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    return Pairs(medians, statistics.median(ratios), ratios[0], ratios[-1])
