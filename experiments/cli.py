"""What the command lines share: how a config's flags are checked, how a command starts and ends."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import runpy
import sys
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

from ml_collections import ConfigDict

from clipjax.errors import ClipjaxError

GRACE = 2.0  # seconds


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every field of a config as a dotted name."""
    names = []
    for key, value in config.items():
        nested = isinstance(value, ConfigDict)
        names += field_names(value, f"{prefix}{key}.") if nested else [prefix + key]
    return names


def config_complaint(argv: list[str], default: str = "configs/dann.py") -> str:
    """A sentence on what the command line asks of its config in vain; "" if nothing.

    `default` is the config of a command line that names none.
    """
    words: dict[str, str] = {}
    for word, after in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-"):
            words[name] = value if equals else after
    file, _, arg = words.get("config", default).partition(":")
    if not pathlib.Path(file).is_file():
        return f"there is no config file {file}; configs/ holds those that come with clipjax."
    try:
        names = field_names(runpy.run_path(file)["get_config"](arg or None))
    except ValueError as error:
        return f"{file}: {error}"
    given = [w.removeprefix("config.") for w in words if w.startswith("config.")]
    # A key that is no Python name stands in brackets: data.mixture['icon-mono']; so does an index.
    plain = [re.sub(r"\[\d+\]", "", re.sub(r"\[['\"](.+?)['\"]\]", r".\1", w)) for w in given]
    if unquoted := [name for name in given if "-" in name and "[" not in name and name in names]:
        outer, _, key = unquoted[0].rpartition(".")
        return f"write --config.{outer}['{key}'], in quotes: {key!r} is no Python name."
    if unknown := [name for name in plain if name not in names]:
        return f"{file} has no field {', '.join(unknown)}; its fields: {', '.join(names)}."
    return ""


def refuse_bad_config(default: str = "configs/dann.py") -> None:
    """Ends the process with one sentence where the command line asks of its config in vain.

    To be called before the flags are defined: ml_collections parses the command line as it defines
    them, and answers an unknown field with a bare AttributeError, three exceptions deep.
    """
    if complaint := config_complaint(sys.argv[1:], default):
        print(f"clipjax: {complaint}", file=sys.stderr)
        sys.exit(1)


def _is_ours_to_say(record) -> bool:
    """False for orbax's tracebacks, one from each of its threads: `Checkpointer` says it once."""
    return record.levelname != "ERROR" or "orbax" not in record.pathname


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns our errors into a line and exit code 1, Ctrl-C into a line and 130, SIGTERM: 75.

    With several processes every other error ends the process at once, too: an orderly end would
    wait for the others.
    """
    from absl import logging

    from clipjax.train import processes
    from clipjax.train.preemption import RESUMABLE, Preempted, obeyed
    from experiments.machine import keep_compiled, keep_memory, use_cores

    logging.set_verbosity(logging.WARNING)  # orbax reports every file it touches
    logging.get_absl_logger().addFilter(_is_ours_to_say)
    keep_memory()
    use_cores()
    keep_compiled()
    try:
        with obeyed():
            yield
    except ClipjaxError as error:
        print(f"clipjax: {error}", file=sys.stderr)
        if processes.several():
            if processes.is_first():
                time.sleep(GRACE)  # the others may be saying the same, and end with this one
            leave(1)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nclipjax: stopped; the same command goes on from here.", file=sys.stderr)
        leave(130)
    except Preempted as notice:
        print(f"clipjax: {notice}", file=sys.stderr)
        leave(RESUMABLE)
    except Exception as error:
        if line := _machine_at_fault(error):
            print(f"clipjax: {line}", file=sys.stderr)
            leave(1) if processes.several() else sys.exit(1)
        if not processes.several():
            raise
        told = processes.lost_contact(error)
        print(f"clipjax: {told}" if told else traceback.format_exc(), file=sys.stderr)
        leave(1)


def _machine_at_fault(error: Exception) -> str:
    """A sentence where an error says that a disk is full; "" for other errors."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    named = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{named}; free some, and the same command goes on."


def leave(status: int) -> NoReturn:
    """Ends the process without waiting for anything.

    XLA may be computing in threads of its own, and crashes when the interpreter's orderly end takes
    memory from under them. Worker processes end with their pipes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
