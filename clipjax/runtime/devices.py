"""Settings of the process that must be made before JAX starts: devices, programs kept."""

import hashlib
import os
import pathlib
import platform
import sys

from clipjax.errors import ConfigError
from clipjax.io import check_writable, default_cache_dir, is_remote

MOST_CPU_DEVICES = 8  # a batch cut finer than this spends its time on summing gradients

_SET_BY_USER = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def use_cores() -> None:
    """Make every CPU core a device of JAX, so that steps on batches share their work by examples.

    XLA computes one device's elementwise loops and many of its copies on one thread. The user's own
    number is kept (JAX_NUM_CPU_DEVICES, or --xla_force_host_platform_device_count in XLA_FLAGS).
    """
    import jax

    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not said and jax.config.jax_num_cpu_devices < 1:
        jax.config.update("jax_num_cpu_devices", cpu_devices())


def cpu_devices() -> int:
    """Return how many devices `use_cores` makes: the process's cores, up to a bound."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST_CPU_DEVICES)


def keep_compiled() -> None:
    """Keep what XLA compiled in the user's cache folder, `compiled` beside the features.

    Half of a first short run is compiling; all programs together are a megabyte. Each kind of
    processor has its own folder, because machines that cannot run each other's code may share a
    home. JAX_COMPILATION_CACHE_DIR and JAX_ENABLE_COMPILATION_CACHE are the user's choice;
    CLIPJAX_COMPILED=0 switches this off.
    """
    import jax

    if os.environ.get("CLIPJAX_COMPILED") == "0":
        return
    if any(name in os.environ for name in _SET_BY_USER):
        chosen = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir
        if chosen and not is_remote(chosen):
            _keep_if_writable(chosen)
        return
    folder = default_cache_dir() / "compiled" / processor()
    if _keep_if_writable(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _keep_if_writable(folder: str | os.PathLike) -> bool:
    """Switch the cache off, with one line instead of JAX's hundred, if it cannot be written."""
    import jax

    try:
        check_writable(folder)
        return True
    except ConfigError as error:
        jax.config.update("jax_enable_compilation_cache", False)
        why = str(error).partition(";")[0]
        print(f"clipjax: compiled programs are not kept: {why}.", file=sys.stderr, flush=True)
        return False


def processor() -> str:
    """Return a name for what this machine's processor can run."""
    info, found = pathlib.Path("/proc/cpuinfo"), [platform.machine(), platform.processor()]
    if info.exists():
        kinds = ("model name", "flags", "Features")
        found += sorted({x for x in info.read_text().splitlines() if x.startswith(kinds)})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
