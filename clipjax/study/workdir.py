"""A run's workdir: claimed for one config, resumed by the same command, refused to another."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

from clipjax.errors import ConfigError
from clipjax.io import check_reachable, is_remote, local_only, write_atomically
from clipjax.study.config import Pretraining, Study
from clipjax.study.fields import flat
from clipjax.train.distributed import processes

# How a run is computed, not what: another run of the same workdir may have other values.
_HOW = ("parallel", "mesh", "profile")
_FILES = ("config.json", "images.json", "metrics.jsonl", "evidence.json", "report.html")
_FILES += ("results.json", "results.md")
_FOLDERS = ("checkpoints", "events", "export", "profile")


def config_text(config: Study | Pretraining) -> str:
    """The config as sorted JSON: its identity."""
    return json.dumps(flat(config), indent=2, sort_keys=True) + "\n"


def run_name(workdir: pathlib.Path) -> str:
    """What the checkpoints of the run in `workdir` are signed with; "" where no run claimed it."""
    record = workdir / "config.json"
    return _name(record.read_text()) if record.exists() else ""


def name_of(config: Study | Pretraining) -> str:
    """A run's name: its experiment and eight letters for its config; the same everywhere."""
    return _name(config_text(config))


def _name(text: str) -> str:
    what = {k: v for k, v in json.loads(text).items() if k not in _HOW}
    identity = json.dumps(what, indent=2, sort_keys=True) + "\n"
    return f"{what['experiment']}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def check_checkpoints(folder: pathlib.Path, name: str) -> None:
    """Refuses checkpoints that were brought from another run, before anything is computed.

    Raises:
      CheckpointError: the newest checkpoint of a folder in `folder` is of another run.
    """
    from clipjax.train import restore as stored

    if not folder.is_dir():
        return
    if there := stored.steps_in(folder):
        stored.read_meta(folder / str(there[-1]), name)
    for inner in folder.iterdir():
        if inner.is_dir() and not stored.is_step(inner.name):
            check_checkpoints(inner, name)


def default_workdir(config: Study | Pretraining) -> pathlib.Path:
    """runs/<experiment>-<hash of the config>."""
    return pathlib.Path("runs") / name_of(config)


def check_workdir(workdir: pathlib.Path, config: Study | Pretraining) -> None:
    """Refuses a workdir that cannot be this config's.

    Raises:
      ConfigError: it holds a run of another config; the fields that differ are named. Or it cannot
        be reached, or not be written to by what the config asks for.
    """
    check_reachable(workdir)
    if isinstance(config, Study) and config.training.tensorboard:
        local_only(workdir, "TensorBoard's events")
    if isinstance(config, Pretraining):
        local_only(workdir, "a pretraining run")
    _check_ways(workdir)
    record = workdir / "config.json"
    if not record.exists():
        return
    try:
        before = record.read_text()
        damage = "" if isinstance(json.loads(before), dict) else "it holds no fields"
    except ValueError as error:
        damage = str(error)
    if damage:
        raise ConfigError(
            f"{record} is damaged ({damage}); choose another --workdir, or remove that file and "
            "the checkpoints beside it."
        )
    if shown := differences(before, config_text(config), _HOW):
        raise ConfigError(
            f"{workdir} holds a run of another config ({shown}); choose another --workdir."
        )


def _check_ways(workdir: pathlib.Path) -> None:
    """Refuses a workdir where a folder has the name of one of a run's files, or the other way."""
    if is_remote(workdir):  # objects do not stand in each other's way
        return
    for name in _FILES:
        if (workdir / name).is_dir():
            raise ConfigError(
                f"{workdir / name} is a folder, and a run writes a file there; choose another "
                "--workdir."
            )
    for name in _FOLDERS:
        if (workdir / name).exists() and not (workdir / name).is_dir():
            raise ConfigError(
                f"{workdir / name} is a file, and a run makes a folder there; choose another "
                "--workdir."
            )


def check_files(workdir: pathlib.Path) -> None:
    """Refuses a workdir with files that cannot be written.

    Raises:
      ConfigError: the file.
    """
    there = () if is_remote(workdir) else (workdir / name for name in (*_FILES, *_FOLDERS))
    for path in there:
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"{path} cannot be written (no permission); allow it.")


def differences(one: str, other: str, aside: tuple[str, ...] = ()) -> str:
    """The first fields in which two config texts differ, some aside; "" if none."""
    before, now = _dotted(json.loads(one)), _dotted(json.loads(other))
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    changed = [k for k in changed if k.partition(".")[0] not in aside]
    return ", ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in changed[:5])


def claim_workdir(workdir: pathlib.Path, config: Study | Pretraining) -> None:
    """Makes the workdir this config's. Only a config that passed its checks gets this far."""
    if processes.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / "config.json", config_text(config))


def _dotted(data, prefix: str = "") -> dict[str, object]:
    if not isinstance(data, dict):
        return {prefix[:-1]: data}
    return {
        k: v for key, inner in data.items() for k, v in _dotted(inner, f"{prefix}{key}.").items()
    }
