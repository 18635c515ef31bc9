"""`config.sweep`: every stage of a config at many settings, as methods of their own.

    config.sweep = ({"optim.lr": (1e-3, 3e-3), "methods.dann.lam_max": (0.1, 0.3)},)  # all pairs
    config.sweep = ({"optim.lr": 1e-3, "data.shots": 4}, {"optim.lr": 3e-3})          # these two

Methods that differ in numbers alone train as one program (`clipjax.study.methods.teams`); a sweep
is nothing but a way to write down many of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from clipjax.errors import ConfigError
from clipjax.study.setting_names import Point, labels

DATA_FIELDS = ("target", "shots", "fraction", "subset_seed")  # of config.data

_KNOWN = "optim.<field>, methods.<name>.<option>, methods.<name>.optim.<field>, " + ", ".join(
    f"data.{field}" for field in DATA_FIELDS
)


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
    for grid in map(_as_read_back, sweep):
        values = [v if isinstance(v, tuple) else (v,) for v in grid.values()]
        if empty := [field for field, each in zip(grid, values, strict=True) if not each]:
            raise ConfigError(f"sweep of {empty[0]!r} has no values; give some, as in (0.1, 0.3).")
        found += [dict(zip(grid, each, strict=True)) for each in itertools.product(*values)]
    return found


def expand(config) -> ConfigDict:
    """The config with a method for each stage and setting in place of `sweep`; itself without one.

    A stage that a setting does not concern (another method's option) is not repeated. What a method
    says of its own (`methods.<name>.optim`) gives way to the sweep.

    Raises:
      ConfigError: a field that cannot be swept, or that does not exist; settings of one name.
    """
    wanted = points(config.sweep)
    if not wanted:
        return config
    for field in dict.fromkeys(field for point in wanted for field in point):
        _check_field(field, config)
        _check_tuples(field, [point[field] for point in wanted if field in point], config)
    methods, names = dict(config.methods.items()), {}  # names: in order, each once
    for name, (stage, own) in settings(config).items():
        if stage not in config.methods:  # `build_methods` says so
            names[stage] = None
            continue
        names[name] = None
        methods[name] = _changed(method_entry(config, stage), own, stage)
    made = config.copy_and_resolve_references()
    made.methods, made.stages = ConfigDict(methods, allow_dotted_keys=True), tuple(names)
    made.sweep = ()
    return made


def settings(config) -> dict[str, tuple[str, Point]]:
    """name of a method -> (its stage, the settings it was made with); empty without a sweep.

    Raises:
      ConfigError: different settings that would have one name.
    """
    wanted, found = points(config.sweep), {}
    for stage in config.stages:
        concerned = [{k: v for k, v in point.items() if _concerns(k, stage)} for point in wanted]
        for name, own in zip(labels(stage, concerned), concerned, strict=True):
            if found.setdefault(name, (stage, own)) != (stage, own):
                raise ConfigError(
                    f"sweep has two settings that would both be called {name!r}, "
                    f"{found[name][1]} and {own}; make them a run each."
                )
    return found


def method_entry(config, name: str) -> dict:
    """What the config says of a method.

    Raises:
      ConfigError: no fields.
    """
    if not isinstance(config.methods[name], ConfigDict):
        raise ConfigError(
            f"methods.{name} is {config.methods[name]!r}; give a dict with a loss and heads."
        )
    return config.methods[name].to_dict()


def targets(config) -> tuple[str, ...]:
    """The target domains of all methods, the config's own first."""
    made, found = expand(config), [config.data.target]
    for stage in made.stages:
        data = method_entry(made, stage).get("data") if stage in made.methods else None
        # What is no name of a domain, `build_method` refuses.
        if isinstance(data, Mapping) and isinstance(data.get("target"), str):
            found.append(data["target"])
    return tuple(dict.fromkeys(found))


def _as_read_back(value: Any) -> Any:
    """A value as config.json gives it back to exports: sorted keys; and lists as tuples."""
    if isinstance(value, Mapping):
        return {key: _as_read_back(value[key]) for key in sorted(value)}
    return tuple(map(_as_read_back, value)) if isinstance(value, (tuple, list)) else value


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


def _check_tuples(field: str, values: Sequence[Any], config) -> None:
    """Refuses (256,) where ((256,),) was meant: one value, which is a tuple."""
    stage = field.split(".")[1] if field.startswith("methods.") else None
    current = _at(method_entry(config, stage), _path(field)) if stage else None
    current = _at(config, _path(field)) if current is None else current
    for value in values:
        if isinstance(current, (tuple, list)) and not isinstance(value, (tuple, type(None))):
            raise ConfigError(
                f"sweep gives {field!r} the value {value!r}, which in the config is a tuple, "
                f"{tuple(current)!r}; a tuple in a sweep lists values: write (({value!r},),) for "
                "one of them."
            )


def _at(tree: Mapping, path: Sequence[str]) -> Any:
    """What lies there; None where nothing does."""
    for key in path:
        if not isinstance(tree, (Mapping, ConfigDict)) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _concerns(field: str, stage: str) -> bool:
    return not field.startswith("methods.") or field.split(".")[1] == stage


def _changed(method: dict, own: Point, stage: str) -> dict:
    """A method's entry with settings put in."""
    paths = {field: _path(field) for field in own}
    for (field, path), (other, longer) in itertools.permutations(paths.items(), 2):
        if longer[: len(path)] == path:
            raise ConfigError(
                f"sweep sets {field!r} and {other!r} together, which for {stage} are one field; "
                "leave one of them out."
            )
    for field, value in own.items():
        if field.startswith("optim.") and any("optim" in p for p in _phases(method)):
            raise ConfigError(
                f"sweep varies {field!r}, but phases of methods.{stage} have an optim of "
                f"their own; vary methods.{stage}.phases.<phase>.{field}."
            )
        place = method
        for key in paths[field][:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"sweep cannot vary {field!r}: {key!r} holds no fields.")
        place[paths[field][-1]] = value
    return method


def _path(field: str) -> list[str]:
    """Where a field lies in a method's entry."""
    keys = field.split(".")
    return keys[2:] if keys[0] == "methods" else keys


def _phases(method: dict) -> list[dict]:
    """The entries of a method's phases; none where they are no such thing, which is said later."""
    phases = method.get("phases")
    found = phases.values() if isinstance(phases, dict) else ()
    return [phase for phase in found if isinstance(phase, dict)]
