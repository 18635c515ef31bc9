"""The most memory that this process has used for a while."""

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
