"""What a run's record says of where and how it was started: machine, command."""

import os
import pathlib
import platform
import shlex
import sys
from typing import Any

_COMMAND = "clipjax"  # the console script


def machine() -> dict[str, Any]:
    """Return {"devices": "4 x NVIDIA H100", "processor", "cores", "system"}; starts the backend.

    No names of users, hosts or folders: results are shown to others.
    """
    import jax

    kinds = [device.device_kind for device in jax.devices()]
    each = (f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "devices": ", ".join(each),
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    """Return the processor's name as Linux has it, else what Python knows."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def command() -> str:
    """Return the command that this process is, for a shell; "" where Python was called otherwise.

    `clipjax ...` of the console script, `python -m module ...` of a module of ours.
    """
    script, *words = sys.argv or [""]
    if pathlib.Path(script).stem == _COMMAND:
        return shlex.join([_COMMAND, *words])
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = (getattr(spec, "name", None) or "").removesuffix(".__main__")
    if name == _COMMAND:  # python -m clipjax
        return shlex.join([_COMMAND, *words])
    ours = name.partition(".")[0] in ("clipjax", "experiments")
    return shlex.join(["python", "-m", name, *words]) if ours else ""
