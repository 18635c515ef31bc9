"""Compiles a train step for devices that are not there, and reads what the compiler says of it."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax

from clipjax.aot.hlo import collectives, totals
from clipjax.aot.topology import Topology
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import make_mesh, place_batch, place_state

PyTree = Any
# Less optimisation: a seventh of the time to compile, the same FLOPs, more temporaries.
FAST = {"exec_time_optimization_effort": -1.0}
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step, all numbers of one device.

    Where the program did not fit, `peak` is what the compiler would have needed and the rest is 0.
    """

    fits: bool
    peak: int  # bytes: arguments, temporaries and what of the outputs is not in place
    capacity: int  # bytes the compiler may use; 0 where it did not say
    arguments: int = 0  # bytes: state and batch
    temporaries: int = 0  # bytes
    flops: float = 0.0
    bytes_accessed: float = 0.0
    collectives: dict[str, tuple[int, int, float]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0  # that compiling took here

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        return sum(sent for _, _, sent in self.collectives.values())


def compile_step(
    step: Callable,
    state: PyTree,
    batch: PyTree,
    topology: Topology,
    *shared: PyTree,
    fsdp: int = 1,
    fast: bool = False,
) -> Compiled:
    """Compiles `step(state, batch, *shared)` as `fit_stream` does, for other devices.

    Args:
      step: as `clipjax.adapt.step.make_step` makes it; its state is donated.
      state: abstract arrays.
      batch: abstract arrays of the global batch [B, ...].
      topology: the devices.
      shared: abstract arrays of parameters that no step changes, placed as the state is.
      fsdp: devices among which each parameter is cut; 1 keeps it whole on each.
      fast: less optimisation (`FAST`): memory is then an upper estimate.

    Raises:
      ConfigError: `fsdp` does not divide the devices.
    """
    mesh = make_mesh(topology.devices, fsdp)
    jitted = make_program(step, state, mesh).run  # takes `shared` as further arguments
    begun = time.perf_counter()
    placed = place_state(state, mesh), place_batch(batch, mesh), *place_state(shared, mesh)
    lowered = jitted.lower(*placed)
    try:
        program = lowered.compile(compiler_options=FAST if fast else None)
    except jax.errors.JaxRuntimeError as error:
        overflow = needed_memory(str(error), argument_bytes(placed))
        if overflow is None:
            raise
        return Compiled(False, *overflow, seconds=time.perf_counter() - begun)
    return read_program(program, len(topology.devices), time.perf_counter() - begun)


def read_program(program: jax.stages.Compiled, devices: int, seconds: float) -> Compiled:
    """The compiler's figures for a program on that many devices."""
    memory, cost = program.memory_analysis(), program.cost_analysis()
    beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        True,
        memory.argument_size_in_bytes + memory.temp_size_in_bytes + beside,
        0,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        cost["flops"],
        cost["bytes accessed"],
        totals(collectives(program.as_text(), devices)),
        seconds,
    )


def argument_bytes(placed: PyTree) -> int:
    """Bytes that abstract arrays with shardings take on one device."""
    sizes = (
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(placed)
    )
    return sum(sizes)


def needed_memory(message: str, arguments: int = 0) -> tuple[int, int] | None:
    """(bytes needed, bytes there are) of a compiler's refusal; None if it refused something else.

    Args:
      message: of the refusal.
      arguments: bytes to add where the message tells those of temporaries alone.

    >>> needed_memory("RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded ...")
    (22011707392, 16911433728)
    """
    size = r"([\d.]+)([KMGT]?)"
    if match := re.search(rf"Used {size} of {size} hbm", message):
        arguments = 0
    else:
        match = re.search(rf"\({size}\) exceeds available HBM \({size}\)", message)
    if not match:
        return None
    needed, there = (int(float(match[at]) * _SCALE[match[at + 1]]) for at in (1, 3))
    return needed + arguments, there
