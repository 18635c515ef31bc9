"""`python -m experiments.main ...` is `clipjax run ...`, which needs no installation."""

from clipjax.commands.cli import start

if __name__ == "__main__":
    start("run")
