"""Reads a config file, and says in one sentence what is wrong with it or with an option."""

import inspect
import os
import pathlib
import re
import runpy
import sys
import traceback
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_dict import RequiredValueError

from clipjax.errors import ConfigError

# What ml_collections says where a value is of another type than the field's.
_MISFIT = re.compile(
    r"Could not override field '(\w+)' .*?\)\. (.*) is of original type <class '([\w.]+)'> "
    r"and cannot be casted to type <class '([\w.]+)'>"
)


def define_config(default: str, help: str) -> flags.FlagHolder:
    """Define the flag --config, whose files may have a `get_config` without an argument."""
    holder = config_flags.DEFINE_config_file("config", default, help)
    flags.FLAGS["config"].parser = _Files()
    return holder


class _Files(flags.ArgumentParser):
    """Reads the file as `load_config` does; in place of ml_collections' own parser."""

    def parse(self, path: str) -> ConfigDict:
        return load_config(path).lock()


def load_config(path: str) -> ConfigDict:
    """Call a file's `get_config`; `path` may go on with `:argument`."""
    file, _, argument = path.partition(":")
    if not os.path.isfile(file):
        raise ConfigError(f"there is no config file {file}; configs/ holds those of clipjax.")
    try:
        made = runpy.run_path(file).get("get_config")
        if not callable(made):
            raise ConfigError(f"{file} has no function get_config; let one return the config.")
        config = made(*_arguments(made, file, argument))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_sentence(error, file)) from error
    if isinstance(config, FrozenConfigDict):
        config = ConfigDict(config)
    if not isinstance(config, ConfigDict):
        found = "None" if config is None else f"a {type(config).__name__}"
        wanted = "no ml_collections.ConfigDict, as of configs.common.study()"
        raise ConfigError(f"get_config of {file} returns {found}, {wanted}; return one.")
    return config


def _arguments(get_config: Any, file: str, argument: str) -> tuple[str, ...]:
    """Return the arguments of `get_config`: what follows the colon, "" where it needs one."""
    parameter = inspect.Parameter
    kinds = (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    takes = [p for p in inspect.signature(get_config).parameters.values() if p.kind in kinds]
    if argument and not takes:
        where = f"get_config of {file} takes no argument"
        raise ConfigError(f"{where}, and {argument!r} follows the file's name; leave it out.")
    needed = any(p.kind in kinds[:2] and p.default is parameter.empty for p in takes)
    return (argument,) if argument or needed else ()


def _sentence(error: Exception, file: str) -> str:
    """Return the fault and its line as a sentence."""
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, SyntaxError):
        where = error.filename or file  # or that of a file it imports
        return (
            f"{where}{f', line {error.lineno}' if error.lineno else ''}: {error.msg}; correct it."
        )
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f.lineno for f in reversed(frames) if f.filename == file), None)
    configs = pathlib.Path(__file__).parent.parent / "configs"
    ours = pathlib.Path(frames[-1].filename).resolve().parent == configs
    if isinstance(error, ValueError) and (ours or not line):  # a wrong word after the colon
        return f"{file}: {text}"
    at = f"{file}, line {line}" if line else file
    if told := _MISFIT.search(text):
        field, shown, given, kind = told.groups()
        value = repr(shown) if given == "str" else shown
        words = {
            "ConfigDict": "a dict of its fields",
            "bool": "True or False",
            "int": "a whole number",
            "float": "a number",
            "str": f"a text, as in {shown!r}",
            "tuple": f"a tuple, as in ({value},)",
        }
        return f"{at}: {field} is {value}; give {words[kind.rpartition('.')[2]]}."
    if isinstance(error, (AttributeError, KeyError)):  # ml_collections quotes twice
        text = text.replace("\\n", " ").replace("\\'", "").strip("'")
    return f"{at}: {type(error).__name__}: {text.rstrip('.')}; correct the file."


def as_mapping(config: ConfigDict) -> dict[str, Any]:
    """Return the config as a plain nested mapping; an unfilled placeholder is None."""
    found = {}
    for key in config:
        try:
            found[key] = _opened(config[key])
        except RequiredValueError:
            found[key] = None
    return found


def _opened(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_opened, value))
    return as_mapping(value) if isinstance(value, ConfigDict) else value


def config_complaint(argv: list[str], default: str = "configs/dann.py") -> str:
    """Return a sentence on options that the config, or `default`, cannot take; "" if none."""
    words: dict[str, str] = {}
    for word, after in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-"):
            words[name] = value if equals else after
    if words and words.keys() <= {"help", "helpshort", "helpfull"}:
        return ""
    from clipjax.study.config import kind_of, parse  # what help alone need not wait for
    from clipjax.study.fields import check_names, dotted, no_such

    path = words.get("config", default)
    file = path.partition(":")[0]
    given = [w.removeprefix("config.") for w in words if w.startswith("config.")]
    try:
        config = as_mapping(load_config(path))
        if "experiment" not in config:
            return f"{file} has no experiment; give the run a name in config.experiment."
        check_names(kind_of(config), config, where=file)
    except ConfigError as error:
        return str(error)
    try:
        if not given:  # options may still change it
            parse(config)
    except ConfigError as error:
        return f"{file}: {error}"
    names = list(dotted(config))
    # A key that is no Python name stands in brackets: data.mixture['icon-mono']; so does an index.
    plain = [re.sub(r"\[\d+\]", "", re.sub(r"\[['\"](.+?)['\"]\]", r".\1", w)) for w in given]
    if unquoted := [name for name in given if "-" in name and "[" not in name and name in names]:
        outer, _, key = unquoted[0].rpartition(".")
        return f"write --config.{outer}['{key}'], in quotes: {key!r} is no Python name."
    unknown = [name for name in plain if name not in names]
    return str(no_such(unknown, names, file)) if unknown else ""


def refuse_bad_config(default: str = "configs/dann.py") -> None:
    """End the process with one sentence where the config cannot take an option.

    Call this before flags are defined: ml_collections parses the command line as it defines them,
    and answers an unknown field with a bare AttributeError, three exceptions deep.
    """
    if complaint := config_complaint(sys.argv[1:], default):
        print(f"clipjax: {complaint}", file=sys.stderr)
        sys.exit(1)
