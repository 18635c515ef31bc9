"""What a finished run has kept of its data: enough for its results and its model, no images."""

from __future__ import annotations

import json
import pathlib
from typing import NamedTuple, NoReturn

from clipjax.errors import DataError

RECORD = "evidence.json"


class Recorded(NamedTuple):
    """Stands for a run's dataset: its classes are known, its images are not needed."""

    classes: tuple[str, ...]  # in the run's order
    class_names: tuple[str, ...]  # as prompts say them
    programs: list[tuple[str, ...]]  # the methods that trained as one program each
    place: pathlib.Path  # of the record

    def source(self, domain: str, split: str) -> NoReturn:
        """Raise DataError: there are no images."""
        raise DataError(
            f"{self.place} names the run's classes and holds no images, and those of {domain}/"
            f"{split} are needed; is metrics.jsonl beside it complete?"
        )


def read_record(workdir: pathlib.Path) -> Recorded | None:
    """Read what a run has kept of its data; None where an earlier clipjax kept nothing."""
    place = workdir / RECORD
    try:
        found = json.loads(place.read_text()) if place.exists() else {}
        words = [found.get(key) for key in ("classes", "class_names", "programs")]
        if None in words:
            return None
        classes, names, programs = map(tuple, words)
        return Recorded(classes, names, [tuple(each) for each in programs], place)
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{place} is damaged ({error}); remove it, and the data are read instead."
        ) from error
