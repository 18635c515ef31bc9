"""The command line: `python -m experiments.main --config=configs/dann.py [--workdir=...]`."""

from __future__ import annotations

from absl import app, flags

from experiments.cli import explained, refuse_bad_config
from experiments.configfile import define_config

if __name__ == "__main__":
    refuse_bad_config()  # before the flags are defined

_CONFIG = define_config(
    "configs/dann.py", "Experiment: a file of configs/, `:key=value,flag` after it."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "Several processes: host:port of process 0; see docs/parallel.md."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "Several processes: how many; 1: one.")
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", -1, "Several processes: number of this one, from 0."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    "",
    "Where the run's files go, also gs://...; default runs/<experiment>-<hash of the config>.",
)


def main(argv: list[str]) -> None:
    """Runs the experiment the config names."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected words {argv[1:]}; options start with --.")
    from clipjax.paths import as_path
    from clipjax.train import processes  # jax is imported only once the flags are known to be right
    from experiments import run
    from experiments.fields import check_fields
    from experiments.heap import keep_memory
    from experiments.machine import trains_on_pixels

    with explained():
        check_fields(_CONFIG.value)
        keep_memory(one_arena=trains_on_pixels(_CONFIG.value))
        processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        run.run(_CONFIG.value, as_path(_WORKDIR.value) if _WORKDIR.value else None)


if __name__ == "__main__":
    app.run(main)
