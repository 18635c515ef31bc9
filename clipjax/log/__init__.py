"""The output of a run while it runs: metrics.jsonl, trackers of experiments."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from clipjax.io import append_text, as_path, to_json, write_atomically, write_errors
from clipjax.log.sinks import Sink


class MetricsLog:
    """Appends JSON objects to a file, one a line, and sends their numbers to trackers.

    `sinks` open a tracker each (`clipjax.log.sinks`), by name, with the first number. One that
    fails is said once and left out: the file has every number.
    """

    def __init__(self, path: str | os.PathLike, sinks: Mapping[str, Callable[[], Sink]] = {}):
        self.path = as_path(path)
        self._sinks, self._open = dict(sinks), {}
        self._unwritten = ""

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; if that fails (a full disk), warn, and try again with the next one."""
        failing = bool(self._unwritten)
        self._unwritten += to_json(record) + "\n"
        try:
            self._flush()
        except write_errors(self.path) as error:
            if not failing:
                why = getattr(error, "strerror", None) or error
                told = f"clipjax: {self.path} could not be written ({why})"
                print(f"{told}; tried again with every record.", file=sys.stderr, flush=True)
        if self._sinks and "step" in record:
            place, values = scalars(record)
            for name in [*self._sinks] if values else []:
                with self._saying(name):
                    if name not in self._open:
                        self._open[name] = self._sinks[name]()
                    self._open[name].write(place, values, record["step"])

    @contextlib.contextmanager
    def _saying(self, name: str):
        """Say that a tracker failed, and leave it out from then on."""
        try:
            yield
        except Exception as error:  # of a package or a server that is not ours
            why = " ".join(str(error).split()) or type(error).__name__
            told = f"clipjax: {name} gets no more numbers ({why})"
            print(f"{told}; {self.path} has them all.", file=sys.stderr, flush=True)
            del self._sinks[name]
            self._open.pop(name, None)

    def _flush(self) -> None:
        if self._unwritten:
            append_text(self.path, self._unwritten)
            self._unwritten = ""

    def close(self) -> None:
        """Write what is left; OSError: there are records that cannot be written."""
        try:
            self._flush()
        except write_errors(self.path) as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"{self.path} could not be written ({error})") from error
        for name, sink in [*self._open.items()]:
            with self._saying(name):
                sink.close()

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records that `keep` refuses, and a last line that a kill cut short."""
        if self.path.exists():
            kept = [f"{line}\n" for line, record in _records(self.path) if keep(record)]
            write_atomically(self.path, "".join(kept))


class NoLog(MetricsLog):
    """A log that another process writes."""

    def append(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Do nothing."""


def scalars(record: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Return the phase (and seed) of a record and its numbers; lists over seeds as their mean.

    >>> scalars({"phase": "dann", "step": 7, "loss": [1.0, 3.0], "evaluation": {"oracle": [0.5]}})
    ('dann', {'loss': 2.0, 'evaluation/oracle': 0.5})
    """
    place = record["phase"] + (f"/seed{record['seed']}" if "seed" in record else "")
    named = ("phase", "step", "epoch", "seed", "evaluation")
    measures = {k: v for k, v in record.items() if k not in named}
    measures |= {f"evaluation/{k}": v for k, v in record.get("evaluation", {}).items()}
    lists = {k: v if isinstance(v, list) else [v] for k, v in measures.items()}
    return place, {k: sum(v) / len(v) for k, v in lists.items() if v and None not in v}


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the records of a metrics file, oldest first, without a line that a kill cut short."""
    return [record for _, record in _records(path)] if as_path(path).exists() else []


def _records(path: str | os.PathLike):
    for line in as_path(path).read_text().splitlines():
        try:
            yield line, json.loads(line)
        except json.JSONDecodeError:
            continue  # only ever the unfinished last line of a killed process


def writable(text: str, encoding: str | None = "utf-8") -> str:
    """Replace what an encoding lacks, as lone surrogates of odd file names, by backslash escapes.

    >>> writable("photo-\\udcff.png"), writable("caf\\u00e9", "ascii")
    ('photo-\\\\udcff.png', 'caf\\\\xe9')
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
