"""Prints a finished run's results, and writes results.md and report.html again.

clipjax report runs/dann-1234abcd
"""

from absl import flags

from clipjax.runtime.cli import say, user_errors

WORD, CONFIG = "workdir", ""


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_string("workdir", None, "A finished run.", required=True)


def main() -> None:
    """Report the run that the flags name."""
    with user_errors():
        from clipjax.evaluate import terminal
        from clipjax.io import as_path
        from clipjax.study.again import write_again

        workdir = as_path(flags.FLAGS.workdir)
        found, files = write_again(workdir)
        say(terminal.show(found, workdir))
        say(f"results: {', '.join(map(str, files))}")
