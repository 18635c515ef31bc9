"""A finished run's model out: `python -m experiments.export --workdir=runs/dann-... --out=adapted`.

Writes a directory that `transformers.CLIPModel.from_pretrained` and `clipjax.load_adapted` open.
"""

from absl import app, flags

from clipjax.io import as_path, local_only
from clipjax.runtime.cli import no_words, user_errors

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory to write; must not exist.", required=True)
_METHOD = flags.DEFINE_string("method", "", "Default the last trained, of a sweep its best.")
_SEED = flags.DEFINE_integer("seed", None, "Default the best on the source's validation split.")


def main(argv: list[str]) -> None:
    """Export what the flags name."""
    no_words(argv)
    with user_errors():
        from clipjax.study.export import export

        out = local_only(_OUT.value, "the exported model")
        export(as_path(_WORKDIR.value), out, _METHOD.value, _SEED.value)


if __name__ == "__main__":
    app.run(main)
