"""Shows what a run would see: `clipjax inspect dann root=/path/to/images`.

Counts images, classes, duplicates and unreadable files, and shows some images. Prints it in
short; --out gets inspect.html with all of it, and a contact sheet (PNG) of each domain. Of images
with masks (`clipjax inspect domino`): shares of classes, sizes, masks that do not fit. Nothing is
trained. Exit code 0 if a run would start, 1 with the reason if not.
"""

import pathlib

from absl import flags

from clipjax.commands.configfile import as_mapping
from clipjax.runtime.cli import user_errors

WORD, CONFIG = "config", "dann"


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_string("out", "", "Where files go; default runs/inspect-<hash of the config>.")
    told = "all, none, or how many of each domain; default all of up to 20000, else 2000."
    flags.DEFINE_string("decode", "", told)
    flags.DEFINE_bool("duplicates", True, "Read every file to find equal images.")
    flags.DEFINE_integer("seed", 0, "Of what is drawn at random.")


def main() -> None:
    """Look at what the flags name."""
    with user_errors():
        from clipjax.errors import DataError
        from clipjax.inspect.masks import inspect_masks
        from clipjax.inspect.survey import Options, inspect
        from clipjax.io import local_only
        from clipjax.study import Segmentation, parse
        from clipjax.study.workdir import name_of

        given = flags.FLAGS
        config = parse(as_mapping(given.config))
        out = pathlib.Path("runs") / f"inspect-{name_of(config)}"
        if given.out:
            out = local_only(given.out, "what inspect writes")
        options = Options(given.decode, given.duplicates, given.seed)
        look = inspect_masks if isinstance(config, Segmentation) else inspect
        if refusals := look(config, out, options):
            raise DataError(refusals[0])
