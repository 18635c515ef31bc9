"""`python -m experiments.suite ...` is `clipjax suite ...`, which needs no installation."""

from clipjax.commands.cli import start

if __name__ == "__main__":
    start("suite")
