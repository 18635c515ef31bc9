"""Whether what a method's entry gives are values that can train: numbers in range, words, tuples.

The checks are on what a config or its sweep gives, before anything is built of it: a text where a
number belongs would else be found out by XLA.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from clipjax.errors import ConfigError


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether this is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_pattern(value: Any) -> bool:
    """Whether this is a regular expression."""
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def check_optim(name: str, optim: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Refuses what no optimizer takes.

    Args:
      name: of the phase, for the error.
      optim: `config.optim` with the phase's own changes.
      shared: `config.optim`, which says where numbers belong.

    Raises:
      ConfigError: the field.
    """
    for field, value in optim.items():
        where = f"methods.{name}: optim.{field} is {value!r}"
        if field == "lr_mults":
            _check_lr_mults(where, value)
        elif field == "warmup" and not (is_number(value) and 0 <= value <= 1):
            raise ConfigError(f"{where}; give a share of the run, 0 to 1.")
        elif isinstance(shared[field], (int, float)) and not (is_number(value) and value >= 0):
            raise ConfigError(f"{where}; give a finite number, at least 0.")


def _check_lr_mults(where: str, value: Any) -> None:
    pairs = value if isinstance(value, (tuple, list)) else [value]
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not is_pattern(pair[0]):
            raise ConfigError(
                f"{where}; give pairs of a pattern and a factor, as in (('clip/.*', 0.1),), in a "
                "sweep a tuple of such tuples."
            )
        if not is_number(pair[1]):
            raise ConfigError(f"{where}; a factor is a finite number.")


def check_options(name: str, options: Mapping[str, Any], make_loss: Callable) -> None:
    """Refuses options of a loss that are not of the kind of its defaults.

    Args:
      name: of the phase, for the error.
      options: what is given; `make_loss` itself refuses names that it does not know.
      make_loss: of a file of clipjax/adapt.

    Raises:
      ConfigError: the option.
    """
    takes = inspect.signature(make_loss).parameters
    for option in takes.keys() & options.keys():
        value, usual = options[option], takes[option].default
        where = f"methods.{name}: {option} is {value!r}"
        if isinstance(usual, bool) and not isinstance(value, bool):
            raise ConfigError(f"{where}; give True or False.")
        if isinstance(usual, (int, float)) and not isinstance(usual, bool) and not is_number(value):
            raise ConfigError(f"{where}; give a finite number.")
        if isinstance(usual, str) and not isinstance(value, str):
            raise ConfigError(f"{where}; give a name, as {usual!r} is.")
        if option == "label_smoothing" and not 0 <= value < 1:
            raise ConfigError(f"{where}; give at least 0 and less than 1.")


def check_data(where: str, data: Mapping[str, Any]) -> None:
    """Refuses fields of `config.data` that no choice of examples can follow.

    Args:
      where: what precedes a field's name in the error.
      data: target, shots, fraction, subset_seed; those that are given.

    Raises:
      ConfigError: the field.
    """
    for field, value in data.items():
        if field == "target" and not isinstance(value, str):
            raise ConfigError(f"{where}{field} is {value!r}; give the name of a domain.")
        if field in ("shots", "subset_seed") and not (is_whole(value) and value >= 0):
            raise ConfigError(f"{where}{field} is {value!r}; give a whole number, at least 0.")
        if field == "fraction" and not is_number(value):
            raise ConfigError(f"{where}{field}={value!r}: give a share above 0 and at most 1.")


def check_freeze(name: str, freeze: Any) -> None:
    """Refuses what is no tuple of patterns; one text would be read letter by letter.

    Raises:
      ConfigError: what is given.
    """
    if not isinstance(freeze, (tuple, list)) or not all(map(is_pattern, freeze)):
        raise ConfigError(
            f"methods.{name}: freeze is {freeze!r}; give a tuple of regular expressions, as in "
            "('clip/.*',)."
        )


def check_augment(name: str, augment: dict | None) -> None:
    """Refuses options that `random_resized_crop` does not have, or an impossible crop."""
    known = ("smallest", "flip")
    if augment is None:
        return
    if not isinstance(augment, Mapping):
        raise ConfigError(
            f"methods.{name}: augment is {augment!r}; give a dict, as in {{'smallest': 0.5}}."
        )
    if unknown := [key for key in augment if key not in known]:
        raise ConfigError(
            f"methods.{name}.augment has {', '.join(unknown)}; known: {', '.join(known)}."
        )
    smallest = augment.get("smallest", 1.0)
    if not is_number(smallest) or not 0 < smallest <= 1:
        raise ConfigError(f"methods.{name}.augment.smallest must be in (0, 1], the share kept.")
