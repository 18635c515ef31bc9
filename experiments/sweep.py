"""`config.sweep`: every stage of a config at many settings, as methods of their own.

    config.sweep = ({"optim.lr": (1e-3, 3e-3), "methods.dann.lam_max": (0.1, 0.3)},)  # all pairs
    config.sweep = ({"optim.lr": 1e-3, "data.shots": 4}, {"optim.lr": 3e-3})          # these two

Methods that differ in numbers alone train as one program (`experiments.methods.teams`); a sweep is
nothing but a way to write down many of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from clipjax.errors import ConfigError

DATA_FIELDS = ("target", "shots", "fraction", "subset_seed")  # of config.data

_KNOWN = "optim.<field>, methods.<name>.<option>, methods.<name>.optim.<field>, " + ", ".join(
    f"data.{field}" for field in DATA_FIELDS
)

Point = dict[str, Any]  # field -> value


def points(sweep: Sequence[Mapping]) -> list[Point]:
    """The settings that `config.sweep` lists.

    >>> points(({"optim.lr": (1, 2), "data.shots": 4},))
    [{'data.shots': 4, 'optim.lr': 1}, {'data.shots': 4, 'optim.lr': 2}]
    >>> points(({"optim.lr": 1}, {"data.shots": 4}))
    [{'optim.lr': 1}, {'data.shots': 4}]

    Args:
      sweep: grids, {field: a value or a tuple of values}; of each all combinations are meant.

    Raises:
      ConfigError: anything else, or a field without values.
    """
    if not isinstance(sweep, (tuple, list)) or not all(isinstance(g, Mapping) for g in sweep):
        raise ConfigError(f"sweep is {sweep!r}; give a tuple of grids, ({{field: values}},).")
    found = []
    for grid in sweep:
        grid = dict(sorted(grid.items()))  # the order of config.json, which exports read
        values = [v if isinstance(v, (tuple, list)) else (v,) for v in grid.values()]
        if empty := [field for field, each in zip(grid, values, strict=True) if not each]:
            raise ConfigError(f"sweep of {empty[0]!r} has no values; give some, as in (0.1, 0.3).")
        found += [dict(zip(grid, each, strict=True)) for each in itertools.product(*values)]
    return found


def expand(config) -> ConfigDict:
    """The config with a method for each stage and setting in place of `sweep`; itself without one.

    A stage that a setting does not concern (another method's option) is not repeated. What a method
    says of its own (`methods.<name>.optim`) gives way to the sweep.

    Raises:
      ConfigError: a field that cannot be swept, or that does not exist.
    """
    wanted = points(config.sweep)
    if not wanted:
        return config
    for field in dict.fromkeys(field for point in wanted for field in point):
        _check_field(field, config)
    methods, labels = dict(config.methods.items()), []
    for stage in config.stages:
        if stage not in config.methods:  # `build_methods` says so
            labels.append(stage)
            continue
        for point in wanted:
            own = {field: value for field, value in point.items() if _concerns(field, stage)}
            label = _label(stage, own)
            if label not in labels:
                labels.append(label)
                methods[label] = _changed(config.methods[stage].to_dict(), own, stage)
    made = config.copy_and_resolve_references()
    made.methods, made.stages = ConfigDict(methods, allow_dotted_keys=True), tuple(labels)
    made.sweep = ()
    return made


def settings(config) -> dict[str, tuple[str, Point]]:
    """label of a method -> (its stage, the settings it was made with); empty without a sweep."""
    return {
        _label(stage, own): (stage, own)
        for stage in config.stages
        for point in points(config.sweep)
        for own in [{field: value for field, value in point.items() if _concerns(field, stage)}]
    }


def targets(config) -> tuple[str, ...]:
    """The target domains of all methods, the config's own first."""
    found = [point["data.target"] for point in points(config.sweep) if "data.target" in point]
    return tuple(dict.fromkeys([config.data.target, *found]))


def _check_field(field: str, config) -> None:
    root, _, rest = field.partition(".")
    first, _, inner = rest.partition(".")
    known = {
        "optim": first in config.optim and not inner,
        "data": first in DATA_FIELDS and not inner,
        "methods": first in config.methods and bool(inner) and inner != "loss",
    }
    if not known.get(root, False):
        raise ConfigError(f"sweep cannot vary {field!r}; it can vary {_KNOWN}.")
    if root == "methods" and first not in config.stages:
        raise ConfigError(f"sweep varies {field!r}, but stages has no {first!r}.")


def _concerns(field: str, stage: str) -> bool:
    return not field.startswith("methods.") or field.split(".")[1] == stage


def _label(stage: str, own: Point) -> str:
    """A method's name: its stage and what is particular to it.

    >>> _label("dann", {"methods.dann.lam_max": 0.3, "optim.lr": 0.001})
    'dann lam_max=0.3 lr=0.001'
    """
    ends = [field.rsplit(".", 1)[-1] for field in own]
    short = [end if ends.count(end) == 1 else field for field, end in zip(own, ends, strict=True)]
    words = [f"{name}={_written(value)}" for name, value in zip(short, own.values(), strict=True)]
    return " ".join([stage, *words])


def _written(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("/", "_").replace(" ", "")  # it becomes part of file names


def _changed(method: dict, own: Point, stage: str) -> dict:
    """A method's entry with settings put in."""
    for field, value in own.items():
        root, _, rest = field.partition(".")
        path = rest.split(".")[1:] if root == "methods" else field.split(".")
        if root == "optim" and any("optim" in p for p in method.get("phases", {}).values()):
            raise ConfigError(
                f"sweep varies {field!r}, but phases of methods.{stage} have an optim of "
                f"their own; vary methods.{stage}.phases.<phase>.{field}."
            )
        place = method
        for key in path[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"sweep cannot vary {field!r}: {key!r} holds no fields.")
        place[path[-1]] = value
    return method
