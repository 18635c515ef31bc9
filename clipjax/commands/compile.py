"""A train step compiled for a TPU that is not there: does it fit, and how fast could it be?

clipjax compile --topology=v5e:16x16 --model=vit_l14
clipjax compile vpd_driving --topology=v5e:1x1 --batch_size=2

Needs no TPU and no weights, only its compiler: pip install "clipjax[aot]".
"""

import pathlib

from absl import flags

from clipjax.commands.configfile import as_mapping
from clipjax.errors import ConfigError
from clipjax.runtime.cli import say, user_errors

WORD, CONFIG = "config", "dann_two_stage"
MODELS = ["vit_b32", "vit_b16", "vit_l14", "vit_h14"]  # of the table


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_string("topology", "v5e:2x4", "TPU slice, generation:shape of chips.")
    flags.DEFINE_string("model", "", "Sizes of the encoder, by name; default vit_b16, or sd15.")
    flags.DEFINE_string("method", "", "Of the config; default its last.")
    flags.DEFINE_string("phase", "", "Of the method; default its last.")
    flags.DEFINE_integer(
        "batch_size", 0, "Images a domain and step; 0: 64 a chip, or 1 crop in each microbatch."
    )
    flags.DEFINE_integer("classes", 19, "Of a segmentation, whose data is not opened.")
    flags.DEFINE_integer("fsdp", 0, "Devices that share a parameter; 0: config.mesh.fsdp.")
    flags.DEFINE_bool("fast", False, "Optimise less, sooner: bytes are upper estimates.")
    flags.DEFINE_bool("largest_batch", True, "Look for the largest batch that fits.")
    flags.DEFINE_bool("markdown", False, "Print a row of docs/scaling.md instead.")
    flags.DEFINE_string("table", "", "Write the table of all models x topologies into a page.")
    flags.DEFINE_list("models", "", f"Of the table; default {','.join(MODELS)}, or sd15.")
    flags.DEFINE_list("topologies", "v5e:1x1,v5e:2x4,v5e:16x16", "Of the table.")
    flags.DEFINE_string("rows", "runs/scaling", "Where the table's finished rows are kept.")


def main() -> None:
    """Compile what the flags name and print what the compiler says."""
    with user_errors():
        from clipjax.study import Segmentation, Study, parse

        given = flags.FLAGS
        study = parse(as_mapping(given.config))
        if not isinstance(study, (Study, Segmentation)):
            raise ConfigError("pretraining has no step to compile; give the config of a study.")
        dense = isinstance(study, Segmentation)
        model = given.model or ("sd15" if dense else "vit_b16")
        models = given.models or (["sd15"] if dense else MODELS)
        from clipjax.aot.topology import open_topology

        # Refuses before anything else starts, and keeps JAX off TPUs.
        open_topology(given.topology)
        from clipjax.aot import report
        from clipjax.aot.ask import Question, ask, largest_batch

        if (
            given["largest_batch"].present
            and given.largest_batch
            and (given.markdown or given.table)
        ):
            raise ConfigError("--largest_batch has no place in the table; drop one of the flags.")
        names = "method", "phase", "batch_size", "fsdp", "fast", "classes"
        rest = [given[key].value for key in names]
        if given.table:
            questions = [Question(m, t, *rest) for m in models for t in given.topologies]
            page, rows = pathlib.Path(given.table), pathlib.Path(given.rows)
            report.write_table(study, questions, page, rows, say)
            return
        answer = ask(study, Question(model, given.topology, *rest), say)
        for line in [report.row(answer)] if given.markdown else report.describe(answer):
            say(line)
        if given.largest_batch and not given.markdown:
            say(largest_batch(study, answer, say))
