"""`python -m experiments.report ...` is `clipjax report ...`, which needs no installation."""

from clipjax.commands.cli import start

if __name__ == "__main__":
    start("report")
