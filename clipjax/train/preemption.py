"""The notice before a machine is taken away (SIGTERM): the step under way ends, its state is saved,
and the process leaves with a status that says "start me again"."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes

RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: a failure that passes, try again
_asked = itertools.count(1)  # times that the loops asked whether all processes stop


class Preempted(SystemExit):
    """The run was told to stop, and goes on from its last checkpoint when started again.

    No error, so that no `except Exception` takes it for one; uncaught, it ends the process with
    status `RESUMABLE`.
    """

    def __init__(self, message: str = "stopped by SIGTERM; the same command goes on from here."):
        super().__init__(message)
        self.code = RESUMABLE


class Notice:
    """While it is open SIGTERM is noted and not obeyed; a loop asks `reached` after every step.

    To be opened around a loop and its `Checkpointer`, so that the last save ends in peace. Where no
    loop took up the notice, `Preempted` is raised at the end. It listens in the main thread only,
    and not at all under `jax.distributed`, where JAX listens and makes all processes stop at one
    step.
    """

    def __init__(self):
        self._given = False

    def __enter__(self) -> Notice:
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
        """Whether to stop after this step; to be asked for every step in turn."""
        del step
        return self._given or _all_reached()


@contextlib.contextmanager
def obeyed() -> Iterator[None]:
    """Lets SIGTERM raise `Preempted`, as SIGINT raises KeyboardInterrupt."""
    with _on_sigterm(_leave_now):
        yield


def never(step: int) -> bool:
    """A loop's `stop` where nobody may stop it."""
    del step
    return False


def leave(checkpointer: Checkpointer, phase: str, step: int) -> NoReturn:
    """Waits until the state of this step is saved, and ends the run.

    Raises:
      Preempted: always.
    """
    checkpointer.wait()
    processes.gather(None)  # none leaves while another one is still writing
    last = checkpointer.latest
    saved = "saved" if last == step else f"not saved (the last checkpoint is of step {last})"
    raise Preempted(
        f"stopped by SIGTERM at step {step} of {phase}, {saved}; the same command goes on from "
        "there."
    )


def _all_reached() -> bool:
    """Whether this is the step at which all processes of `jax.distributed` stop together.

    JAX has them stop at the number after the largest that any of them asked for. Steps begin anew
    with every method and seed, and it would wait for one that is past: all count their questions.
    """
    import jax

    if not jax.distributed.is_initialized():
        return False
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    try:
        return reached_preemption_sync_point(next(_asked))
    except RuntimeError:  # jax_enable_preemption_service is off: there are no notices
        return False


def _leave_now(*signal_and_frame) -> NoReturn:
    raise Preempted()


@contextlib.contextmanager
def _on_sigterm(handler: Callable) -> Iterator[None]:
    import jax

    main = threading.current_thread() is threading.main_thread()
    if not main or jax.distributed.is_initialized():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
