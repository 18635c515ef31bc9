"""Ties a workdir to its images and class names: a run goes on with those that it began with."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

from clipjax.data.dataset import digest
from clipjax.data.masks import MaskSource
from clipjax.errors import ConfigError, DataError
from clipjax.io import as_path, write_json
from clipjax.io.texts import some
from clipjax.model.prompts import named_in
from clipjax.study.config import Study
from clipjax.study.defaults import is_demo
from clipjax.study.encode import Encoded, encode
from clipjax.study.plan import prepare
from clipjax.study.prepared import Opened, read_record
from clipjax.train.distributed import processes

NAMES = "class names"  # as prompts say them, in the record; parts are "domain/split"


def check_same_images(workdir: pathlib.Path, encoded: Encoded) -> None:
    """Refuse a run that goes on with other images, or class names, than those it began with."""
    found = {"/".join(part): _short(encoded.source(*part)) for part in encoded.parts}
    found[NAMES] = digest(["\n".join(encoded.plan.class_names)])
    before = _begun_with(workdir, found)
    if before.pop(NAMES, None) != found.pop(NAMES):
        file = encoded.study.encoder.class_names or "the data"
        told = f"what prompts call the classes, by {file}, is not what the run in {workdir}"
        raise ConfigError(f"{told} began with; put it back, or start anew in another --workdir.")
    _check_same(workdir, before, found, "images")


def check_finished_images(
    workdir: pathlib.Path, study: Study, opened: Opened, say: Callable[[str], None]
) -> None:
    """Refuse a finished run for other images, opened, than it was of: its config does not tell."""
    record = workdir / "images.json"
    if opened.dataset is None or study.data.root or is_demo(study.data):
        return
    before = processes.from_first(lambda: json.loads(record.read_text()) if record.exists() else {})
    plan = prepare(study, training=False, opened=opened)
    parts = {key: key.rpartition("/")[::2] for key in before.keys() - {NAMES}}
    there = all(domain in plan.dataset.domains for domain, _ in parts.values())
    if there and all(_short(plan.dataset.source(*p)) == before[k] for k, p in parts.items()):
        return
    check_same_images(workdir, encode(plan, say))  # which leaves out what cannot be read


def check_same_masks(workdir: pathlib.Path, sources: Mapping[str, MaskSource]) -> None:
    """Refuse a run that goes on with other images, masks or classes than those it began with.

    Sources have the names by which they are told.
    """
    found = {name: _short(source) for name, source in sources.items()}
    _check_same(workdir, _begun_with(workdir, found), found, "images, masks or classes")


def _short(source: object) -> str:
    return hashlib.sha256(repr(source).encode()).hexdigest()[:16]


def _begun_with(workdir: pathlib.Path, found: Mapping[str, str]) -> dict[str, str]:
    """Return the record of a workdir, which a run that begins writes."""
    processes.agree("set of images", found)
    record = workdir / "images.json"

    def kept() -> dict[str, str]:
        if not record.exists():
            write_json(record, found)
        return json.loads(record.read_text())

    return processes.from_first(kept)


def _check_same(
    workdir: pathlib.Path, before: Mapping[str, str], found: Mapping[str, str], what: str
) -> None:
    if changed := sorted(k for k in before.keys() | found.keys() if before.get(k) != found.get(k)):
        those = f"the {what} of {', '.join(changed)} are not those that the run in {workdir}"
        raise DataError(f"{those} began with; start it anew in another --workdir.")


def check_finished_names(workdir: pathlib.Path, study: Study) -> None:
    """Raise ConfigError if a finished run's file of class names says other names by now."""
    file, record = study.encoder.class_names, read_record(workdir)
    if not (file and record and as_path(file).exists()):
        return
    now = named_in(file)
    pairs = zip(record.classes, record.class_names, strict=True)
    if changed := [name for name, called in pairs if now.get(name, called) != called]:
        told = f"class_names file {file} calls {some(changed, 3)} otherwise than when the run"
        fault = f"{told} in {workdir} was made"
        raise ConfigError(f"{fault}; put it back, or start anew in another --workdir.")
