"""The command line: `python -m experiments.main --config=configs/dann.py [--workdir=...]`."""

from __future__ import annotations

import pathlib
import re
import runpy
import sys

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments.cli import explained


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every field of a config as a dotted name."""
    names = []
    for key, value in config.items():
        nested = isinstance(value, ConfigDict)
        names += field_names(value, f"{prefix}{key}.") if nested else [prefix + key]
    return names


def config_complaint(argv: list[str]) -> str:
    """A sentence on what the command line asks of its config in vain; "" if nothing."""
    words: dict[str, str] = {}
    for word, after in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-"):
            words[name] = value if equals else after
    file, _, arg = words.get("config", "configs/dann.py").partition(":")
    if not pathlib.Path(file).is_file():
        return f"there is no config file {file}; configs/ holds those that come with clipjax."
    try:
        names = field_names(runpy.run_path(file)["get_config"](arg or None))
    except ValueError as error:
        return f"{file}: {error}"
    given = [w.removeprefix("config.") for w in words if w.startswith("config.")]
    # A key that is no Python name stands in brackets: data.mixture['icon-mono']; so does an index.
    plain = [re.sub(r"\[\d+\]", "", re.sub(r"\[['\"](.+?)['\"]\]", r".\1", w)) for w in given]
    if unquoted := [name for name in given if "-" in name and "[" not in name and name in names]:
        outer, _, key = unquoted[0].rpartition(".")
        return f"write --config.{outer}['{key}'], in quotes: {key!r} is no Python name."
    if unknown := [name for name in plain if name not in names]:
        return f"{file} has no field {', '.join(unknown)}; its fields: {', '.join(names)}."
    return ""


# Said here, before the flags are defined: ml_collections parses the command line as it defines
# them, and answers an unknown field with a bare AttributeError, three exceptions deep.
if __name__ == "__main__" and (complaint := config_complaint(sys.argv[1:])):
    print(f"clipjax: {complaint}", file=sys.stderr)
    sys.exit(1)

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/dann.py", "Experiment: a file of configs/, `:key=value,flag` after it."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where the run's files go; default runs/<experiment>-<hash of the config>."
)


def main(argv: list[str]) -> None:
    """Runs the experiment the config names."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected words {argv[1:]}; options start with --.")
    from experiments import run  # jax is imported only once the flags are known to be right

    with explained():
        run.run(_CONFIG.value, pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None)


if __name__ == "__main__":
    app.run(main)
