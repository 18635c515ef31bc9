"""Runs the studies of a suite one after the other: what all suites have in common."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from clipjax.runtime.cli import say

if TYPE_CHECKING:
    from clipjax.study import Results, Study

Key = TypeVar("Key", bound=Hashable)


@contextlib.contextmanager
def held(workdir: pathlib.Path, places: Mapping[Key, pathlib.Path]) -> Iterator[None]:
    """Hold a suite's folder for the first process alone; its runs are in `places`.

    ClipjaxError: another process holds it, or results there cannot be read: before the first run.
    """
    from clipjax.evaluate import results
    from clipjax.runtime.claim import claimed
    from clipjax.train.distributed import processes

    with contextlib.ExitStack() as holds:
        processes.from_first(lambda: holds.enter_context(claimed(workdir)))
        processes.from_first(lambda: [results.read(place) for place in places.values()])
        yield


def run_each(
    places: Mapping[Key, pathlib.Path],
    studies: Mapping[Key, Study],
    options: Callable[[Key], Mapping[str, Any]],
    tell: Callable[[Key, Results], str] | None = None,
    notes: bool = False,
) -> Iterator[tuple[Key, Results]]:
    """Run every study in its place, or read it where it is finished, and yield what it found.

    Args:
      options: of `clipjax.study.run`, asked for right before each run.
      tell: what to say of a run, beside its number and time.
      notes: whether to say the first run's notes; each run's results.json has its own.

    Yields nothing on any process but the first. ClipjaxError: as `clipjax.study.run`; runs of
    different models, too.
    """
    from clipjax.study import run
    from clipjax.study.model_record import check_one_model

    first = next(iter(studies))
    for number, (key, study) in enumerate(studies.items(), 1):
        started = time.perf_counter()
        done = run(study, places[key], **options(key))
        if done is None:  # not the first process
            continue
        check_one_model(places[first], places[key])
        for note in done.results.get("notes", ()) if notes and key == first else ():
            say(f"note: {note}")
        if tell is not None:
            spent = time.perf_counter() - started
            say(f"{number}/{len(studies)} {tell(key, done)}; {spent:.1f} s")
        yield key, done
