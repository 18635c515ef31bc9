"""The options of a loss: which there are, and of what kind their values must be."""

import inspect
from collections.abc import Mapping
from typing import Any

from clipjax.adapt.terms import add_terms
from clipjax.errors import ConfigError
from clipjax.study.entries import FIELDS
from clipjax.study.fields import is_number, meant, short

_GIVEN = ("head", "episodes", "schedules", "shots")  # options given by the study, not by the config


def check_options(where: str, options: Mapping[str, Any], module: Any) -> None:
    """Raise ConfigError for options that a loss lacks, or not of the kind of its defaults.

    Options are the keyword-only parameters of the module's `make_method` and, where that takes any
    others, of its `make_loss`; and those of `clipjax.adapt.terms.add_terms`.
    """
    takes = options_of(module)
    own, takes = takes, takes | terms_of(module)
    for option, value in options.items():
        if option not in takes:
            known, hint = ", ".join(own) or "none", meant(option, [*takes, *FIELDS])
            raise ConfigError(f"{where} has no option {option}; its loss takes {known}.{hint}")
        usual, give = takes[option], ""
        if isinstance(usual, bool) and not isinstance(value, bool):
            give = "True or False"
        elif is_number(usual) and not is_number(value):
            give = "a finite number"
        elif isinstance(usual, str) and not isinstance(value, str):
            give = f"a name, as {usual!r} is"
        elif option == "label_smoothing" and not 0 <= value < 1:
            give = "at least 0 and less than 1"
        if give:
            raise ConfigError(f"{where}.{option} is {short(value)}; give {give}.")


def options_of(module: Any) -> dict[str, Any]:
    """Return option -> its default."""
    taken = [*inspect.signature(module.make_method).parameters.values()]
    if any(p.kind is p.VAR_KEYWORD for p in taken) and hasattr(module, "make_loss"):
        taken = [*inspect.signature(module.make_loss).parameters.values(), *taken]
    return {p.name: p.default for p in taken if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN}


def terms_of(module: Any) -> dict[str, Any]:
    """Return option of `add_terms` -> its default, of those that a loss has not itself."""
    taken, own = inspect.signature(add_terms).parameters.values(), options_of(module)
    kinds = {p.name: p.default for p in taken if p.kind is p.KEYWORD_ONLY}
    return {name: usual for name, usual in kinds.items() if name not in own}
