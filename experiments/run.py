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


def claim_workdir(workdir: pathlib.Path | None, config) -> pathlib.Path:
    """Makes the workdir, or checks that it belongs to this very config.

    Raises:
      ConfigError: the workdir holds a run of another config; the differing fields are named.
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
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(record, text)
    return workdir


def _flat(data, prefix: str = "") -> dict[str, object]:
    if not isinstance(data, dict):
        return {prefix[:-1]: data}
    return {k: v for key, inner in data.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}


def run(config, workdir: pathlib.Path | None) -> None:
    """Runs the experiment that `config.experiment` names, or says that it is finished."""
    from absl import logging

    from clipjax.evaluate import report

    logging.set_verbosity(logging.WARNING)  # orbax reports every file it touches
    workdir = claim_workdir(workdir, config)
    say = lambda line: print(line, flush=True)  # noqa: E731
    if results := report.read(workdir):
        say(report.table(results))
        say(
            f"this run is finished: {workdir / 'results.json'}; use another --workdir to repeat it."
        )
        return
    if config.experiment == "pretrain":
        from experiments import pretrain

        pretrain.run(config, workdir, say)
    else:
        from experiments import study

        study.run(config, workdir, say)
