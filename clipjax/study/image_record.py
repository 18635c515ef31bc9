"""Ties a workdir to its images: a run goes on with those that it began with."""

import hashlib
import json
import pathlib

from clipjax.errors import DataError
from clipjax.io import write_json
from clipjax.study.encode import Encoded
from clipjax.train.distributed import processes


def check_same_images(workdir: pathlib.Path, encoded: Encoded) -> None:
    """Refuse a run that goes on with other images than those it began with."""
    found = {
        "/".join(part): hashlib.sha256(repr(encoded.source(*part)).encode()).hexdigest()[:16]
        for part in encoded.parts
    }
    processes.agree("set of images", found)
    record = workdir / "images.json"

    def kept() -> dict[str, str]:
        if not record.exists():
            write_json(record, found)
        return json.loads(record.read_text())

    before = processes.from_first(kept)
    if changed := sorted(k for k in before.keys() | found.keys() if before.get(k) != found.get(k)):
        those = f"the images of {', '.join(changed)} are not those that the run in {workdir}"
        raise DataError(f"{those} began with; start it anew in another --workdir.")
