"""The command line: `python -m experiments.main --config=configs/dann.py [--workdir=...]`."""

from __future__ import annotations

from absl import app, flags
from ml_collections import config_flags

from experiments.cli import explained, refuse_bad_config

if __name__ == "__main__":
    refuse_bad_config()  # before the flags are defined

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/dann.py", "Experiment: a file of configs/, `:key=value,flag` after it."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    "",
    "Where the run's files go, also gs://...; default runs/<experiment>-<hash of the config>.",
)


def main(argv: list[str]) -> None:
    """Runs the experiment the config names."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected words {argv[1:]}; options start with --.")
    from clipjax.paths import as_path
    from experiments import run  # jax is imported only once the flags are known to be right

    with explained():
        run.run(_CONFIG.value, as_path(_WORKDIR.value) if _WORKDIR.value else None)


if __name__ == "__main__":
    app.run(main)
