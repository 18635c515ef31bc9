"""A run's workdir: claimed for one config, resumed by the same command, refused to another."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib

from clipjax.errors import ConfigError
from clipjax.log import write_atomically
from clipjax.paths import check_reachable, is_remote, local_only
from clipjax.train import processes
from experiments.claim import claimed
from experiments.fields import check_fields

# How a run is computed, not what: another run of the same workdir may have other values.
_HOW = ("parallel", "mesh", "profile")
_FILES = ("config.json", "images.json", "metrics.jsonl", "evidence.json", "report.html")
_FILES += ("results.json", "results.md")
_FOLDERS = ("checkpoints", "events", "export", "profile")


def config_text(config) -> str:
    """The config as sorted JSON: its identity."""
    return json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True) + "\n"


def run_name(workdir: pathlib.Path) -> str:
    """What the checkpoints of the run in `workdir` are signed with; "" where no run claimed it."""
    record = workdir / "config.json"
    return _name(record.read_text()) if record.exists() else ""


def name_of(config) -> str:
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
    from clipjax.train import stored

    if not folder.is_dir():
        return
    if there := stored.steps_in(folder):
        place = folder / str(there[-1])
        stored.check_run(place, stored.read_meta(place), name)
    for inner in folder.iterdir():
        if inner.is_dir() and not stored.is_step(inner.name):
            check_checkpoints(inner, name)


def find_workdir(workdir: pathlib.Path | None, config) -> pathlib.Path:
    """The workdir given, or runs/<experiment>-<hash of the config>.

    Raises:
      ConfigError: it holds a run of another config; the fields that differ are named. Or it cannot
        be reached, or not be written to by what the config asks for.
    """
    text = config_text(config)
    if workdir is None:
        workdir = pathlib.Path("runs") / _name(text)
    check_reachable(workdir)
    if config.get("tensorboard"):
        local_only(workdir, "TensorBoard's events")
    if config.experiment == "pretrain":
        local_only(workdir, "a pretraining run")
    _check_ways(workdir)
    record = workdir / "config.json"
    if not record.exists():
        return workdir
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
    if shown := _differences(before, text, _HOW):
        raise ConfigError(
            f"{workdir} holds a run of another config ({shown}); choose another --workdir."
        )
    return workdir


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


def _differences(one: str, other: str, aside: tuple[str, ...] = ()) -> str:
    """The first fields in which two config texts differ, some aside; "" if none."""
    before, now = _flat(json.loads(one)), _flat(json.loads(other))
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    changed = [k for k in changed if k.partition(".")[0] not in aside]
    return ", ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in changed[:5])


def claim_workdir(workdir: pathlib.Path, config) -> None:
    """Makes the workdir this config's. Only a config that passed its checks gets this far."""
    if processes.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / "config.json", config_text(config))


def _flat(data, prefix: str = "") -> dict[str, object]:
    if not isinstance(data, dict):
        return {prefix[:-1]: data}
    return {k: v for key, inner in data.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}


def run(config, workdir: pathlib.Path | None) -> None:
    """Runs the experiment that `config.experiment` names, or says that it is finished.

    Of several processes the first prints and writes; the workdir lies where all can read it.

    Raises:
      ConfigError: processes were started with different configs, another run is at work in the
        workdir, and whatever cannot run.
    """
    check_fields(config)
    processes.agree("config", config_text(config), _differences)
    workdir = processes.from_first(lambda: find_workdir(workdir, config))
    say = (lambda line: print(line, flush=True)) if processes.is_first() else (lambda line: None)
    if _is_finished(workdir, say):
        return
    with contextlib.ExitStack() as held:
        processes.from_first(lambda: held.enter_context(claimed(workdir)))
        processes.from_first(lambda: _look_again(workdir, config))
        if not _is_finished(workdir, say):
            _run(config, workdir, say)


def _look_again(workdir: pathlib.Path, config) -> None:
    """Looks at a workdir as another run may have left it, and whether its files can be written."""
    find_workdir(workdir, config)
    there = () if is_remote(workdir) else (workdir / name for name in (*_FILES, *_FOLDERS))
    for path in there:
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"{path} cannot be written (no permission); allow it.")


def _is_finished(workdir: pathlib.Path, say) -> bool:
    """Whether a run has its results; they are said."""
    from clipjax.evaluate import report

    if not (results := processes.from_first(lambda: report.read(workdir))):
        return False
    say(report.table(results))
    say(f"this run is finished: {workdir / 'results.json'}; use another --workdir to repeat it.")
    return True


def _run(config, workdir: pathlib.Path, say) -> None:
    """Checks everything, then makes the workdir this config's and works in it."""
    check_checkpoints(workdir / "checkpoints", name_of(config))
    if config.experiment == "pretrain":
        from experiments import pretrain

        plan = processes.together(lambda: pretrain.prepare(config))
        claim_workdir(workdir, config)
        pretrain.run(config, plan, workdir, say)
    else:
        from experiments import study
        from experiments.plan import prepare

        plan = processes.together(lambda: prepare(config))
        claim_workdir(workdir, config)
        study.run(config, plan, workdir, say)
