"""Compile a train step for devices that are not there, and read the compiler's figures."""

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
# Less optimisation compiles in a seventh of the time: the same FLOPs, more temporaries.
FAST = {"exec_time_optimization_effort": -1.0}
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Figures of a compiled step, of one device; if it did not fit, only of memory."""

    fits: bool
    peak: int  # bytes needed: arguments, temporaries and outputs that are not in place
    capacity: int  # bytes that the compiler may use; 0 if it fits
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
    """Compile `step(state, batch, *shared)` as `fit_stream` does, for the devices of a topology.

    Arrays are abstract, those of the batch [B, ...] global; `shared` are parameters that no step
    changes. Each parameter is cut among `fsdp` devices; ConfigError if that does not divide them.
    `fast`: less optimisation (`FAST`), memory is then an upper estimate.
    """
    mesh = make_mesh(topology.devices, fsdp)
    jitted = make_program(step, state, mesh).run  # takes `shared` as further arguments
    begun = time.perf_counter()
    placed = place_state(state, mesh), place_batch(batch, mesh), *place_state(shared, mesh)
    lowered = jitted.lower(*placed)
    try:
        program = lowered.compile(compiler_options=FAST if fast else None)
    except jax.errors.JaxRuntimeError as error:
        held = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        overflow = needed_memory(str(error), sum(map(held, jax.tree.leaves(placed))))
        if overflow is None:
            raise
        return Compiled(False, *overflow, seconds=time.perf_counter() - begun)
    seconds = time.perf_counter() - begun
    memory, cost = program.memory_analysis(), program.cost_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
    sums = totals(collectives(program.as_text(), len(topology.devices)))
    figures = arguments, temporaries, cost["flops"], cost["bytes accessed"], sums
    return Compiled(True, arguments + temporaries + beside, 0, *figures, seconds)


def needed_memory(message: str, arguments: int = 0) -> tuple[int, int] | None:
    """Read (bytes needed, bytes there are) of a compiler's refusal; None of any other.

    `arguments` are bytes to add if the message counts only temporaries.
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
