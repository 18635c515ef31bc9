"""What a run says while it runs: metrics.jsonl, lines on the console, progress bars."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from clipjax.io import append_text, as_path, to_json, write_atomically, write_errors


class MetricsLog:
    """Appends one JSON object a line; `rewind` forgets what a resumed stage will say again.

    With `events`, a folder, numbers go to TensorBoard too (needs the extra `tensorboard`); there a
    resumed stage does say the same again.
    """

    def __init__(self, path: str | os.PathLike, events: str | os.PathLike | None = None):
        self.path = as_path(path)
        self._events, self._writer = events, None
        self._unwritten = ""

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record; where that fails (a full disk), it is said, and tried next time."""
        failing = bool(self._unwritten)
        self._unwritten += to_json(record) + "\n"
        try:
            self._flush()
        except write_errors(self.path) as error:
            if not failing:
                why = getattr(error, "strerror", None) or error
                told = f"clipjax: {self.path} could not be written ({why})"
                print(f"{told}; tried again with every record.", file=sys.stderr, flush=True)
        if self._events and "step" in record:
            self._writer = self._writer or event_writer(self._events)
            for name, value in scalars(record).items():
                self._writer.add_scalar(name, value, record["step"])

    def _flush(self) -> None:
        if self._unwritten:
            append_text(self.path, self._unwritten)
            self._unwritten = ""

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          OSError: there are records that cannot be written.
        """
        try:
            self._flush()
        except write_errors(self.path) as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"{self.path} could not be written ({error})") from error
        if self._writer:
            self._writer.close()

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drops the records that `keep` refuses, and a last line that a kill cut short."""
        if not self.path.exists():
            return
        kept = [line for line, record in _records(self.path) if keep(record)]
        write_atomically(self.path, "".join(line + "\n" for line in kept))


class NoLog(MetricsLog):
    """A log that is written by another process."""

    def append(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Do nothing."""


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record by the names TensorBoard shows; the mean of a list over seeds.

    >>> scalars({"phase": "dann", "step": 7, "loss": [1.0, 3.0], "evaluation": {"oracle": [0.5]}})
    {'dann/loss': 2.0, 'dann/evaluation/oracle': 0.5}
    """
    place = f"{record['phase']}/" + (f"seed{record['seed']}/" if "seed" in record else "")
    named = ("phase", "step", "epoch", "seed", "evaluation")
    measures = {k: v for k, v in record.items() if k not in named}
    measures |= {f"evaluation/{k}": v for k, v in record.get("evaluation", {}).items()}
    lists = {k: v if isinstance(v, list) else [v] for k, v in measures.items()}
    return {place + k: sum(v) / len(v) for k, v in lists.items() if v and None not in v}


def event_writer(folder: str | os.PathLike):
    """A TensorBoard writer (extra `tensorboard`)."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), flush_secs=10)


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a metrics file, oldest first; a line that a kill cut short is left out."""
    if not as_path(path).exists():
        return []
    return [record for _, record in _records(path)]


def _records(path: str | os.PathLike):
    for line in as_path(path).read_text().splitlines():
        try:
            yield line, json.loads(line)
        except json.JSONDecodeError:
            continue  # only ever the unfinished last line of a killed process


def writable(text: str, encoding: str | None = "utf-8") -> str:
    """The text with what an encoding lacks as backslash escapes.

    Names of files that are no UTF-8 come as lone surrogates, which nothing can print or write.

    >>> writable("photo-\\udcff.png"), writable("caf\\u00e9", "ascii")
    ('photo-\\\\udcff.png', 'caf\\\\xe9')
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def is_quiet() -> bool:
    """No bars under CI=true or when the output is not a terminal."""
    return os.environ.get("CI", "").lower() == "true" or not sys.stderr.isatty()


def progress(items: Iterable | None = None, *, total: int | None = None, what: str, unit: str):
    """A bar with rate and time left (tqdm), silent where `is_quiet`."""
    from tqdm import tqdm

    return tqdm(
        items, total=total, desc=what, unit=unit, disable=is_quiet(), leave=False, smoothing=0.1
    )
