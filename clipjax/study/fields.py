"""Typed settings: dataclass fields that say what they take, read from plain nested mappings.

A setting's name in an error is its name on the command line: `optim.lr`, `methods.dann.optim.lr`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from clipjax.errors import ConfigError

_ALIKE = 0.8  # of difflib's ratio: surely misspelt
_LONGEST = 80  # characters of a value that an error repeats


def field(
    default: Any,
    meaning: str,
    *,
    known: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    give: str = "",
    check: Callable[[Any], str] | None = None,
) -> Any:
    """A dataclass field that knows what it means and which values it takes.

    Args:
      default: its value where none is given.
      meaning: one line for people.
      known: the texts there are, where these are a closed list.
      low: the least number.
      high: the largest number.
      give: what to give, in words, where the type and the range do not say it.
      check: value of the right type -> what is wrong with it as the end of a sentence, or "".
    """
    rule = dict(meaning=meaning, known=known, low=low, high=high, give=give, check=check)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=rule)
    return dataclasses.field(default=default, metadata=rule)


def block(cls: type, meaning: str = "", *, inline: bool = False) -> Any:
    """A dataclass field that is a dataclass; `inline`: its fields stand beside it in a mapping."""
    return dataclasses.field(default_factory=cls, metadata={"meaning": meaning, "inline": inline})


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether this is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A value on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def plain(value: Any, name: str = "") -> Any:
    """A value with dicts for mappings, tuples for lists and Python's numbers for NumPy's.

    Raises:
      ConfigError: what a config cannot hold; `name` is the field's.
    """
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            at = f"{name} has" if name else "the config has"
            raise ConfigError(f"{at} the key {short(strange[0])}; names of fields are texts.")
        return {k: plain(inner, f"{name}.{k}".lstrip(".")) for k, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(plain(inner, name) for inner in value)
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(
        f"{name or 'the config'} has {short(value)}; give a text, a number, True, False, None, a "
        "tuple or a dict."
    )


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


def meant(unknown: str, names: Iterable[str]) -> str:
    """ " Did you mean ...?" with the nearest of some names; "" if none is near."""
    near = nearest(unknown, list(names))
    return f" Did you mean {near}?" if near else ""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Field -> its type."""
    return typing.get_type_hints(cls)


def _entries(cls: type) -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """(name, type, field) of all entries of a mapping for this class, inline blocks opened."""
    for each in dataclasses.fields(cls):
        if each.metadata.get("inline"):
            yield from _entries(_hints(cls)[each.name])
        else:
            yield each.name, _hints(cls)[each.name], each


def names(cls: type, prefix: str = "") -> list[str]:
    """Every field as a dotted name."""
    found = []
    for name, hint, _ in _entries(cls):
        inner = dataclasses.is_dataclass(hint)
        found += names(hint, f"{prefix}{name}.") if inner else [prefix + name]
    return found


def check_names(
    cls: type, given: Mapping[str, Any], prefix: str = "", where: str = "the config"
) -> None:
    """Refuses fields that there are not, at any depth; `where` is what has them, for the error.

    Raises:
      ConfigError: these fields, those there are, and which was probably meant.
    """
    if unknown := list(_unknown(cls, given, prefix)):
        known = names(cls, prefix)
        raise ConfigError(
            f"{where} has no field {', '.join(unknown)}; its fields: {', '.join(known)}."
            f"{meant(unknown[0], known)}"
        )


def _unknown(cls: type, given: Mapping[str, Any], prefix: str) -> Iterator[str]:
    known = {name: hint for name, hint, _ in _entries(cls)}
    for key, value in given.items():
        if key not in known:
            yield f"{prefix}{key}"
        elif dataclasses.is_dataclass(known[key]) and isinstance(value, Mapping):
            yield from _unknown(known[key], value, f"{prefix}{key}.")


def read(cls: type, given: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance of a dataclass from a mapping; fields that are not in it keep their defaults.

    Args:
      cls: made of `field` and `block`. Where it has a method `problem`, that returns what is wrong
        with its fields together, or "".
      given: plain values; the names are checked (`check_names`).
      prefix: of the names of fields in errors.

    Raises:
      ConfigError: the field, its value and what is allowed.
    """
    values, known = {}, {name: (hint, each) for name, hint, each in _entries(cls)}
    for each in dataclasses.fields(cls):
        hint = _hints(cls)[each.name]
        if each.metadata.get("inline"):
            mine = {name for name, *_ in _entries(hint)}
            some = {key: value for key, value in given.items() if key in mine}
            values[each.name] = read(hint, some, prefix)
        elif each.name in given:
            hint, rule = known[each.name]
            values[each.name] = _value(hint, given[each.name], f"{prefix}{each.name}", rule)
    made = cls(**values)
    if wrong := getattr(made, "problem", lambda: "")():
        raise ConfigError(f"{prefix}{wrong}")
    return made


def _value(hint: Any, value: Any, name: str, each: dataclasses.Field) -> Any:
    """A field's value, checked."""
    rule = each.metadata
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {short(value)}; give a dict of its fields.")
        return read(hint, value, f"{name}.")
    known, low, high = rule["known"], rule["low"], rule["high"]
    if known and value not in known:
        near = meant(str(value), known)
        raise ConfigError(f"{name} is {short(value)}; known: {', '.join(known)}.{near}")
    fits = any(_fits(kind, value) for kind in _kinds(hint))
    within = fits and (low is None or value >= low) and (high is None or value <= high)
    if not within:
        raise ConfigError(f"{name} is {short(value)}; give {rule['give'] or _wanted(hint, rule)}.")
    if rule["check"] and (wrong := rule["check"](value)):
        raise ConfigError(f"{name} is {short(value)}; {wrong}.")
    return value


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a kind."""
    origin = typing.get_origin(kind) or kind
    if origin is tuple:
        inner = [k for k in typing.get_args(kind) if k is not ...]
        every = lambda x: not inner or _fits(inner[0], x)
        return isinstance(value, tuple) and all(map(every, value))
    tests = {int: is_whole, float: is_number}
    return tests[origin](value) if origin in tests else isinstance(value, origin)


def _wanted(hint: Any, rule: Mapping[str, Any]) -> str:
    """What to give for a field, in words."""
    words = {
        bool: "True or False",
        int: "a whole number",
        float: "a finite number",
        str: "a text",
        tuple[str, ...]: "a tuple of texts, as in ('a', 'b')",
        tuple[int, ...]: "a tuple of whole numbers, as in (0, 1)",
        tuple[float, ...]: "a tuple of numbers, as in (0.6, 0.1, 0.3)",
    }
    found = " or ".join(words.get(kind, "a dict") for kind in _kinds(hint))
    if rule["high"] is not None:
        return f"{found}, {rule['low']} to {rule['high']}"
    return found if rule["low"] is None else f"{found}, at least {rule['low']}"


def flat(made: Any) -> dict[str, Any]:
    """The plain nested mapping that `read` makes this of; inline blocks opened.

    Raises:
      ConfigError: something else where a block is meant.
    """
    found: dict[str, Any] = {}
    for each in dataclasses.fields(made):
        value, hint = getattr(made, each.name), _hints(type(made))[each.name]
        if dataclasses.is_dataclass(hint) and not isinstance(value, hint):
            raise ConfigError(f"{each.name} is {short(value)}; give a {hint.__name__}.")
        if each.metadata.get("inline"):
            found |= flat(value)
        else:
            found[each.name] = (
                flat(value) if dataclasses.is_dataclass(hint) else plain(value, each.name)
            )
    return found
