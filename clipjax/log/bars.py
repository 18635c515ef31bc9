"""Progress: a bar with rate, time left and loss on a terminal, elsewhere a line a minute."""

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

TELL_EVERY = 60.0  # seconds between two lines where no bar is shown


def is_quiet() -> bool:
    """Return whether to show no bars: under CI=true, or if the output is not a terminal.

    A notebook is one where it has `ipywidgets`.
    """
    notebook = "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None
    shown = notebook or sys.stderr.isatty()
    return os.environ.get("CI", "").lower() == "true" or not shown


class Bar(contextlib.AbstractContextManager):
    """What is done of a number of things. Close it, or use it in a `with`: it hides the cursor."""

    def __init__(
        self, total: int, what: str, unit: str, *, done: int = 0, say: Callable | None = None
    ):
        """`done` of them were there before; `say` gets a line a minute where no bar is shown."""
        self.total, self.what, self.unit, self.done = total, what, unit, done
        self.note = ""  # what else is known: a loss
        self._say, self._begun, self._told = say, done, time.perf_counter()
        self._started, self._shown = self._told, None if is_quiet() else _shown()
        if self._shown:
            self._task = self._shown.add_task(what, total=total, completed=done, note="", unit=unit)
            self._shown.start()

    def update(self, count: int = 1) -> None:
        """Count more as done."""
        self.done += count
        if self._shown:
            self._shown.update(self._task, completed=self.done, note=self.note)
        elif self._say and time.perf_counter() - self._told >= TELL_EVERY:
            self._told = time.perf_counter()
            self._say(self.line())

    def line(self) -> str:
        """Say it in a line."""
        rate = (self.done - self._begun) / max(time.perf_counter() - self._started, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9) / 60
        said = f"{self.what}: {self.done} of {self.total} {self.unit}s, {rate:.3g} {self.unit}s/s"
        return ", ".join([said, *filter(None, [self.note]), f"{left:.0f} min left"])

    def close(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._shown.stop()
            self._shown = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def progress(
    items: Iterable, *, what: str, unit: str, total: int | None = None, say: Callable | None = None
) -> Iterator:
    """Yield items and show how many are done; `total` of those that have no length."""
    with Bar(len(items) if total is None else total, what, unit, say=say) as bar:
        for item in items:
            yield item
            bar.update()


def _shown() -> Any:
    """Return rich's display on stderr, which is gone once it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Things done a second."""

        def render(self, task) -> Text:
            return Text(f"{task.speed:.3g} {task.fields['unit']}s/s" if task.speed else "")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),  # a file gets the lines that are printed meanwhile
    )
