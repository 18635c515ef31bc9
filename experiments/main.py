"""The command line: `python -m experiments.main --config=configs/dann.py [--workdir=...]`."""

from __future__ import annotations

from absl import app, flags

from clipjax.runtime.cli import no_words, say, user_errors
from experiments.configfile import as_mapping, define_config, refuse_bad_config

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
    """Run the experiment that the config names."""
    no_words(argv)
    with user_errors():
        # JAX is imported only once the flags are known to be right.
        from clipjax.runtime.malloc import keep_memory
        from clipjax.study import parse, run
        from clipjax.study.methods import trains_on_pixels
        from clipjax.study.workdir import default_workdir
        from clipjax.train.distributed import processes

        config = parse(as_mapping(_CONFIG.value))
        keep_memory(one_arena=trains_on_pixels(config))
        processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        run(config, _WORKDIR.value or default_workdir(config), say)


if __name__ == "__main__":
    app.run(main)
