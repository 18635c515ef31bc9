"""A run from its config: the study, or pretraining."""

from __future__ import annotations

import pathlib

from clipjax.study.spelled import spelled
from clipjax.study.workdir import (
    _differences,
    check_checkpoints,
    claim_workdir,
    config_text,
    find_workdir,
    name_of,
)
from clipjax.train.distributed import processes


def run(config, workdir: pathlib.Path | None) -> None:
    """Runs the experiment that `config.experiment` names, or says that it is finished.

    Of several processes the first prints and writes; the workdir lies where all can read it.

    Raises:
      ConfigError: processes were started with different configs, and whatever cannot run.
      CheckpointError: the workdir's run was made with another model than there is now.
    """
    from clipjax.evaluate import results as report
    from clipjax.study.model_record import check_finished

    config = spelled(config)
    processes.agree("config", config_text(config), _differences)
    workdir = processes.from_first(lambda: find_workdir(workdir, config))
    say = (lambda line: print(line, flush=True)) if processes.is_first() else (lambda line: None)
    if results := processes.from_first(lambda: report.read(workdir)):
        told = processes.from_first(lambda: check_finished(workdir, config))
        say(report.table(results))
        say(
            f"this run is finished: {workdir / 'results.json'}; use another --workdir to repeat it."
        )
        if told:
            say(f"note: {told}")
        return
    check_checkpoints(workdir / "checkpoints", name_of(config))
    if config.experiment == "pretrain":
        from clipjax.study import pretrain

        plan = processes.together(lambda: pretrain.prepare(config))
        claim_workdir(workdir, config)
        pretrain.run(config, plan, workdir, say)
    else:
        from clipjax.study import study
        from clipjax.study.plan import prepare

        plan = processes.together(lambda: prepare(config))
        claim_workdir(workdir, config)
        study.run(config, plan, workdir, say)
