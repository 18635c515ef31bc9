"""`python -m experiments.compile ...` is `clipjax compile ...`, which needs no installation."""

from clipjax.commands.cli import start

if __name__ == "__main__":
    start("compile")
