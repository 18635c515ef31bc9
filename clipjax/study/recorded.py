"""What a finished run has kept of its data: enough for its results and its model, no images."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import NoReturn

from clipjax.errors import DataError

RECORD = "evidence.json"


class Recorded:
    """Stands where a run's dataset stood: its classes are known, its images are not needed.

    Args:
      classes: of the run, in its order.
      class_names: as prompts say them.
      programs: the methods that trained as one program each.
      place: of the record, for errors.
    """

    skipped = ()

    def __init__(
        self,
        classes: Sequence[str],
        class_names: Sequence[str],
        programs: Sequence[Sequence[str]],
        place: pathlib.Path,
    ):
        self.name, self.domains = str(place), ()
        self.classes, self.class_names = tuple(classes), tuple(class_names)
        self.programs = [tuple(names) for names in programs]
        self._place = place

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """All classes, those that the run's domains have in common."""
        return self.classes

    def has_split(self, split: str) -> bool:
        """None is there."""
        return False

    def source(self, domain: str, split: str) -> NoReturn:
        """Raises DataError: there are no images."""
        raise DataError(
            f"{self._place} names the run's classes and holds no images, and those of {domain}/"
            f"{split} are needed; is metrics.jsonl beside it complete?"
        )


def read_record(workdir: pathlib.Path) -> Recorded | None:
    """What a run has kept of its data; None where a version before these words wrote it.

    Raises:
      DataError: the record is damaged.
    """
    place = workdir / RECORD
    try:
        found = json.loads(place.read_text()) if place.exists() else {}
        words = [found.get(key) for key in ("classes", "class_names", "programs")]
        return None if None in words else Recorded(*words, place)
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{place} is damaged ({error}); remove it, and the data are read instead."
        ) from error
