"""`python -m experiments.export ...` is `clipjax export ...`, which needs no installation."""

from clipjax.commands.cli import start

if __name__ == "__main__":
    start("export")
