"""Shared by the command lines: how a command starts, speaks and ends."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from clipjax.errors import ClipjaxError
from clipjax.log.terminal import wrapped

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR)


def say(text: str) -> None:
    """Print at once, long lines broken at spaces, but for those of Markdown tables."""
    lines = (line if line.startswith("|") else wrapped(line) for line in text.split("\n"))
    print("\n".join(lines), flush=True)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn our errors into a line and exit code 1, Ctrl-C into a line and 130, SIGTERM: 75.

    With several processes every other error ends the process at once, too: an orderly end would
    wait for the others.
    """
    from absl import logging

    from clipjax.runtime.devices import keep_compiled, use_cores
    from clipjax.train.distributed import processes
    from clipjax.train.preemption import RESUMABLE, Preempted, obeyed

    logging.set_verbosity(logging.WARNING)  # orbax reports every file it touches
    # Nor orbax's tracebacks, one from each of its threads: `Checkpointer` says it once.
    ours = lambda record: record.levelname != "ERROR" or "orbax" not in record.pathname
    logging.get_absl_logger().addFilter(ours)
    use_cores()
    keep_compiled()
    try:
        with obeyed():
            yield
    except KeyboardInterrupt:
        _say_last("\nclipjax: stopped; the same command goes on from here.", 130)
        leave(130)
    except Preempted as notice:
        _say_last(f"clipjax: {notice}", RESUMABLE)
        leave(RESUMABLE)
    except Exception as error:
        several = processes.several()
        line = str(error) if isinstance(error, ClipjaxError) else _machine_at_fault(error)
        if not line and not several:
            raise
        line = line or processes.lost_contact(error)
        _say_last(f"clipjax: {line}" if line else traceback.format_exc(), 1)
        leave(1) if several else sys.exit(1)


def _say_last(words: str, code: int) -> None:
    """Say why this process ends, to the reader and, by its exit code, to the other processes."""
    from clipjax.train.distributed import processes

    processes.leave(code)
    print(words, file=sys.stderr, flush=True)


def _machine_at_fault(error: Exception) -> str:
    """Return a sentence where a disk is full or refuses; "" for other errors."""
    if not isinstance(error, OSError) or error.errno not in (*_FULL, *_REFUSED):
        return ""
    named = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if error.errno in _FULL:
        return f"{named}; free some, and the same command goes on."
    return f"{named}; allow it, or name another place, and the same command goes on."


def leave(status: int) -> NoReturn:
    """End the process without waiting for anything.

    XLA may be computing in threads of its own, and crashes when the interpreter's orderly end takes
    memory from under them. Worker processes end with their pipes.
    """
    from clipjax.train.distributed import processes

    processes.see_off()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
