"""The most memory that this process has used for a while, and how much a device has."""

import os
import pathlib

_PROCESS = pathlib.Path("/proc/self")


def reset_peak() -> None:
    """Let `peak_bytes` begin anew, where the system can (Linux)."""
    try:
        (_PROCESS / "clear_refs").write_text("5")  # the high-water mark of resident memory
    except OSError:
        pass


def peak_bytes() -> int | None:
    """Return the most resident memory in bytes since `reset_peak`; None where it is not known.

    Of accelerators the most device memory, since the process began. Memory that was freed and that
    the allocator has kept counts, too.
    """
    import jax

    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    status = _PROCESS / "status"
    lines = status.read_text().splitlines() if status.exists() else []
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return 1024 * sizes[0] if sizes else None


def device_bytes() -> tuple[int | None, str]:
    """Return the memory of a device in bytes, None where it is not known, and the device's name.

    Of a CPU it is the machine's.
    """
    import jax

    device = jax.local_devices()[0]
    name = f"{device.platform}:{device.id}"
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit"), name
    if not hasattr(os, "sysconf"):
        return None, name
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), name
