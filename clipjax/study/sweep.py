"""`config.sweep`: every stage of a config at many settings, as methods of their own.

    config.sweep = ({"optim.lr": (1e-3, 3e-3), "methods.dann.lam_max": (0.1, 0.3)},)  # all pairs
    config.sweep = ({"optim.lr": 1e-3, "data.shots": 4}, {"optim.lr": 3e-3})          # these two

Methods that differ in numbers alone train as one program (`clipjax.study.methods.group_runs`); a
sweep only writes down many of them. All here works on plain nested mappings.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clipjax.errors import ConfigError
from clipjax.study.fields import dotted, meant, short
from clipjax.study.parts import OWN_DATA

Setting = dict[str, Any]  # field -> value

_KNOWN = "optim.<field>, methods.<name>.<option>, methods.<name>.optim.<field>, " + ", ".join(
    f"data.{field}" for field in OWN_DATA
)


class Entry(NamedTuple):
    """The parts of a method."""

    stage: str
    setting: Setting  # empty without a sweep
    fields: dict[str, Any]  # as in `config.methods`, with the setting put in


def settings(sweep: Sequence[Mapping]) -> list[Setting]:
    """Return all combinations of values of each grid, {field: a value or a tuple of values}.

    >>> settings(({"optim.lr": (1, 2), "data.shots": 4},))
    [{'data.shots': 4, 'optim.lr': 1}, {'data.shots': 4, 'optim.lr': 2}]
    """
    if not isinstance(sweep, (tuple, list)) or not all(isinstance(g, Mapping) for g in sweep):
        raise ConfigError(f"sweep is {sweep!r}; give a tuple of grids, ({{field: values}},).")
    found = []
    for grid in map(_sorted, sweep):
        values = [v if isinstance(v, tuple) else (v,) for v in grid.values()]
        if empty := [field for field, each in zip(grid, values, strict=True) if not each]:
            raise ConfigError(f"sweep of {empty[0]!r} has no values; give some, as in (0.1, 0.3).")
        found += [dict(zip(grid, each, strict=True)) for each in itertools.product(*values)]
    return found


def expand(config: Mapping[str, Any]) -> dict[str, Entry]:
    """Return name -> entry of every method to train: each stage, with a sweep at each setting.

    A stage that a setting does not concern (another method's option) is not repeated. The sweep
    overrides what a method says of its own (`methods.<name>.optim`). `config` is a whole study.

    Raises:
      ConfigError: a stage without a method; a field that cannot be swept; settings of one name.
    """
    wanted, found = settings(config["sweep"]), {}
    entries = {stage: _entry(config["methods"], stage) for stage in config["stages"]}
    if not wanted:
        return {stage: Entry(stage, {}, fields) for stage, fields in entries.items()}
    for field in dict.fromkeys(field for setting in wanted for field in setting):
        _check_field(field, config)
        _check_tuples(field, [each[field] for each in wanted if field in each], config)
    for stage, fields in entries.items():
        ours = ("optim.", "data.", f"methods.{stage}.")
        concerned = [{k: v for k, v in each.items() if k.startswith(ours)} for each in wanted]
        for name, own in zip(setting_names(stage, concerned), concerned, strict=True):
            made = Entry(stage, own, _changed(copy.deepcopy(fields), own, stage))
            if found.setdefault(name, made)[:2] != (stage, own):
                both = f"{found[name].setting} and {own}"
                raise ConfigError(f"sweep has two settings called {name!r}, {both}; split it.")
    return found


def _entry(methods: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return what the config says of a method."""
    if stage not in methods:
        known = f"{', '.join(sorted(methods))}.{meant(stage, methods)}"
        raise ConfigError(f"stages names {stage!r}, which methods does not have; known: {known}")
    found = methods[stage]
    if not isinstance(found, Mapping):
        raise ConfigError(f"methods.{stage} is {short(found)}; give a dict with a loss and heads.")
    return dict(found)


def _sorted(value: Any) -> Any:
    """Sort keys at any depth, as config.json gives them back to exports."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return tuple(map(_sorted, value)) if isinstance(value, (tuple, list)) else value


def _check_field(field: str, config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a field that cannot be swept."""
    root, _, rest = field.partition(".")
    first, _, inner = rest.partition(".")
    known = {
        "optim": first in config["optim"] and not inner,
        "data": first in OWN_DATA and not inner,
        "methods": first in config["methods"] and bool(inner) and inner != "loss",
    }
    if not known.get(root, False):
        raise ConfigError(f"sweep cannot vary {field!r}; it can vary {_KNOWN}.")
    if root == "methods" and first not in config["stages"]:
        raise ConfigError(f"sweep varies {field!r}, but stages has no {first!r}.")


def _check_tuples(field: str, values: Sequence[Any], config: Mapping[str, Any]) -> None:
    """Raise ConfigError for (256,) where ((256,),) was meant: one value, which is a tuple."""
    path = ".".join(_path(field))
    current = dotted(config).get(path)
    if field.startswith("methods."):
        own = dotted(config["methods"][field.split(".")[1]]).get(path)
        current = current if own is None else own
    for value in values:
        if isinstance(current, tuple) and not isinstance(value, (tuple, type(None))):
            raise ConfigError(
                f"sweep gives {field!r} the value {value!r}, and the config the tuple {current!r}; "
                f"a tuple in a sweep lists values: write (({value!r},),) for one of them."
            )


def _path(field: str) -> list[str]:
    """Return where a field lies in a method's entry."""
    keys = field.split(".")
    return keys[2:] if keys[0] == "methods" else keys


def _changed(method: dict, own: Setting, stage: str) -> dict:
    """Put a setting into a method's entry."""
    paths = {field: _path(field) for field in own}
    for (field, path), (other, longer) in itertools.permutations(paths.items(), 2):
        if longer[: len(path)] == path:
            both = f"sweep sets {field!r} and {other!r} together"
            raise ConfigError(f"{both}, which for {stage} are one field; leave one of them out.")
    for field, value in own.items():
        if field.startswith("optim.") and any("optim" in phase for phase in _phases(method)):
            raise ConfigError(
                f"sweep varies {field!r}, but phases of {stage} have an optim of their own; vary "
                f"methods.{stage}.phases.<phase>.{field}."
            )
        place = method
        for key in paths[field][:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"sweep cannot vary {field!r}: {key!r} holds no fields.")
        place[paths[field][-1]] = value
    return method


def _phases(method: Mapping[str, Any]) -> list[Mapping]:
    """Return the entries of a method's phases; malformed ones are refused later."""
    phases = method.get("phases")
    found = phases.values() if isinstance(phases, Mapping) else ()
    return [phase for phase in found if isinstance(phase, Mapping)]


def setting_names(stage: str, settings: Sequence[Setting]) -> list[str]:
    """Name each setting of a stage: the stage, and the fields and values that concern it.

    Fields go by their last word, numbers by six digits, unless another field or value of the
    stage's would look the same.

    >>> setting_names("dann", [{"methods.dann.lam_max": 0.3, "optim.lr": 0.001}])
    ['dann lam_max=0.3 lr=0.001']
    >>> setting_names("dann", [{"optim.gamma": 0.5}, {"methods.dann.gamma": 0.5}])
    ['dann optim.gamma=0.5', 'dann methods.dann.gamma=0.5']
    >>> setting_names("dann", [{"optim.lr": 0.12345671}, {"optim.lr": 0.12345674}])
    ['dann lr=0.12345671', 'dann lr=0.12345674']
    """
    ends = {field: field.rsplit(".", 1)[-1] for setting in settings for field in setting}
    counts = Counter(ends.values())
    texts = {field: _texts([own[field] for own in settings if field in own]) for field in ends}
    shown = {field: end if counts[end] == 1 else field for field, end in ends.items()}
    return [
        " ".join([stage, *(f"{shown[k]}={texts[k][repr(v)]}" for k, v in setting.items())])
        for setting in settings
    ]


def _texts(values: Sequence[Any]) -> dict[str, str]:
    """Return repr of a value -> how it is written, for file names."""
    brief, exact = {}, {}
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        brief[repr(value)] = f"{value:g}" if isinstance(value, float) else str(value)
        exact[repr(value)] = repr(float(value)) if number else str(value)
    counts = Counter(text for text, _ in {(brief[key], exact[key]) for key in brief})
    found = {key: text if counts[text] == 1 else exact[key] for key, text in brief.items()}
    return {key: text.replace("/", "_").replace(" ", "") for key, text in found.items()}
