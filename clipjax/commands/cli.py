"""The command line: `clipjax run dann epochs=20`; `python -m clipjax` and experiments/*.py, too.

A command is a module beside this one: `define_flags()`, `main()`, the option `WORD` that its first
word without dashes stands for ("" where it takes none) and `CONFIG`, its default config, or "".
"""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

from absl import app, flags

from clipjax.commands.configfile import config_complaint, define_config, fields_of
from clipjax.errors import ConfigError
from clipjax.study.config import Study
from clipjax.study.fields import dotted, flat, meant, nearest

COMMANDS = {
    "run": "train and compare what a config names",
    "inspect": "show what a run would see: counts, unreadable files, duplicates, contact sheets",
    "report": "print a finished run's results, and write its page again",
    "export": "write a finished run's model as a directory for transformers and for clipjax",
    "suite": "run the report's tables, or a study of many runs: all pairs, shares of the data",
    "choose": "compare the rules that choose a method without labels, over finished runs",
    "compile": "compile a train step for a TPU that is not there: memory, time",
}
HELP = {"-h", "--h", "-help", "--help", "--helpshort", "--helpfull", "-?"}
# Words that stand for a longer field; others are fields themselves.
SHORT = {"source": "data.source", "target": "data.target", "root": "data.root"}


def main() -> None:
    """Start the command that the first word names."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        start(words[0], words[1:])
        return
    known = "\n".join(f"  {name:9}{told}" for name, told in COMMANDS.items())
    if not words or words[0] in {*HELP, "help"}:
        with _piped():
            print(f"usage: clipjax COMMAND ...\n\n{known}\n")
            print("clipjax COMMAND --help has the options.")
        return
    if words[0] == "--version":
        from clipjax import __version__

        print(f"clipjax {__version__}")
        return
    sys.exit(f"clipjax: there is no command {words[0]}.{meant(words[0], COMMANDS)}\n{known}")


@contextlib.contextmanager
def _piped() -> Iterator[None]:
    """End quietly, with 141 as a shell says it, where whoever reads the output has left."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        sys.exit(141)


def start(command: str, words: Sequence[str] | None = None) -> None:
    """Run a command with these words, by default those that the process was started with."""
    with _piped():
        _start(command, words)


def _start(command: str, words: Sequence[str] | None) -> None:
    module = importlib.import_module(f"clipjax.commands.{command}")
    # A console script lacks it: configs import modules beside them, `loss` may name one. Last, so
    # that nothing there stands in for an installed package.
    sys.path.append(os.getcwd())
    module.define_flags()
    words = sys.argv[1:] if words is None else words
    try:
        if HELP & set(words):
            from clipjax.commands.help import command_help

            words = [word for word in words if word not in HELP]
            config = as_options(command, module, words)[0] if module.CONFIG else ""
            print(command_help(command, module, config.partition("=")[2]))
            return
        words = as_options(command, module, words)
        argv = [f"clipjax {command}", *words]
        if module.CONFIG:
            if complaint := config_complaint(words):
                raise ConfigError(complaint)
            define_config(argv)
    except ConfigError as error:
        sys.exit(f"clipjax: {error}")
    app.run(lambda _: module.main(), argv, _parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # absl's words of required ones.
        if missing := re.findall(r"flag --(\w+)=None", str(error)):
            needed = " and ".join(f"--{name}=..." for name in missing)
            told = f"{argv[0].replace(' ', ': ', 1)} needs {needed}"
            sys.exit(f"{told}; {argv[0]} --help has more.")
        sys.exit(f"clipjax: {error}")


def as_options(command: str, module: ModuleType, words: Sequence[str]) -> list[str]:
    """Return a command line as options alone, the config's file first.

    Raises:
      ConfigError: words that the command does not take, options that it lacks.
    """
    parts = _joined(words)
    bare = [part for part in parts if not part.startswith("-") and "=" not in part]
    first = [part for part in parts if _name(part) == module.WORD and part.startswith("-")]
    rest = [part for part in parts if part not in first and part not in bare]
    if bare and module.WORD and not first:
        first = [f"--{module.WORD}={bare.pop(0)}"]
    if not module.CONFIG:
        if wrong := bare + [part for part in rest if not part.startswith("-")]:
            raise ConfigError(f"{command}: unexpected word {wrong[0]!r}; options start with --.")
        return [*first, *(_known(command, part) for part in rest)]
    config = first[-1].partition("=")[2] if first else module.CONFIG
    if bare:  # `dann smoke` is `dann:smoke`
        config += ("," if ":" in config else ":") + ",".join(bare)
    return [f"--config={config}", *(_known(command, part, config) for part in rest)]


def _joined(words: Sequence[str]) -> list[str]:
    """Return the words, an option and the word that is its value as one."""
    switches = {name for name in flags.FLAGS if flags.FLAGS[name].boolean}
    switches |= {f"config.{k}" for k, v in dotted(flat(Study())).items() if isinstance(v, bool)}
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        alone = "=" in word or not rest or _name(word).removeprefix("no") in switches
        found.append(f"{word}={rest.pop(0)}" if word.startswith("-") and not alone else word)
    return found


def _name(option: str) -> str:
    return option.lstrip("-").partition("=")[0]


def _known(command: str, part: str, config: str = "") -> str:
    """Return an option, or FIELD=VALUE as one; ConfigError: there is none, naming the nearest."""
    name, equals, value = part.lstrip("-").partition("=")
    if not part.startswith("-"):
        if name in flags.FLAGS and name not in fields_of(config):
            raise ConfigError(f"{name} is an option of {command}: write --{part}.")
        return f"--config.{SHORT.get(name, name)}={value}"
    plain = name.removeprefix("no")
    if name in flags.FLAGS or plain in flags.FLAGS or (config and plain.startswith("config.")):
        return part
    there_is = f"{command} has no option --{name}"
    if config and (near := nearest(SHORT.get(name, name), fields_of(config))):
        raise ConfigError(f"{there_is}; the config's field is --config.{near}{equals}{value}.")
    near = nearest(name, sorted(flags.FLAGS))
    raise ConfigError(f"{there_is}.{f' Did you mean --{near}?' if near else ''}")
