"""Trains and compares what a config names, zero-shot first: `clipjax run dann`.

clipjax run dann root=/path/to/images source=photo target=sketch model=openai/clip-vit-base-patch32
clipjax run dann epochs=20 methods.dann.lam_max=0.5 --workdir=runs/mine
clipjax run ./my_config.py
"""

from absl import flags

from clipjax.commands.configfile import as_mapping
from clipjax.runtime.cli import say, user_errors

WORD, CONFIG = "config", "dann"


def define_flags() -> None:
    """The command line."""
    told = "For the run's files, also gs://...; default runs/<experiment>-<hash of config>."
    flags.DEFINE_string("workdir", "", told)
    # Of several processes; see docs/parallel.md.
    flags.DEFINE_string("coordinator", "", "Of several processes: host:port of process 0.")
    flags.DEFINE_integer("num_processes", 0, "How many processes; 1: one.")
    flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.")


def main() -> None:
    """Run the experiment that the config names."""
    with user_errors():
        # JAX is imported only once the flags are known to be right.
        from clipjax.runtime.malloc import keep_memory
        from clipjax.study import parse, run
        from clipjax.study.towers import trains_on_pixels
        from clipjax.study.workdir import default_workdir
        from clipjax.train.distributed import processes

        given = flags.FLAGS
        config = parse(as_mapping(given.config))
        keep_memory(one_arena=trains_on_pixels(config))
        processes.start(given.coordinator, given.num_processes, given.process_id)
        run(config, given.workdir or default_workdir(config), say)
