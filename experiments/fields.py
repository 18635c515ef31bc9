"""Whether a config has the fields that its experiment reads, each of the right kind.

A `ConfigDict` takes a field that nobody reads without a word; a misspelt one would be ignored.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from clipjax.errors import ConfigError
from experiments.values import is_whole

# Blocks whose fields the config chooses; what reads them says what it takes.
_FREE = ("methods", "data.mixture", "augment", "arch.vision", "arch.text")
_ALIKE = 0.8  # of difflib's ratio: surely misspelt
_LONGEST = 80  # characters of a value that a sentence repeats


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every field of a config as a dotted name."""
    names = []
    for key in config:
        value = value_of(config, key)
        nested = isinstance(value, ConfigDict)
        names += field_names(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return names


def value_of(config: ConfigDict, key: str) -> Any:
    """A field's value; None where it is a placeholder that nobody has filled."""
    try:
        return config[key]
    except RequiredValueError:
        return None


def nearest(name: str, names: Sequence[str]) -> str:
    """The field that was probably meant: spelt alike, of the same last word, its initials; or "".

    >>> names = ["model", "data.source", "optim.lr", "optim.weight_decay"]
    >>> [nearest(n, names) for n in ("lr", "optim.learning_rate", "optm", "data.sorce", "x")]
    ['optim.lr', 'optim.lr', 'optim', 'data.source', '']
    """
    blocks = [n[:at] for n in names for at, letter in enumerate(n) if letter == "."]
    known = list(dict.fromkeys([*names, *blocks]))
    block, _, last = name.rpartition(".")
    ends = {n: n.rpartition(".")[2] for n in known}
    siblings = {end: n for n, end in ends.items() if n.rpartition(".")[0] == block}
    if found := difflib.get_close_matches(last, siblings, 1, _ALIKE):
        return siblings[found[0]]
    initials = "".join(word[:1] for word in last.split("_")) if "_" in last else last
    for wanted in (last, initials):
        if found := [n for n, end in ends.items() if end == wanted]:
            return min(found, key=lambda n: n.rpartition(".")[0] != block)
    if found := difflib.get_close_matches(last, siblings, 1):
        return siblings[found[0]]
    return next(iter(difflib.get_close_matches(name, known, 1)), "")


def meant(unknown: Sequence[str], names: Sequence[str]) -> str:
    """ " Did you mean ...?" with the nearest of `names` to each unknown one; "" if none is near."""
    near = list(dict.fromkeys(filter(None, (nearest(name, names) for name in unknown))))
    return f" Did you mean {' and '.join(near)}?" if near else ""


def check_known(where: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuses names that are not known.

    Raises:
      ConfigError: these names, those that are known, and which was probably meant.
    """
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(
            f"{where} has {', '.join(unknown)}, which it cannot have; it can have "
            f"{', '.join(known)}.{meant(unknown, known)}"
        )


def options_of(function: Callable) -> tuple[str, ...]:
    """The names of a function's keyword-only parameters."""
    taken = inspect.signature(function).parameters.values()
    return tuple(p.name for p in taken if p.kind is inspect.Parameter.KEYWORD_ONLY)


def check_fields(config: Any, where: str = "the config", *, filled: bool = True) -> None:
    """Refuses fields that no experiment of its kind reads, lacking ones, and values of other kinds.

    Args:
      config: what a `get_config` returned.
      where: it comes from, for the error.
      filled: whether None is refused too; a placeholder may still be filled by the command line.

    Raises:
      ConfigError: the fields.
    """
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"{where} is {_short(config)}, no ml_collections.ConfigDict; start from "
            "configs.common.study(), change its fields and return it."
        )
    like, start = _model_of(config)
    known = field_names(like)
    if unknown := list(_unknown(config, like)):
        hint = meant(unknown, known)
        raise ConfigError(
            f"{where} has no field {', '.join(unknown)}; its fields: {', '.join(known)}.{hint}"
        )
    if "experiment" not in config:
        raise ConfigError(
            f"{where} has no experiment; give the run a name: config.experiment = 'mine'."
        )
    if lacking := list(_lacking(config, like)):
        raise ConfigError(
            f"{where} lacks {', '.join(lacking)}; start from {start}, which has every field, and "
            "change what you need."
        )
    for name, value, usual in _pairs(config, like):
        if (kind := _other_kind(value, usual)) and (filled or value is not None):
            raise ConfigError(f"{where}: {name} is {_short(value)}; give {kind}.")
    if filled and not config.experiment:
        raise ConfigError(f"{where}: experiment is ''; give the run a name.")


def _is_pretraining(config: ConfigDict) -> bool:
    return "experiment" in config and value_of(config, "experiment") == "pretrain"


def _model_of(config: ConfigDict) -> tuple[ConfigDict, str]:
    """A config with all fields of this one's kind, and the call that makes it."""
    from configs import common, pretrain

    if _is_pretraining(config):
        return pretrain.get_config(), "configs.pretrain.get_config()"
    like = common.study()
    like.experiment = "study"
    return like, "configs.common.study()"


def _unknown(config: ConfigDict, like: ConfigDict) -> Iterator[str]:
    """Fields, or whole blocks, that `like` does not have."""
    free = (*_FREE, "optim") if _is_pretraining(config) else _FREE

    def inside(here: ConfigDict, there: ConfigDict, prefix: str) -> Iterator[str]:
        for key in here:
            name, value = f"{prefix}{key}", value_of(here, key)
            if key not in there:
                yield name
            elif isinstance(value, ConfigDict) and isinstance(there[key], ConfigDict):
                if name not in free:
                    yield from inside(value, there[key], f"{name}.")

    return inside(config, like, "")


def _lacking(config: ConfigDict, like: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Fields, or whole blocks, that only `like` has."""
    for key in like:
        if key not in config:
            yield f"{prefix}{key}"
        elif isinstance(like[key], ConfigDict) and isinstance(value_of(config, key), ConfigDict):
            if f"{prefix}{key}" not in _FREE:
                yield from _lacking(config[key], like[key], f"{prefix}{key}.")


def _pairs(
    config: ConfigDict, like: ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, our value) of every field and block that both have."""
    for key in like:
        if key in config:
            value = value_of(config, key)
            yield f"{prefix}{key}", value, like[key]
            if isinstance(value, ConfigDict) and isinstance(like[key], ConfigDict):
                yield from _pairs(value, like[key], f"{prefix}{key}.")


def _other_kind(value: Any, usual: Any) -> str:
    """What to give instead of a value that is of another kind than ours; "" where it is not."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        ConfigDict: isinstance(value, ConfigDict),
        bool: isinstance(value, bool),
        int: is_whole(value),
        float: number,
        str: isinstance(value, str),
        tuple: isinstance(value, (tuple, list)),
    }
    return "" if fits[type(usual)] else wanted(type(usual).__name__, value)


def wanted(kind: str, value: Any) -> str:
    """What to give for a field of the kind `kind`, by the name of its type, instead of a value."""
    example = "() for none" if value is None else f"as in ({_short(value)},)"
    words = {
        "ConfigDict": "a dict of its fields",
        "bool": "True or False",
        "int": "a whole number",
        "float": "a number",
        "str": "a text" if value is None else f"a text, as in {_short(str(value))}",
        "tuple": f"a tuple, {example}",
    }
    return words[kind]


def _short(value: Any) -> str:
    """A value in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
