"""TPU topologies to compile for on a machine without a TPU (extra `aot`: libtpu)."""

import importlib.metadata
import importlib.util
import math
import os
from typing import NamedTuple

import jax

from clipjax.errors import ConfigError

# Slices of up to 256 chips that Cloud TPU rents out ("Cloud TPU documentation").
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
KNOWN = {"v4": _SOLID, "v5e": _FLAT, "v5p": _SOLID, "v6e": _FLAT}

# Without these libtpu looks for the machine's TPU for minutes, and logs that there is none.
_QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    # Two processes may compile at once, as they share no device.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """A description of a slice of TPU chips."""

    name: str  # "v5e:2x4"
    generation: str  # key of `clipjax.aot.roofline.CHIPS`
    chips: int
    devices: tuple[jax.Device, ...]  # to compile for; nothing can run on them

    @property
    def devices_per_chip(self) -> int:
        """2 on v4, whose chips are two cores to the compiler; 1 on the others."""
        return len(self.devices) // self.chips


def check_name(name: str) -> tuple[str, str]:
    """Split a topology's name, as "v5e:2x4"; ConfigError lists the known ones."""
    generation, _, shape = name.partition(":")
    if shape not in KNOWN.get(generation, ()):
        listed = "; ".join(f"{key}:{' '.join(shapes)}" for key, shapes in KNOWN.items())
        raise ConfigError(f"there is no topology {name!r}; known: {listed}.")
    return generation, shape


def compiler_version() -> str:
    """Return the version of libtpu."""
    return importlib.metadata.version("libtpu")


def open_topology(name: str) -> Topology:
    """Open a topology by its name, "v5e:16x16"; call it before JAX starts a backend.

    ConfigError: an unknown topology, or libtpu is not installed.
    """
    generation, shape = check_name(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("compiling needs libtpu: pip install 'clipjax[aot]'.")
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    if not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")  # what runs here runs on the CPU
    # Programs for a TPU that is not there cannot be read back, of which JAX would warn each time.
    jax.config.update("jax_enable_compilation_cache", False)
    from jax.experimental import topologies

    # By default a host has 2 x 2 chips, more than the smallest slice.
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if shape == "1x1" else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=name, **bounds)
    chips = math.prod(map(int, shape.split("x")))
    return Topology(name, generation, chips, tuple(found.devices))
