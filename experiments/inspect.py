"""`python -m experiments.inspect ...` is `clipjax inspect ...`, which needs no installation."""

from clipjax.commands.cli import start

if __name__ == "__main__":
    start("inspect")
