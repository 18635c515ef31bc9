"""Typed settings: dataclass fields with rules, read from plain nested mappings.

Errors name a setting as the command line does: `optim.lr`, `methods.dann.optim.lr`.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from clipjax.errors import ConfigError

_ALIKE = 0.8  # ratio of difflib from which a name is certainly misspelt
_LONGEST = 80  # characters of a value that an error repeats
_hints = functools.cache(typing.get_type_hints)  # class -> {field: type}


def field(
    default: Any,
    told: str = "",
    *,
    known: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    fits: Callable[[Any], bool] = lambda value: True,
    give: str = "",
) -> Any:
    """Declare a dataclass field with rules for its values.

    Args:
      default: value where none is given.
      told: its meaning, in the words of `--help`.
      known: all values allowed, where they are a closed list of texts.
      low: smallest number.
      high: largest number.
      fits: whether a value of the right type and range is allowed.
      give: what to give, in words, where type and range do not say it.
    """
    rule = dict(told=told, known=known, low=low, high=high, fits=fits, give=give)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=rule)
    return dataclasses.field(default=default, metadata=rule)


def share_field(default: float, told: str) -> Any:
    """Declare a field of a share that is not 0."""
    fits = lambda value: 0 < value <= 1
    return field(default, told, fits=fits, give="a share above 0 and at most 1")


def inline(cls: type) -> Any:
    """Declare a field that is a dataclass whose own fields stand beside it in a mapping."""
    return dataclasses.field(default_factory=cls, metadata={"inline": True})


def is_number(value: Any) -> bool:
    """Return whether this is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def short(value: Any) -> str:
    """Return a value on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def plain(value: Any, name: str = "") -> Any:
    """Return a value with dicts for mappings, tuples for lists, Python's numbers for NumPy's.

    Raises ConfigError for what a config cannot hold; `name` is the field's.
    """
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            at = name or "the config"
            raise ConfigError(f"{at} has the key {short(strange[0])}; names of fields are texts.")
        return {k: plain(inner, f"{name}.{k}".lstrip(".")) for k, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(plain(inner, name) for inner in value)
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    known = "a text, a number, True, False, None, a tuple or a dict"
    raise ConfigError(f"{name or 'the config'} has {short(value)}; give {known}.")


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the field probably meant: similar spelling, same last word or initials; or "".

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
    """Return " Did you mean ...?" with the nearest of some names; "" if none is near."""
    near = nearest(unknown, list(names))
    return f" Did you mean {near}?" if near else ""


def no_such(unknown: Sequence[str], known: Iterable[str], where: str) -> ConfigError:
    """Return the error for unknown fields: those of the first one's block, and which was meant.

    >>> str(no_such(["optim.lrr"], ["optim.lr", "optim.name", "data.root"], "it"))
    'it has no field optim.lrr; its fields: lr, name. Did you mean optim.lr?'
    >>> str(no_such(["x"], ["optim.lr", "optim.name", "epochs"], "it"))
    'it has no field x; its fields: epochs, optim.*.'
    """
    known, prefix = list(known), unknown[0]
    while True:  # the innermost block that there is
        prefix = prefix[: prefix.rstrip(".").rfind(".") + 1]
        if inside := [name.removeprefix(prefix) for name in known if name.startswith(prefix)]:
            break
    ends = [name.partition(".") for name in inside]
    there = dict.fromkeys(name + ".*" * bool(dot) for name, dot, _ in ends)
    shown = ", ".join(sorted(there, key=lambda name: name.endswith("*")))
    return ConfigError(
        f"{where} has no field {', '.join(unknown)}; its fields: {shown}.{meant(unknown[0], known)}"
    )


def _entries(cls: type) -> Iterator[tuple[str, Any, Mapping]]:
    """Yield (name, type, rule) of all entries of a mapping for this class."""
    for each in dataclasses.fields(cls):
        hint = _hints(cls)[each.name]
        if each.metadata.get("inline"):
            yield from _entries(hint)
        else:
            yield each.name, hint, each.metadata


def groups(cls: type, prefix: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (what a block is about, {dotted name of a field: its meaning}), block by block."""
    own, blocks = {}, []
    for each in dataclasses.fields(cls):
        hint, inline = _hints(cls)[each.name], each.metadata.get("inline")
        if dataclasses.is_dataclass(hint):
            blocks.append((hint, prefix if inline else f"{prefix}{each.name}."))
        else:
            known = ", ".join(each.metadata.get("known", ()))
            own[prefix + each.name] = each.metadata.get("told", "") + f" ({known})" * bool(known)
    yield (cls.__doc__ or "").partition("\n")[0], own
    for hint, inner in blocks:
        yield from groups(hint, inner)


def meanings(cls: type, prefix: str = "") -> dict[str, str]:
    """Return dotted name of every field -> its meaning."""
    return {name: told for _, block in groups(cls, prefix) for name, told in block.items()}


def check_names(cls: type, given: Mapping, prefix: str = "", where: str = "the config") -> None:
    """Raise ConfigError for unknown fields at any depth; `where` is what has them."""
    if unknown := list(_unknown(cls, given, prefix)):
        raise no_such(unknown, meanings(cls, prefix), where)


def _unknown(cls: type, given: Mapping[str, Any], prefix: str) -> Iterator[str]:
    known = {name: hint for name, hint, _ in _entries(cls)}
    for key, value in given.items():
        if key not in known:
            yield f"{prefix}{key}"
        elif dataclasses.is_dataclass(known[key]) and isinstance(value, Mapping):
            yield from _unknown(known[key], value, f"{prefix}{key}.")


def read(cls: type, given: Mapping[str, Any], prefix: str = "") -> Any:
    """Make a dataclass of a mapping of plain values; missing fields keep their defaults.

    A method `problem` of `cls` returns what is wrong with its fields together, or "". Errors put
    `prefix` before names of fields.

    Raises:
      ConfigError: an unknown field, or a field, its value and what is allowed.
    """
    check_names(cls, given, prefix)
    values = {}
    for each in dataclasses.fields(cls):
        hint = _hints(cls)[each.name]
        if each.metadata.get("inline"):
            mine = {name for name, *_ in _entries(hint)}
            own = {key: value for key, value in given.items() if key in mine}
            values[each.name] = read(hint, own, prefix)
        elif each.name in given:
            value = given[each.name]
            values[each.name] = _value(hint, value, f"{prefix}{each.name}", each.metadata)
    made = cls(**values)
    if wrong := getattr(made, "problem", lambda: "")():
        raise ConfigError(f"{prefix}{wrong}")
    return made


def _value(hint: Any, value: Any, name: str, rule: Mapping[str, Any]) -> Any:
    """Return a field's value, checked."""
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return read(hint, value, f"{name}.")
        raise ConfigError(f"{name} is {short(value)}; give a dict of its fields.")
    known, low, high = rule.get("known"), rule.get("low"), rule.get("high")
    if known and value not in known:
        near = meant(str(value), known)
        raise ConfigError(f"{name} is {short(value)}; known: {', '.join(known)}.{near}")
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    within = (
        any(_is_a(kind, value) for kind in kinds)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and rule.get("fits", lambda value: True)(value)
    )
    if not within:
        wanted = " or ".join(_WORDS.get(kind, "a dict") for kind in kinds)
        if low is not None:
            wanted += f", at least {low}" if high is None else f", {low} to {high}"
        raise ConfigError(f"{name} is {short(value)}; give {rule.get('give') or wanted}.")
    return value


_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    tuple[str, ...]: "a tuple of texts, as in ('a', 'b')",
    tuple[int, ...]: "a tuple of whole numbers, as in (0, 1)",
    tuple[float, ...]: "a tuple of numbers, as in (0.6, 0.1, 0.3)",
}


def _is_a(kind: Any, value: Any) -> bool:
    """Return whether a value is of a type; booleans are no numbers."""
    origin = typing.get_origin(kind) or kind
    if origin is tuple:
        inner = typing.get_args(kind)[:1]
        return isinstance(value, tuple) and all(_is_a(k, x) for x in value for k in inner)
    if origin is float:
        return is_number(value)
    return isinstance(value, origin) and not (origin is int and isinstance(value, bool))


def flat(made: Any) -> dict[str, Any]:
    """Return the plain nested mapping that `read` makes this of."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(made):
        value, hint = getattr(made, each.name), _hints(type(made))[each.name]
        if not dataclasses.is_dataclass(hint):
            found[each.name] = plain(value, each.name)
        elif not isinstance(value, hint):
            raise ConfigError(f"{each.name} is {short(value)}; give a {hint.__name__}.")
        else:
            found |= flat(value) if each.metadata.get("inline") else {each.name: flat(value)}
    return found


def dotted(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as a flat one with dotted names; empty blocks are gone.

    >>> dotted({"optim": {"lr": 1}, "seeds": (0,)})
    {'optim.lr': 1, 'seeds': (0,)}
    """
    found = {}
    for key, value in data.items():
        inner = isinstance(value, Mapping)
        found |= dotted(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return found
