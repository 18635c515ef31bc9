"""What methods that choose by validation images check: numbers to choose among, and classes."""

from typing import Any

from clipjax.adapt.method import Classes


def numbers(name: str, given: Any, *, least: float) -> tuple[float, ...]:
    """Numbers that a user gives to choose among, or a single one, as a tuple.

    ValueError: none, one that is no finite number, or below `least`.
    """
    fits = lambda x: (
        isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < float("inf")
    )
    found = (given,) if fits(given) else given
    right = isinstance(found, (tuple, list)) and len(found) and all(map(fits, found))
    if not right or min(found) < least:
        raise ValueError(f"{name} is {given!r}; give a tuple of numbers of at least {least:g}.")
    return tuple(map(float, found))


def check_several(classes: Classes) -> None:
    """Raise ValueError for a single class: there is nothing to tell apart."""
    if len(classes.names) < 2:
        raise ValueError(f"the only class is {classes.names[0]!r}; give data of two at least.")
