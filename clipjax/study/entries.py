"""From a method's entry in the config to a `MethodConfig`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.errors import ConfigError
from clipjax.study import parts, unfreeze
from clipjax.study import training as trains
from clipjax.study.fields import flat, is_number, meant, no_such, read, short
from clipjax.study.sweep import Entry

# What an entry may hold beside options of its loss, and what it means.
FIELDS = {
    "loss": "the method: a file of clipjax/adapt, or 'package.module' of yours",
    "heads": "widths of adapter, classifier and discriminator; members, ...; {}: a linear head",
    "epochs": "its own, as of the run",
    "freeze": "its own, as of the run",
    "augment": "how training images are cropped and altered: smallest, flip, ops, ...; none: not",
    "average": "a running mean of what trains, a further result: kind, every, last, ...",
    "optim": "its own fields of optim",
    "data": "its own target, labels, shots, fraction or subset_seed",
    "episodes": "few-shot episodes instead of batches, and to be judged by: way, shot, ...",
    "align": "how features of source and target are made alike: none, centre, standardise, coral",
    "wise": "WiSE-FT: shares of the way from zero-shot's weights to the trained, each a result",
    "result": "which of its results is its own, as verdict and export take it: average, wise_0.5",
    "soup": "model soups of its runs, rows of their own: kinds, over (docs/training.md)",
    "preserve": "penalties that keep the encoder's geometry: embedding, similarity, of, kind",
    "batch_size": "its own, as of the run",
    "unfreeze": "gradual unfreezing, of phases that it makes: order, epochs; freeze never thaws",
    "phases": "stretches of its training, each with the keys above and options of the loss",
    "phase_order": "the phases' names, in order",
}


def read_method(
    name: str, entry: Entry, data: parts.Data, training: trains.Training
) -> trains.MethodConfig:
    """Read a method's entry; `data` and `training` are what it does not say itself."""
    try:
        return _method(name, f"methods.{entry.stage}", entry, data, training)
    except ConfigError as error:
        raise ConfigError(f"sweep, {name!r}: {error}" if entry.setting else str(error)) from None


def _method(
    name: str, where: str, entry: Entry, data: parts.Data, training: trains.Training
) -> trains.MethodConfig:
    options = dict(entry.fields)
    _check_dicts(options, where)
    if "loss" not in options:
        raise ConfigError(f"{where} has no loss; give the name of a file of clipjax/adapt.")
    loss, heads = options.pop("loss"), options.pop("heads", None)
    if not isinstance(loss, str):
        given = f"{where}.loss is {short(loss)}"
        raise ConfigError(f"{given}; give a file of clipjax/adapt, or 'package.module' of yours.")
    align = options.pop("align", "none")
    if align not in trains.ALIGN:
        near = meant(str(align), trains.ALIGN)
        raise ConfigError(
            f"{where}.align is {short(align)}; known: {', '.join(trains.ALIGN)}.{near}"
        )
    wise = options.pop("wise", ())
    if not (isinstance(wise, tuple) and all(is_number(a) and 0 < a < 1 for a in wise)):
        told = f"{where}.wise is {short(wise)}; give a tuple of numbers between 0 and 1"
        raise ConfigError(f"{told}, as in (0.25, 0.5, 0.75); both ends are always there.")
    result = options.pop("result", "last")
    episodes = _optional(trains.Episodes, options, "episodes", where)
    soup = _optional(trains.Soup, options, "soup", where)
    preserve = _optional(parts.Preserve, options, "preserve", where)
    size = {key: options.pop(key) for key in ("batch_size",) if key in options}
    size = read(trains.Training, flat(training) | size, f"{where}.").batch_size
    own = options.pop("data", {})
    if unknown := sorted(set(own) - set(parts.OWN_DATA)):
        raise no_such(unknown, parts.OWN_DATA, f"{where}.data")
    data = read(parts.Data, flat(data) | own, f"{where}.data.") if own else data
    phases, order = options.pop("phases", None), options.pop("phase_order", ())
    thaw = _optional(trains.Unfreeze, options, "unfreeze", where)
    if thaw and phases:
        raise ConfigError(f"{where} has phases, and unfreeze, which makes some; give one of them.")
    if thaw:
        own = {"epochs": training.epochs, "freeze": ()} | options
        own = {key: own[key] for key in ("epochs", "freeze")}
        read(trains.Training, own, f"{where}.")
        phases = unfreeze.phases(thaw, own["epochs"], own["freeze"], where)
        order = tuple(phases)
    if not phases:
        phases, order = {"": {}}, ("",)
    if not isinstance(order, tuple) or sorted(map(str, order)) != sorted(phases):
        known = ", ".join(sorted(phases))
        raise ConfigError(f"{where}.phase_order is {order!r}; name each of phases once: {known}.")
    found = []
    for label in order:
        full, at = (f"{name}/{label}", f"{where}.phases.{label}") if label else (name, where)
        optim = options.get("optim", {}) | phases[label].get("optim", {})
        found.append(_phase(full, label, at, options | phases[label] | {"optim": optim}, training))
    _check_averages(found, where, training.save_every)
    known = ["last", *(["average"] if found[-1].average else []), *map(trains.wise_name, wise)]
    if result not in known:
        raise ConfigError(f"{where}.result is {short(result)}; its results are {', '.join(known)}.")
    thaws = unfreeze.steps(thaw.order) if thaw else ()
    base = name, entry.stage, entry.setting, loss, heads, data, tuple(found), episodes, size
    return trains.MethodConfig(*base, thaws, align, wise, result, soup, preserve)


def _check_averages(phases: list[trains.PhaseConfig], where: str, every: int) -> None:
    """Raise ConfigError for running means that would be dropped, or of more than there is."""
    for phase in phases:
        at = f"{where}.phases.{phase.label}" if phase.label else where
        if phase is phases[-1] and phase.average and phase.average.last > phase.epochs:
            told = f"{at}.average.last is {phase.average.last}, and it trains {phase.epochs} epochs"
            raise ConfigError(f"{told}; give at most as many.")
        if phase.average and not phases[-1].average:
            told = f"{at}.average ends with its phase, and no result is of that"
            raise ConfigError(f"{told}; give it to the last phase, {phases[-1].label}.")
        if phase.average and phase.average.kind == "swad":
            _check_segments(phases, phase.average.converge, where, every)


def _check_segments(
    phases: list[trains.PhaseConfig], converge: int, where: str, every: int
) -> None:
    """Raise ConfigError for segments of SWAD that end at no validation, or are too few."""
    before = sum(phase.epochs for phase in phases[:-1])
    if before % every:
        told = f"{where}: kind=swad begins after epoch {before}, between two validations"
        raise ConfigError(f"{told}; choose a save_every that divides it ({every} does not).")
    if (count := -(-phases[-1].epochs // every)) < converge:
        told = (
            f"{where}: {phases[-1].epochs} epochs with save_every={every} have {count} validations"
        )
        raise ConfigError(f"{told}, and no valley of converge={converge}; lower save_every.")


def _check_dicts(options: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for anything else where a dict of fields is expected."""
    for key in ("heads", "data", "optim", "phases", "episodes"):
        if key in options:
            _check_dict(options[key], f"{where}.{key}")
    for label, phase in options.get("phases", {}).items():
        _check_dict(phase, f"{where}.phases.{label}")
        _check_dicts(phase, f"{where}.phases.{label}")


def _check_dict(given: Any, where: str) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} is {short(given)}; give a dict of its fields.")


def _phase(
    name: str, label: str, where: str, entry: dict[str, Any], training: trains.Training
) -> trains.PhaseConfig:
    """Read a phase's entry: what is not its own is an option of the loss."""
    augment, average = (
        _optional(kind, entry, key, where)
        for key, kind in (("augment", trains.Augment), ("average", trains.Average))
    )
    optim = read(trains.Optim, flat(training.optim) | entry.pop("optim"), f"{where}.optim.")
    factors = tuple((pattern, float(factor)) for pattern, factor in optim.lr_mults)
    own = {key: entry.pop(key) for key in ("epochs", "freeze") if key in entry}
    read(trains.Training, own, f"{where}.")  # refuses wrong ones
    return trains.PhaseConfig(
        name,
        label,
        own.get("epochs", training.epochs),
        own.get("freeze", training.freeze),
        dataclasses.replace(optim, lr_mults=factors),
        augment,
        entry,
        average,
    )


def _optional(cls: type, entry: dict[str, Any], key: str, where: str) -> Any:
    """Take a dataclass of fields out of an entry; None where nothing is given."""
    if (given := entry.pop(key, None)) is None:
        return None
    _check_dict(given, f"{where}.{key}")
    return read(cls, given, f"{where}.{key}.")
