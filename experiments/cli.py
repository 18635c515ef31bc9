"""How every command of ours starts and ends: one sentence and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from clipjax.errors import ClipjaxError


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns our errors into one line and exit code 1, Ctrl-C into a line and 130."""
    from absl import logging

    from experiments.machine import keep_memory, use_cores

    logging.set_verbosity(logging.WARNING)  # orbax reports every file it touches
    keep_memory()
    use_cores()
    try:
        yield
    except ClipjaxError as error:
        print(f"clipjax: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nclipjax: stopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
