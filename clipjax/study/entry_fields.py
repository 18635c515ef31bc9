"""What a method's entry may hold, with usual values and meanings; imports no loss, so no JAX."""

import ast
import functools
import importlib.util
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from clipjax.study.entries import FIELDS
from clipjax.study.fields import flat, meanings
from clipjax.study.options import HEADS, meaning
from clipjax.study.parts import Data, Preserve
from clipjax.study.training import Augment, Average, Episodes, Optim, Soup, Unfreeze

# Blocks of an entry -> the class of their fields.
BLOCKS = {"optim": Optim, "data": Data, "augment": Augment, "average": Average}
BLOCKS |= {"episodes": Episodes, "unfreeze": Unfreeze, "soup": Soup, "preserve": Preserve}
_HEADS = {"adapter": (), "classifier": (), "discriminator": (), "dropout": 0.0}
_HEADS |= {"start": "zero_shot", "class_bias": True, "members": 1, "text": False, "num_domains": 2}
_GIVEN = ("head", "episodes", "schedules", "shots")  # by the study, not by the config
MAPPINGS = ("heads", "phases", *BLOCKS)  # fields of an entry that are dicts
OPEN = object()  # a value of any type


@functools.cache
def _source(loss: str) -> ast.Module:
    """Return the syntax of a loss's file; an empty one where there is none."""
    name = loss if "." in loss else f"clipjax.adapt.{loss}"
    try:
        spec = importlib.util.find_spec(name)
        return ast.parse(pathlib.Path(spec.origin).read_text() if spec and spec.origin else "")
    except (ImportError, OSError, ValueError, SyntaxError):
        return ast.parse("")


def summary(loss: str) -> str:
    """Return the first line of a loss's file."""
    return (ast.get_docstring(_source(loss)) or "").partition("\n")[0]


def options(loss: str) -> dict[str, Any]:
    """Return option of a loss -> its default, `OPEN` where that is no literal or None.

    >>> options("dann")["gamma"], options("blend")["weight"] is OPEN
    (10.0, True)
    """
    functions = _functions(loss)
    made = functions.get("make_method")
    if made is None:
        return {}
    takers = [functions["make_loss"]] if made.kwarg and "make_loss" in functions else []
    return {name: usual for args in (*takers, made) for name, usual in _keywords(args).items()}


def terms() -> dict[str, Any]:
    """Return option -> its default, of terms that are added to losses (`clipjax.adapt.terms`).

    >>> terms()["contrastive_weight"], terms()["distill_over"]
    (0.0, 'batch')
    """
    return _keywords(_functions("terms")["add_terms"])


def _functions(loss: str) -> dict[str, ast.arguments]:
    return {n.name: n.args for n in _source(loss).body if isinstance(n, ast.FunctionDef)}


def _keywords(args: ast.arguments) -> dict[str, Any]:
    """Return keyword-only parameter -> its default, of those that a config gives."""
    pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    return {arg.arg: _literal(default) for arg, default in pairs if arg.arg not in _GIVEN}


def _literal(node: ast.expr | None) -> Any:
    try:
        value = None if node is None else ast.literal_eval(node)
    except ValueError:
        return OPEN
    return OPEN if value is None else value


def usual(config: Mapping[str, Any], entry: Mapping[str, Any], field: str) -> Any:
    """Return what a field that an entry lacks, as "optim.lr", has by default; KeyError: no such."""
    block, _, inner = field.partition(".")
    if block == "heads":
        return _HEADS[inner]
    if block in ("optim", "data"):
        return config[block][inner]
    if block in BLOCKS:
        return flat(BLOCKS[block]())[inner]
    if field in ("epochs", "freeze", "batch_size"):
        return config[field]
    if field in ("wise", "result"):
        return () if field == "wise" else "last"
    return "none" if field == "align" else (terms() | options(entry["loss"]))[field]


def possible(loss: str) -> list[str]:
    """Return every field that an entry with this loss may have."""
    blocks = {"heads": _HEADS} | {block: meanings(kind) for block, kind in BLOCKS.items()}
    found = [own for field in FIELDS for own in _inside(field, blocks.get(field, ()))]
    return list(dict.fromkeys([*found, *options(loss), *terms()]))


def _inside(field: str, inner: Iterable[str]) -> list[str]:
    return [f"{field}.{name}" for name in inner] or [field]


def told(loss: str, field: str) -> str:
    """Return what a field of an entry means."""
    block, _, inner = field.partition(".")
    if block == "phases":  # phases.NAME.field
        return told(loss, inner.partition(".")[2])
    if block == "heads":
        return HEADS.get(inner, FIELDS[block])
    if block in BLOCKS:
        return meanings(BLOCKS[block]).get(inner, FIELDS[block])
    return FIELDS.get(block) or meaning(loss, field)


def typed(value: Any) -> str:
    """Return a value as it is typed on a command line."""
    if isinstance(value, float) and len(repr(value)) > 8:
        return f"{value:.4g}"
    return "" if value is OPEN else value if isinstance(value, str) else repr(value)
