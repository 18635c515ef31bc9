"""Reads a config file, and says in one sentence what is wrong with it or with an option."""

import ast
import inspect
import os
import pathlib
import re
import runpy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_dict, config_flags
from ml_collections.config_dict import RequiredValueError

from clipjax import configs
from clipjax.errors import ConfigError
from clipjax.study import entry_fields
from clipjax.study.config import kind_of, parse
from clipjax.study.fields import check_names, dotted, meant, no_such, short

SHIPPED = pathlib.Path(configs.__path__[0]).resolve()  # the folder of those of clipjax
# What ml_collections says where a value is of another type than the field's.
_MISFIT = re.compile(
    r"Could not override field '(\w+)' .*?\)\. (.*) is of original type <class '([\w.]+)'> "
    r"and cannot be casted to type <class '([\w.]+)'>"
)


def define_config(argv: list[str]) -> None:
    """Define the option --config and, as `argv` has them, those of its fields."""
    told = "A config that comes with clipjax, by name, or a file; `:key=value,flag` after it."
    # Set before ml_collections reads the file: its own parser calls `get_config` in its way alone.
    config_flags.DEFINE_config_file("config", None, told, sys_argv=argv)
    flags.FLAGS["config"].parser = Files(_fields(argv))


class Files(flags.ArgumentParser):
    """Reads the file as `load_config` does; in place of ml_collections' own parser."""

    def __init__(self, given: Sequence[str] = ()):
        self.given = given

    def parse(self, path: str) -> ConfigDict:
        return load_config(path, self.given).lock()


def shipped_configs() -> dict[str, pathlib.Path]:
    """Return the configs that come with clipjax: "dann", ..., then "recipes/flyp", ..."""
    files = [*sorted(SHIPPED.glob("[!_]*.py")), *sorted(SHIPPED.glob("recipes/[!_]*.py"))]
    found = {file.relative_to(SHIPPED).with_suffix("").as_posix(): file for file in files}
    del found["common"]
    return found


def find_config(name: str) -> str:
    """Return the file of a config: one that comes with clipjax, by name, or a path."""
    shipped = shipped_configs()
    if os.path.isfile(name):
        return name
    if name in shipped:
        return str(shipped[name])
    known = ", ".join(shipped)
    hint = meant(pathlib.Path(name).stem, shipped)
    raise ConfigError(f"there is no config {name}; give a file, or one of {known}.{hint}")


def load_config(path: str, given: Sequence[str] = ()) -> ConfigDict:
    """Call a file's `get_config`; `path` may go on with `:argument`.

    Of the fields `given`, those that a method may have get their usual values where it lacks them.
    """
    name, _, argument = path.partition(":")
    file = find_config(name)
    try:
        made = runpy.run_path(file).get("get_config")
        if not callable(made):
            raise ConfigError(f"{name} has no function get_config; let one return the config.")
        config = made(*_arguments(made, name, argument))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_sentence(error, name, file)) from error
    if isinstance(config, FrozenConfigDict):
        config = ConfigDict(config)
    if not isinstance(config, ConfigDict):
        found = "None" if config is None else f"a {type(config).__name__}"
        wanted = "no ml_collections.ConfigDict, as of clipjax.configs.common.study()"
        raise ConfigError(f"get_config of {name} returns {found}, {wanted}; return one.")
    with config.unlocked():
        for field in given:
            _add_usual(config, field)
    return config


def _add_usual(config: ConfigDict, field: str) -> None:
    """Put a field of a method that may have it, as "methods.dann.optim.lr", where it is missing."""
    block, _, rest = field.partition(".")
    name, _, own = rest.partition(".")
    if block != "methods" or block not in config:
        return
    if name not in config.methods:
        if not own:  # a new one, given whole
            config.methods[name] = ConfigDict()
        return
    place = config.methods[name]
    if own in entry_fields.MAPPINGS and own not in place:
        place[own] = ConfigDict()
        return
    *outer, last = own.split(".")
    try:
        value = entry_fields.usual(config, place, own)
    except (AttributeError, KeyError):
        return  # `config_complaint` says so
    for key in outer:
        if key not in place:
            place[key] = ConfigDict()
        place = place[key]
    if last not in place:
        place[last] = config_dict.placeholder(object) if value is entry_fields.OPEN else value


def fields_of(path: str) -> list[str]:
    """Return the dotted names of a config's fields."""
    return list(dotted(as_mapping(load_config(path))))


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


def _sentence(error: Exception, name: str, file: str) -> str:
    """Return the fault and its line as a sentence; the file was asked for by this name."""
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, SyntaxError):
        where = error.filename or name  # or that of a file it imports
        return (
            f"{where}{f', line {error.lineno}' if error.lineno else ''}: {error.msg}; correct it."
        )
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f.lineno for f in reversed(frames) if f.filename == file), None)
    ours = pathlib.Path(frames[-1].filename).resolve().is_relative_to(SHIPPED)
    if isinstance(error, ValueError) and (ours or not line):  # a wrong word after the colon
        return f"{name}: {text}"
    at = f"{name}, line {line}" if line else name
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


def _options(options: Sequence[str]) -> list[str]:
    """Return the options that change fields, without their beginning: optim.lr=1."""
    of_config = re.compile("-+(no)?config[.]")
    return [of_config.sub("", option) for option in options if of_config.match(option)]


def _fields(options: Sequence[str]) -> list[str]:
    """Return the fields that options change: `--config.optim.lr=1` is optim.lr."""
    return [option.partition("=")[0] for option in _options(options)]


def _blocks(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all mappings in a config, which may be given whole."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield prefix + key
            yield from _blocks(value, f"{prefix}{key}.")


def _is_dict(text: str) -> bool:
    """Return whether a text is a dict as Python writes it."""
    try:
        return isinstance(ast.literal_eval(text), dict)
    except (SyntaxError, ValueError):
        return False


def config_complaint(options: Sequence[str]) -> str:
    """Return a sentence on options that the config named by the first cannot take; "" if none.

    Ask before flags are defined: ml_collections parses the command line as it defines them, and
    answers an unknown field with a bare AttributeError, three exceptions deep.
    """
    path, given = options[0].partition("=")[2], _fields(options)
    name = path.partition(":")[0]
    try:
        config = as_mapping(load_config(path, given))
        if "experiment" not in config:
            return f"{name} has no experiment; give the run a name in config.experiment."
        check_names(kind_of(config), config, where=name)
    except ConfigError as error:
        return str(error)
    try:
        if not given:  # options may still change it
            parse(config)
    except ConfigError as error:
        return f"{name}: {error}"
    names = list(dotted(config))
    # A key that is no Python name stands in brackets: data.mixture['icon-mono']; so does an index.
    plain = [re.sub(r"\[\d+\]", "", re.sub(r"\[['\"](.+?)['\"]\]", r".\1", w)) for w in given]
    if unquoted := [name for name in given if "-" in name and "[" not in name and name in names]:
        outer, _, key = unquoted[0].rpartition(".")
        return f"write --config.{outer}['{key}'], in quotes: {key!r} is no Python name."
    blocks = list(_blocks(config))
    for field, option in zip(plain, _options(options), strict=True):
        text = option.partition("=")[2]
        if field in blocks and not _is_dict(text):
            return f"{field} is {short(text)}; give a dict, as in {field}='{{\"key\": 1}}'."
        if field in blocks and (inner := [one for one in plain if one.startswith(f"{field}.")]):
            return f"{field} is given whole and {inner[0]} beside it; write that into the dict."
    if not (unknown := [field for field in plain if field not in (*names, *blocks)]):
        return ""
    possible = (
        f"methods.{method}.{own}"
        for method, its in config.get("methods", {}).items()
        if "loss" in its  # a segmentation run's decoders have their fields in the config
        for own in entry_fields.possible(its["loss"])
    )
    return str(no_such(unknown, dict.fromkeys([*names, *possible]), name))
