"""Show what a run would see: `python -m experiments.inspect --config=configs/dann.py`.

Counts images, classes, duplicates and unreadable files, and shows some images. Prints it in
short; --out gets inspect.html with all of it, and a contact sheet (PNG) of each domain. Nothing is
trained. Exit code 0 if a run would start, 1 with the reason if not.
"""

import pathlib

from absl import app, flags

from clipjax.runtime.cli import no_words, user_errors
from experiments.configfile import as_mapping, define_config, refuse_bad_config

if __name__ == "__main__":
    refuse_bad_config()  # before the flags are defined

_CONFIG = define_config("configs/dann.py", "Experiment whose data to look at.")
_OUT = flags.DEFINE_string("out", "", "Where files go; default runs/inspect-<hash of the config>.")
_DECODE = flags.DEFINE_string(
    "decode",
    "",
    "all, none, or how many of each domain; default all of up to 20000, else 2000.",
)
_DUPLICATES = flags.DEFINE_bool("duplicates", True, "Read every file to find equal images.")
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn at random.")


def main(argv: list[str]) -> None:
    """Look at what the flags name."""
    no_words(argv)
    with user_errors():
        from clipjax.errors import DataError
        from clipjax.inspect.survey import Options, inspect
        from clipjax.io import local_only
        from clipjax.study import parse
        from clipjax.study.workdir import name_of

        config = parse(as_mapping(_CONFIG.value))
        out = pathlib.Path("runs") / f"inspect-{name_of(config)}"
        if _OUT.value:
            out = local_only(_OUT.value, "what inspect writes")
        options = Options(_DECODE.value, _DUPLICATES.value, _SEED.value)
        if refusals := inspect(config, out, options):
            raise DataError(refusals[0])


if __name__ == "__main__":
    app.run(main)
