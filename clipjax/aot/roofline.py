"""Estimate a step's time from a chip's peak rates: the roofline model of Williams et al. 2009, by
which no step is shorter than its FLOPs at the peak rate, or its bytes at the memory's.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """Peak rates of one chip."""

    flops: float  # bfloat16 FLOP/s
    hbm_rate: float  # bytes/s
    hbm: float  # bytes
    ici_rate: float  # bytes/s that a chip sends over all of its links


# "Cloud TPU documentation", key specifications of "TPU v4", "v5e", "v5p" and "v6e". Interconnect is
# one direction, half of the bidirectional rates given: v4 2400, v5e 1600, v5p 4800 Gbit/s; v6e 800
# GB/s. Its GB of memory are 2^30 bytes.
CHIPS = {
    "v4": Chip(275e12, 1200e9, 32 * 2**30, 300e9),
    "v5e": Chip(197e12, 819e9, 16 * 2**30, 200e9),
    "v5p": Chip(459e12, 2765e9, 95 * 2**30, 600e9),
    "v6e": Chip(918e12, 1638e9, 32 * 2**30, 400e9),
}


class Estimate(NamedTuple):
    """Seconds of a step at the peak rates.

    >>> time = Estimate(compute=0.75, memory=0.5, network=0.25)
    >>> time.step, time.efficiency, time.bound
    (1.0, 0.75, 'compute')
    """

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """Seconds if collectives overlap with nothing."""
        return max(self.compute, self.memory) + self.network

    @property
    def efficiency(self) -> float:
        """Images per second and chip, relative to one chip with the same share of the batch."""
        return max(self.compute, self.memory) / self.step

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))
