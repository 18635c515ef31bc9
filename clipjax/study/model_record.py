"""Ties a workdir to its model: what was trained on one model's features goes with no other."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.data.features.identity import differences
from clipjax.errors import CheckpointError
from clipjax.io import write_json
from clipjax.study.config import Study
from clipjax.study.model_opened import open_model
from clipjax.train.distributed import processes

RECORD = "model.json"
TEACHER = "teacher.json"


def check_finished(workdir: pathlib.Path, study: Study) -> str:
    """Raise CheckpointError if a finished run's model is not the one its study names now.

    Returns a sentence where they cannot be compared; "" otherwise.
    """
    if not (workdir / RECORD).exists():
        return ""
    try:
        directory, identity = open_identity(study)
    except CheckpointError as error:
        return f"whether its model is still the same cannot be told: {error}"
    return check_recorded(workdir, identity, directory)


def open_identity(study: Study) -> tuple[pathlib.Path, dict[str, Any]]:
    """Return the directory and the identity of a study's model."""
    found = open_model(study)
    return found["model"], found["identity"]


def check_same_model(
    workdir: pathlib.Path, identity: Mapping[str, Any], origin: object, record: str = RECORD
) -> str:
    """Record the model, which lies in `origin`, when a run begins; refuse another when it goes on.

    `record` is the file's name: `RECORD`, or `TEACHER` of the model that teaches.

    Returns a sentence where the run began without a record; "" otherwise.
    """
    what = record.removesuffix(".json")
    processes.agree(what, dict(identity), differences)
    return processes.from_first(lambda: _compared(workdir, identity, origin, record))


def _compared(
    workdir: pathlib.Path, identity: Mapping[str, Any], origin: object, record: str
) -> str:
    began = any((workdir / name).exists() for name in (record, "images.json", "checkpoints"))
    told = check_recorded(workdir, identity, origin, record) if began else ""
    if not (workdir / record).exists():
        write_json(workdir / record, {**identity, "from": str(origin)})
    return told


def check_recorded(
    workdir: pathlib.Path, identity: Mapping[str, Any], origin: object, record: str = RECORD
) -> str:
    """Raise CheckpointError for another model than a run's; return a sentence without a record."""
    path, what = workdir / record, record.removesuffix(".json")
    if not path.exists():
        return (
            f"the run in {workdir} began with an earlier clipjax, which did not note its model; "
            "that its weights and tokenizer are still the same is taken for granted."
        )
    before, place = _read(path)
    if changed := differences(before, identity):
        where = f"{origin}" if place == str(origin) else f"{origin} (then {place})"
        raise CheckpointError(
            f"the {what} in {where} is not the one that the run in {workdir} was made with "
            f"(changed: {changed}); put its files back, or start the run anew in another --workdir."
        )
    return ""


def check_one_model(one: pathlib.Path, other: pathlib.Path) -> None:
    """Raise CheckpointError for two runs of different models, as far as they recorded theirs."""
    if not ((one / RECORD).exists() and (other / RECORD).exists()):
        return
    if changed := differences(_read(one / RECORD)[0], _read(other / RECORD)[0]):
        both = f"the runs in {one} and {other} were made with different models"
        raise CheckpointError(f"{both} (changed: {changed}); remove the wrong one and start again.")


def _read(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    """Return a record's identity, and where the model lay."""
    try:
        record = dict(json.loads(path.read_text()))
        return record, str(record.pop("from"))
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(
            f"{path}, the record of a run's model, is damaged; start anew in another --workdir."
        ) from None
