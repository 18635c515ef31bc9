"""SIGTERM, the notice before a machine is taken away: finish the step, save, leave resumably."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, Self

import jax

from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes

RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again
_asked = itertools.count(1)  # how often the loops asked whether all processes stop


class Preempted(SystemExit):
    """The run was told to stop; the same command goes on.

    It is no `Exception`, which others catch; uncaught, the process ends with status `RESUMABLE`.
    """

    def __init__(self, message: str = "stopped by SIGTERM; the same command goes on from here."):
        super().__init__(message)
        self.code = RESUMABLE


class Notice:
    """A context around a loop and its `Checkpointer`, in which SIGTERM is only noted.

    The loop asks `reached` after every step; if none did after SIGTERM, `Preempted` is raised at
    the end. It listens only in the main thread, and leaves it to JAX under `jax.distributed`.
    """

    def __init__(self):
        self._given = False

    def __enter__(self) -> Self:
        self._listening = _on_sigterm(self._note)
        self._listening.__enter__()
        return self

    def __exit__(self, kind, *exc) -> None:
        self._listening.__exit__(kind, *exc)
        if self._given and kind is None:
            raise Preempted()

    def _note(self, *signal_and_frame) -> None:
        self._given = True

    def reached(self, step: int) -> bool:
        """Return whether to stop after this step; ask for every step in turn."""
        return self._given or _all_reached()


@contextlib.contextmanager
def obeyed() -> Iterator[None]:
    """Let SIGTERM raise `Preempted`, as SIGINT raises KeyboardInterrupt."""

    def raise_it(*signal_and_frame):
        raise Preempted()

    with _on_sigterm(raise_it):
        yield


def leave(checkpointer: Checkpointer, phase: str, step: int) -> NoReturn:
    """Wait until the state of this step is saved, and raise `Preempted`."""
    checkpointer.wait()
    processes.gather(None)  # none leaves while another is still writing
    last = checkpointer.latest
    saved = "saved" if last == step else f"not saved (the last checkpoint is of step {last})"
    raise Preempted(
        f"stopped by SIGTERM at step {step} of {phase}, {saved}; the same command goes on from "
        "there."
    )


def _all_reached() -> bool:
    """Return whether all processes of `jax.distributed` stop together now.

    JAX stops them at the number after the largest asked for; steps restart with every method and
    seed, so it is given a count of the questions.
    """
    if not jax.distributed.is_initialized():
        return False
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    try:
        return reached_preemption_sync_point(next(_asked))
    except RuntimeError:  # jax_enable_preemption_service is off
        return False


@contextlib.contextmanager
def _on_sigterm(handler: Callable) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not main or jax.distributed.is_initialized():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
