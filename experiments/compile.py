"""A train step compiled for a TPU that is not there: does it fit, and how fast could it be?

python -m experiments.compile --topology=v5e:16x16 --model=vit_l14

Needs no TPU and no weights, only its compiler: pip install -e ".[aot]" in a checkout.
"""

import pathlib

from absl import app, flags

from clipjax.errors import ConfigError
from clipjax.runtime.cli import no_words, say, user_errors
from experiments.configfile import as_mapping, define_config, refuse_bad_config

if __name__ == "__main__":
    refuse_bad_config("configs/dann_two_stage.py")  # before the flags are defined

_CONFIG = define_config("configs/dann_two_stage.py", "A file of configs/, `:key=value` after it.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "TPU slice, generation:shape of chips.")
_MODEL = flags.DEFINE_string("model", "vit_b16", "Sizes of the encoder, by name.")
_METHOD = flags.DEFINE_string("method", "", "Of the config; default its last.")
_PHASE = flags.DEFINE_string("phase", "", "Of the method; default its last.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Images a domain and step; 0: 64 a chip.")
_FSDP = flags.DEFINE_integer("fsdp", 0, "Devices that share a parameter; 0: config.mesh.fsdp.")
_FAST = flags.DEFINE_bool("fast", False, "Optimise less, sooner: bytes are upper estimates.")
_LARGEST = flags.DEFINE_bool("largest_batch", True, "Look for the largest batch that fits.")
_MARKDOWN = flags.DEFINE_bool("markdown", False, "Print a row of docs/scaling.md instead.")
_TABLE = flags.DEFINE_string("table", "", "Write the table of all models x topologies into a page.")
_MODELS = flags.DEFINE_list("models", "vit_b32,vit_b16,vit_l14,vit_h14", "Of the table.")
_TOPOLOGIES = flags.DEFINE_list("topologies", "v5e:1x1,v5e:2x4,v5e:16x16", "Of the table.")
_ROWS = flags.DEFINE_string("rows", "runs/scaling", "Where the table's finished rows are kept.")


def main(argv: list[str]) -> None:
    """Compile what the flags name and print what the compiler says."""
    no_words(argv)
    with user_errors():
        from clipjax.study import Study, parse

        study = parse(as_mapping(_CONFIG.value))
        if not isinstance(study, Study):
            raise ConfigError("pretraining has no step to compile; give the config of a study.")
        from clipjax.aot.topology import open_topology

        # Refuses before anything else starts, and keeps JAX off TPUs.
        open_topology(_TOPOLOGY.value)
        from clipjax.aot import report
        from clipjax.aot.ask import Question, ask, largest_batch

        if _LARGEST.present and _LARGEST.value and (_MARKDOWN.value or _TABLE.value):
            raise ConfigError("--largest_batch has no place in the table; drop one of the flags.")
        rest = [each.value for each in (_METHOD, _PHASE, _BATCH_SIZE, _FSDP, _FAST)]
        if _TABLE.value:
            questions = [Question(m, t, *rest) for m in _MODELS.value for t in _TOPOLOGIES.value]
            page, rows = pathlib.Path(_TABLE.value), pathlib.Path(_ROWS.value)
            report.write_table(study, questions, page, rows, say)
            return
        answer = ask(study, Question(_MODEL.value, _TOPOLOGY.value, *rest), say)
        for line in [report.row(answer)] if _MARKDOWN.value else report.describe(answer):
            say(line)
        if _LARGEST.value and not _MARKDOWN.value:
            say(largest_batch(study, answer, say))


if __name__ == "__main__":
    app.run(main)
