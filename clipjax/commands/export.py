"""A finished run's model out: `clipjax export runs/dann-... --out=adapted`.

Writes a directory that `transformers.CLIPModel.from_pretrained` and `clipjax.load_adapted` open.
"""

from absl import flags

from clipjax.io import as_path, local_only
from clipjax.runtime.cli import user_errors

WORD, CONFIG = "workdir", ""


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_string("workdir", None, "A finished run.", required=True)
    flags.DEFINE_string("out", None, "Directory to write; must not exist.", required=True)
    flags.DEFINE_string("method", "", "Default the last trained, of a sweep its best.")
    flags.DEFINE_integer("seed", None, "Default the best on the source's validation split.")


def main() -> None:
    """Export what the flags name."""
    with user_errors():
        from clipjax.study.export import export

        given = flags.FLAGS
        out = local_only(given.out, "the exported model")
        export(as_path(given.workdir), out, given.method, given.seed)
