"""Which label-free rule to trust: `clipjax choose runs/uda`.

Reads the finished runs in and below a folder and compares the rules that choose a method: how well
each ranks the methods, and what it would have won. Prints the table, writes it to choosing.md in
that folder and, with --page=docs/choosing.md, between the marks of that page. Nothing is trained.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from clipjax.runtime.cli import say, user_errors

WORD, CONFIG = "workdir", ""
PATTERNS = ("results.json", "*/results.json", "*/*/results.json")


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_string("workdir", "runs/uda", "Folder of finished runs.")
    told = "The methods to choose among; by default all. Ensembles stay those of all."
    flags.DEFINE_list("methods", [], told)
    flags.DEFINE_string("page", "", "A page with marks to write the table between, too.")


def compare(
    workdir: pathlib.Path, page: pathlib.Path | None = None, methods: Sequence[str] = ()
) -> str:
    """Return the table of a folder's runs as Markdown, and write it; DataError: there is none.

    With `methods`, of a choice among these alone and zero-shot; ConfigError: a run lacks one.
    """
    from clipjax.errors import ConfigError, DataError
    from clipjax.evaluate import judged, results
    from clipjax.io import write_atomically

    places = sorted({path.parent for pattern in PATTERNS for path in workdir.glob(pattern)})
    runs = [run for place in places if "choice" in (run := results.read(place))]
    runs = list(filter(judged.measured, runs))
    if not runs:
        there = f"{workdir} has {len(places)} finished runs and none that compares methods on a"
        there += " target with labels"
        raise DataError(f"{there}; `clipjax run dann` into a folder below it first.")
    try:
        made = judged.markdown([judged.among(run, methods) for run in runs] if methods else runs)
    except ValueError as error:
        raise ConfigError(f"--methods: {error}") from None
    if page is not None:
        try:
            text = judged.filled(page.read_text(), made)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--page={page} cannot be filled: {error}.") from None
        write_atomically(page, text)
    write_atomically(workdir / "choosing.md", made + "\n")
    return made


def main() -> None:
    """Compare the runs that the flags name."""
    with user_errors():
        from clipjax.io import as_path

        given = flags.FLAGS
        page = pathlib.Path(given.page) if given.page else None
        say(compare(as_path(given.workdir), page, given.methods))
