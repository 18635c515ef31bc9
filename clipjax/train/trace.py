"""A profiler's trace of some steps, for TensorBoard or Perfetto."""

import itertools
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from clipjax.errors import ConfigError


class Trace(NamedTuple):
    """The steps to trace."""

    folder: str | os.PathLike  # where the trace goes
    first: int
    last: int  # exclusive


def parse_steps(text: str) -> tuple[int, int] | None:
    """The steps of "first:last", the last exclusive; None for ""; ConfigError for anything else.

    >>> parse_steps("10:20"), parse_steps("")
    ((10, 20), None)
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"profile={text!r} is no range of steps; write 10:20 for steps 10 to 19.")
    return int(found[1]), int(found[2])


def traced(run: Callable, trace: Trace, first: int, last: int) -> Callable:
    """`run(state, batch)`, called for steps first .. last - 1, that traces the steps of `trace`.

    If these are over before `first` (phases on cached features) and were not traced, it takes as
    many after the step that compiles. It waits for the devices before and after.
    """
    begin, end = max(trace.first, first), min(trace.last, last)
    if trace.last <= first and not os.path.isdir(trace.folder):
        begin = first + 1
        end = min(begin + trace.last - trace.first, last)
    numbers = itertools.count(first)

    def call(state: Any, batch: Any):
        number = next(numbers)
        if number == begin < end:
            jax.block_until_ready(state)
            jax.profiler.start_trace(os.fspath(trace.folder), profiler_options=_options())
        found = run(state, batch)
        if begin < end == number + 1:
            jax.block_until_ready(found)
            jax.profiler.stop_trace()
        return found

    return call


def _options() -> jax.profiler.ProfileOptions:
    """Without Python's frames: to trace them, CPython goes through the frames of threads that run.

    That can end the process (https://github.com/python/cpython/issues/132817).
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return options
