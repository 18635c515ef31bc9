"""The command line: `python -m experiments.main --config=configs/dann.py [--workdir=...]`."""

from absl import app, flags

from clipjax.runtime.cli import no_words, say, user_errors
from experiments.configfile import as_mapping, define_config, refuse_bad_config

if __name__ == "__main__":
    refuse_bad_config()  # before the flags are defined

_CONFIG = define_config("configs/dann.py", "A file of configs/, `:key=value,flag` after it.")
# Of several processes; see docs/parallel.md.
_COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes; 1: one.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "For the run's files, also gs://...; default runs/<experiment>-<hash of config>."
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
