"""Several processes as one run: how they meet, agree and end.

Only `start` initialises `jax.distributed`. Without it all functions take this process for the only.
"""

import atexit
import glob
import importlib.util
import os
import pickle
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

from clipjax.errors import ClipjaxError, ConfigError
from clipjax.train.distributed import heartbeat as watch

T = TypeVar("T")
HEARTBEAT = 30  # seconds of silence after which a process counts as dead, and all others end
SHUTDOWN = 3600  # seconds that the others wait at the end for process 0, which writes the report
GRACE = 2.0  # seconds in which the others can end by themselves before process 0 does
ASIDE = 5.0  # seconds in which the watch learns of an end that an error tells of, too
_watch: watch.Watch | None = None  # of this process, between `start` and its end


def start(coordinator: str = "", count: int = 0, index: int = -1) -> None:
    """Join the other processes, if there are any; call it before JAX does anything.

    `coordinator` is "host:port" of process 0, `count` the number of processes, `index` this one's.
    Those left out are read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    without these JAX asks the cluster: a Cloud TPU, SLURM (`srun`) or Open MPI. A `count` of 1 is
    one process, whatever the cluster says, if nothing else is given.

    Raises:
      ConfigError: one of the three is missing or does not fit the others; nobody is met.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    count = count or _number("JAX_NUM_PROCESSES", 0)
    index = index if index >= 0 else _number("JAX_PROCESS_ID", -1)
    if count == 1 and not coordinator and index <= 0:
        return
    if not (coordinator or count or index >= 0):
        if _on_cluster():
            _meet()
        return
    if ":" not in coordinator or count < 1 or not 0 <= index < count:
        raise ConfigError(
            f"--coordinator={coordinator!r} --num_processes={count} --process_id={index}: give all "
            "three, an address host:port and a process_id from 0 to num_processes - 1."
        )
    _meet(coordinator, count, index)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable) or default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is no whole number; correct or unset it.") from None


def _meet(*where) -> None:
    try:
        jax.distributed.initialize(
            *where, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN
        )
    except (RuntimeError, ValueError) as error:
        at = f" at {where[0]}" if where else ""
        raise ConfigError(
            f"the processes could not meet{at} ({str(error).strip().splitlines()[0][:200]}); start "
            "all of them, and let them reach the first one's address (or --num_processes=1, where "
            "this one is to train alone)."
        ) from error
    if several():
        global _watch
        _watch = watch.begin(place(), gather, where[0] if where else "", _end)
        atexit.register(_watch.finish)  # before JAX's own, which waits for the others


def _end(sentence: str, code: int) -> NoReturn:
    """End this process from any thread, at once, before JAX or gloo aborts it."""
    os.write(2, f"clipjax: {sentence}\n".encode())
    os._exit(code)


def leave(code: int) -> None:
    """`Watch.leave`, if others watch: tell them that this process ends, before it says so."""
    if _watch:
        _watch.leave(code)


def see_off() -> None:
    """Let the others end first: JAX's service ends with process 0, and they would abort."""
    if several() and is_first():
        time.sleep(GRACE)


def _on_cluster() -> bool:
    """Return whether JAX can find the other processes by itself, without asking the network."""
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    mpi = ("OMPI_MCA_orte_hnp_uri",)
    for names, size in ((slurm, "SLURM_NTASKS"), (mpi, "OMPI_COMM_WORLD_SIZE")):
        if os.environ.keys() >= set(names) and int(os.environ.get(size, 1)) > 1:
            return True
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    platforms = os.environ.get("JAX_PLATFORMS", "tpu")
    return bool(chips) and "tpu" in platforms and importlib.util.find_spec("libtpu") is not None


def several() -> bool:
    """Return whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def place() -> tuple[int, int]:
    """(index of this process, their number)."""
    return (jax.process_index(), jax.process_count()) if several() else (0, 1)


def is_first() -> bool:
    """Return whether this is the process that prints and writes."""
    return place()[0] == 0


def gather(value: T) -> list[T]:
    """The (pickled) values of all processes, by index; all must call it together."""
    if not several():
        return [value]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32([len(mine) >> 16, len(mine) & 0xFFFF]))
    lengths = (sizes[:, 0].astype(np.int64) << 16) + sizes[:, 1]
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]


def together(make: Callable[[], T]) -> T:
    """`make()`; if it raises a ClipjaxError on some processes, all raise one.

    It must not talk to other processes: one that fails would not answer.
    """
    value = trouble = None
    try:
        value = make()
    except ClipjaxError as error:
        trouble = error
    for other in filter(None, gather(trouble)):
        raise trouble or other
    return value


def from_first(make: Callable[[], T]) -> T:
    """`make()` of process 0, or its ClipjaxError, on all processes."""
    value = together(lambda: make() if is_first() else None)
    return gather(value)[0]


def agree(what: str, value: Any, describe: Callable[[Any, Any], str] = lambda a, b: "") -> None:
    """ConfigError, on all processes, if one has another `value` than process 0."""
    values = gather(value)
    for index, other in enumerate(values):
        if other != values[0]:
            more = describe(values[0], other)
            raise ConfigError(
                f"process {index} has another {what} than process 0{more and f' ({more})'}; start "
                "all processes with the same command on the same files."
            )


def lost_contact(error: BaseException) -> str:
    """A sentence for errors that mean the loss of another process; "" for others.

    Does not return where the watch knows more and ends this process.
    """
    text = str(error)
    signs = ("gloo", "heartbeat", "coordination", "connection", "unavailable", "barrier", "peer")
    kinds = (RuntimeError, ValueError)  # JAX's errors are of the former, gloo's of the latter
    told = isinstance(error, kinds) and any(sign in text.lower() for sign in signs)
    if _watch:
        _watch.settle(ASIDE if told else 1.0)  # any error can follow from another one's end
    if not told:
        return ""
    index, count = place()
    return (
        f"process {index} of {count} lost contact with another one "
        f"({text.strip().splitlines()[0][:160]}); {watch.AGAIN}"
    )
