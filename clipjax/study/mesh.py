"""The devices that share a run's batches: what `mesh` and `parallel` of a config ask for."""

import os

import jax
from jax.sharding import Mesh

from clipjax.errors import ConfigError
from clipjax.study.parts import Devices
from clipjax.train.distributed import processes
from clipjax.train.distributed.sharding import batch_mesh, make_mesh
from clipjax.train.trace import Trace, parse_steps


def training_mesh(
    devices: Devices, batch_size: int, accumulate: int = 1, *, state_bytes: int = 0, most=None
) -> Mesh:
    """Return the devices that share a run's batches.

    All there are, unless `mesh.data` says otherwise. On the CPU of one process, where nothing is
    asked for, as many (`most` at most) as divide a batch and have room for a copy of the state, of
    `state_bytes`, each: there all devices live in one memory, half of it left to activations.
    """
    asked, local = devices.mesh, jax.local_devices()
    free = not (asked.data or asked.fsdp > 1 or processes.several())
    if free and local[0].platform == "cpu":
        room = max(1, device_memory() // (2 * max(1, state_bytes)))
        return batch_mesh(batch_size // accumulate, local[: min(room, most or room)])
    there, fsdp = jax.devices(), asked.fsdp
    data = asked.data or max(1, len(there) // fsdp)
    count, wanted = data * fsdp, f"a mesh of mesh.data={data} times mesh.fsdp={fsdp}"
    if count > len(there):
        raise ConfigError(f"{wanted} is larger than the {len(there)} there are; make it smaller.")
    if processes.several() and count != len(there):
        left = f"some of the {len(there)} devices of {jax.process_count()} processes"
        raise ConfigError(f"{wanted} leaves out {left}; use all.")
    if not asked.data and count != len(there):
        raise ConfigError(
            f"mesh.fsdp={fsdp} does not divide the {len(there)} devices there are; take a "
            f"divisor, or leave some devices out with mesh.data={data}."
        )
    check_divides(batch_size, accumulate, count)
    return make_mesh(there[:count], fsdp)


def check_divides(batch_size: int, accumulate: int, devices: int) -> None:
    """Raise ConfigError, with the nearest sizes, for a batch that devices cannot share evenly.

    >>> check_divides(60, 1, 8)
    Traceback (most recent call last):
    clipjax.errors.ConfigError: batch_size=60 cannot be shared evenly by 8 devices; take 56 or 64.
    """
    unit = devices * accumulate
    if batch_size % unit:
        below = batch_size // unit * unit
        sizes = [str(size) for size in (below, below + unit) if size]
        parts = f" in accumulate={accumulate} microbatches" if accumulate > 1 else ""
        raise ConfigError(
            f"batch_size={batch_size} cannot be shared evenly by {devices} devices{parts}; take "
            f"{' or '.join(sizes)}."
        )


def device_memory() -> int:
    """Return the bytes of the first device's memory; the machine's where it does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def wanted_trace(profile: str, workdir) -> Trace | None:
    """Trace the steps "first:last" into the workdir, in the first process."""
    steps = parse_steps(profile)
    return Trace(workdir / "profile", *steps) if steps and processes.is_first() else None
