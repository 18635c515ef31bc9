"""A run's workdir: claimed for one config, resumed by the same command, refused to another."""

import hashlib
import json
import os
import pathlib

from clipjax.errors import ConfigError
from clipjax.io import check_reachable, is_remote, local_only, write_atomically
from clipjax.study.config import Config, Pretraining, Study
from clipjax.study.fields import dotted, flat
from clipjax.train import restore
from clipjax.train.distributed import processes

# How a run is computed, not what: another run of the same workdir may have other values.
_HOW = ("parallel", "mesh", "profile", "track")
_FILES = ("config.json", "images.json", "metrics.jsonl", "evidence.json", "report.html")
_FILES += ("results.json", "results.md", "predictions.csv")
_FILES += ("segmentation.json", "segmentation.md", "segmentation.html")
_FOLDERS = ("answers", "checkpoints", "events", "export", "profile", "rows")


def config_text(config: Config) -> str:
    """Return the config as sorted JSON: its identity."""
    return _text(flat(config))


def _text(data: dict) -> str:
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def run_name(workdir: pathlib.Path) -> str:
    """Return what a run's checkpoints are signed with; "" where no run claimed the workdir."""
    record = workdir / "config.json"
    return _name(record.read_text()) if record.exists() else ""


def name_of(config: Config) -> str:
    """Return a run's name: its experiment and eight letters for its config."""
    return _name(config_text(config))


def _name(text: str) -> str:
    what = {k: v for k, v in json.loads(text).items() if k not in _HOW}
    return f"{what['experiment']}-{hashlib.sha256(_text(what).encode()).hexdigest()[:8]}"


def default_workdir(config: Config) -> pathlib.Path:
    """Return runs/<experiment>-<hash of the config>."""
    return pathlib.Path("runs") / name_of(config)


def check_checkpoints(folder: pathlib.Path, name: str) -> None:
    """Raise CheckpointError if the newest checkpoint of a folder below is another run's."""
    if not folder.is_dir():
        return
    if there := restore.steps_in(folder):
        restore.read_meta(folder / str(there[-1]), name)
    for inner in folder.iterdir():
        if inner.is_dir() and not restore.is_step(inner.name):
            check_checkpoints(inner, name)


def check_workdir(workdir: pathlib.Path, config: Config) -> None:
    """Raise ConfigError for a workdir that cannot be written or holds another config's run."""
    check_reachable(workdir)
    if isinstance(config, Pretraining):
        local_only(workdir, "a pretraining run")
    elif isinstance(config, Study) and config.training.track:
        local_only(workdir, f"what track={config.training.track} writes")
    if not is_remote(workdir):  # objects do not stand in each other's way
        _check_kinds(workdir)
    record = workdir / "config.json"
    if not record.exists():
        return
    try:
        before = record.read_text()
        damage = "" if isinstance(json.loads(before), dict) else "it holds no fields"
    except ValueError as error:
        damage = str(error)
    if damage:
        raise ConfigError(f"{record} is damaged ({damage}); choose another --workdir.")
    if shown := differences(before, config_text(config), _HOW):
        what = f"{workdir} holds a run of another config ({shown})"
        raise ConfigError(f"{what}; choose another --workdir.")


def _check_kinds(workdir: pathlib.Path) -> None:
    """Raise ConfigError for a folder with the name of one of a run's files, or the other way."""
    for name in (*_FILES, *_FOLDERS):
        path, file = workdir / name, name in _FILES
        if path.exists() and path.is_dir() == file:
            there, wanted = ("folder", "writes a file") if file else ("file", "makes a folder")
            raise ConfigError(f"{path} is a {there}, and a run {wanted}; choose another --workdir.")


def check_files(workdir: pathlib.Path) -> None:
    """Raise ConfigError for files in a workdir that cannot be written."""
    there = () if is_remote(workdir) else (workdir / name for name in (*_FILES, *_FOLDERS))
    for path in there:
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"{path} cannot be written (no permission); allow it.")


def differences(one: str, other: str, aside: tuple[str, ...] = ()) -> str:
    """Return the first fields in which two config texts differ, some aside; "" if none."""
    before, now = (dotted(json.loads(text)) for text in (one, other))
    fields = [k for k in sorted(before | now) if k.partition(".")[0] not in aside]
    changed = [k for k in fields if before.get(k) != now.get(k)]
    return ", ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in changed[:5])


def claim_workdir(workdir: pathlib.Path, config: Config) -> None:
    """Make the workdir this config's, once it passed its checks."""
    if processes.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / "config.json", config_text(config))
