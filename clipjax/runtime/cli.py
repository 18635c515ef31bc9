"""What the command lines share: how a command starts, speaks and ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from clipjax.errors import ClipjaxError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR)


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def _is_ours_to_say(record) -> bool:
    """False for orbax's tracebacks, one from each of its threads: `Checkpointer` says it once."""
    return record.levelname != "ERROR" or "orbax" not in record.pathname


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns our errors into a line and exit code 1, Ctrl-C into a line and 130, SIGTERM: 75.

    With several processes every other error ends the process at once, too: an orderly end would
    wait for the others.
    """
    from absl import logging

    from clipjax.runtime.devices import keep_compiled, use_cores
    from clipjax.train.distributed import processes
    from clipjax.train.preemption import RESUMABLE, Preempted, obeyed

    logging.set_verbosity(logging.WARNING)  # orbax reports every file it touches
    logging.get_absl_logger().addFilter(_is_ours_to_say)
    use_cores()
    keep_compiled()
    try:
        with obeyed():
            yield
    except ClipjaxError as error:
        _say_last(f"clipjax: {error}", 1)
        leave(1) if processes.several() else sys.exit(1)
    except KeyboardInterrupt:
        _say_last("\nclipjax: stopped; the same command goes on from here.", 130)
        leave(130)
    except Preempted as notice:
        _say_last(f"clipjax: {notice}", RESUMABLE)
        leave(RESUMABLE)
    except Exception as error:
        line = _machine_at_fault(error)
        if not processes.several():
            if not line:
                raise
            _say_last(f"clipjax: {line}", 1)
            sys.exit(1)
        line = line or processes.lost_contact(error)
        _say_last(f"clipjax: {line}" if line else traceback.format_exc(), 1)
        leave(1)


def _say_last(words: str, code: int) -> None:
    """Says why this process ends, to the reader and, by its exit code, to the other processes."""
    from clipjax.train.distributed import processes

    processes.leave(code)
    print(words, file=sys.stderr, flush=True)


def _machine_at_fault(error: Exception) -> str:
    """A sentence where an error says that a disk is full or refuses; "" for other errors."""
    if not isinstance(error, OSError) or error.errno not in (*_FULL, *_REFUSED):
        return ""
    named = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if error.errno in _FULL:
        return f"{named}; free some, and the same command goes on."
    return f"{named}; allow it, or name another place, and the same command goes on."


def leave(status: int) -> NoReturn:
    """Ends the process without waiting for anything.

    XLA may be computing in threads of its own, and crashes when the interpreter's orderly end takes
    memory from under them. Worker processes end with their pipes.
    """
    from clipjax.train.distributed import processes

    processes.see_off()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
