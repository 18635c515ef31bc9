"""A run's workdir: claimed for one config, resumed by the same command, refused to another."""

from __future__ import annotations

import hashlib
import json
import pathlib

from clipjax.errors import ConfigError
from clipjax.log import write_atomically


def config_text(config) -> str:
    """The config as sorted JSON: its identity."""
    return json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True) + "\n"


def find_workdir(workdir: pathlib.Path | None, config) -> pathlib.Path:
    """The workdir given, or runs/<experiment>-<hash of the config>.

    Raises:
      ConfigError: it holds a run of another config; the fields that differ are named.
    """
    text = config_text(config)
    if workdir is None:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        workdir = pathlib.Path("runs") / f"{config.experiment}-{digest}"
    record = workdir / "config.json"
    if record.exists():
        before, now = _flat(json.loads(record.read_text())), _flat(json.loads(text))
        changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
        if changed:
            shown = ", ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in changed[:5])
            raise ConfigError(
                f"{workdir} holds a run of another config ({shown}); choose another --workdir."
            )
    return workdir


def claim_workdir(workdir: pathlib.Path, config) -> None:
    """Makes the workdir this config's. Only a config that passed its checks gets this far."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "config.json", config_text(config))


def _flat(data, prefix: str = "") -> dict[str, object]:
    if not isinstance(data, dict):
        return {prefix[:-1]: data}
    return {k: v for key, inner in data.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}


def run(config, workdir: pathlib.Path | None) -> None:
    """Runs the experiment that `config.experiment` names, or says that it is finished."""
    from clipjax.evaluate import report

    workdir = find_workdir(workdir, config)
    say = lambda line: print(line, flush=True)  # noqa: E731
    if results := report.read(workdir):
        say(report.table(results))
        say(
            f"this run is finished: {workdir / 'results.json'}; use another --workdir to repeat it."
        )
        return
    if config.experiment == "pretrain":
        from experiments import pretrain

        plan = pretrain.prepare(config)
        claim_workdir(workdir, config)
        pretrain.run(config, plan, workdir, say)
    else:
        from experiments import study
        from experiments.plan import prepare

        plan = prepare(config)
        claim_workdir(workdir, config)
        study.run(config, plan, workdir, say)
