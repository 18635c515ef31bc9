"""`python -m experiments.choose ...` is `clipjax choose ...`, which needs no installation."""

from clipjax.commands.cli import start

if __name__ == "__main__":
    start("choose")
