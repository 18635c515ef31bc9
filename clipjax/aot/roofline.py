"""What a chip could do at best, and the step time that follows: an estimate, nothing is run.

The roofline model (Williams et al. 2009, "Roofline: an insightful visual performance model"): no
step is shorter than its FLOPs at the peak rate, or its bytes at the memory's.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


class Chip(NamedTuple):
    """Peak rates of one chip."""

    flops: float  # bfloat16 FLOP/s
    hbm_rate: float  # bytes/s
    hbm: float  # bytes
    ici_rate: float  # bytes/s that a chip sends, over all of its links together


# Google's "Cloud TPU documentation", tables of key specifications on the pages "TPU v4", "TPU v5e",
# "TPU v5p" and "TPU v6e". Interconnect is one direction, half of what is given as bidirectional:
# v4 2400, v5e 1600, v5p 4800 Gbit/s; v6e 800 GB/s both ways. Its GB of memory are 2^30 bytes.
CHIPS = {
    "v4": Chip(275e12, 1200e9, 32 * 2**30, 300e9),
    "v5e": Chip(197e12, 819e9, 16 * 2**30, 200e9),
    "v5p": Chip(459e12, 2765e9, 95 * 2**30, 600e9),
    "v6e": Chip(918e12, 1638e9, 32 * 2**30, 400e9),
}

ASSUMED = (
    "every FLOP at the chip's bfloat16 peak, every byte at its full memory bandwidth, and after "
    "them, not meanwhile, the collectives as rings over all of the chip's links"
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step at the peak rates.

    >>> time = Estimate(compute=0.75, memory=0.5, network=0.25)
    >>> time.step, time.efficiency, time.bound
    (1.0, 0.75, 'compute')
    """

    compute: float
    memory: float
    network: float

    @property
    def alone(self) -> float:
        """Seconds of a step without collectives: the same work on one chip."""
        return max(self.compute, self.memory)

    @property
    def step(self) -> float:
        """Seconds of a step whose collectives overlap with nothing."""
        return self.alone + self.network

    @property
    def efficiency(self) -> float:
        """Images per second and chip, over those of one chip with the same share of the batch."""
        return self.alone / self.step

    @property
    def bound(self) -> str:
        """Which of the three takes longest: "compute", "memory" or "network"."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


def estimate(
    chip: Chip, *, flops: float, bytes_accessed: float, sent: float, parts: int = 1
) -> Estimate:
    """The roofline of one device's work.

    Args:
      chip: its peak rates.
      flops: that the device computes.
      bytes_accessed: that it reads and writes.
      sent: bytes that it sends to others.
      parts: devices that share a chip and its rates.
    """
    return Estimate(
        parts * flops / chip.flops,
        parts * bytes_accessed / chip.hbm_rate,
        parts * sent / chip.ici_rate,
    )
