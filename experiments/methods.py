"""From the config's method entries to heads, losses and phases; refuses what cannot run."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

import clipjax.adapt
from clipjax.adapt.grl import Schedule, lambda_schedule
from clipjax.adapt.step import Loss
from clipjax.errors import ConfigError
from clipjax.model.heads import Heads, as_model
from clipjax.train.optim import check_patterns, is_frozen, make_optimizer, make_schedule
from clipjax.train.phases import Span, training_since
from clipjax.train.stored import is_step
from experiments.fields import check_known, meant, options_of
from experiments.sweep import DATA_FIELDS, expand, method_entry
from experiments.values import (
    check_augment,
    check_data,
    check_freeze,
    check_optim,
    check_options,
    is_whole,
)

# Options that are numbers along the run, in which methods of one program may differ.
_RATE = ("schedule", "lr", "warmup", "step_every", "gamma")
_LAMBDA = ("schedule", "lam_max", "gamma", "start")
# Options that are plain factors in the step: of the optimizer, and of the loss.
OPTIM_FACTORS, LOSS_FACTORS = ("weight_decay",), ("label_smoothing",)

# What a method's entry may hold beside options of its loss, and its heads.
_FIELDS = ("loss", "heads", "epochs", "freeze", "augment", "optim", "data", "phases", "phase_order")
_NOT_GIVEN = ("num_classes", "parent", "name")  # of the data, and of flax
_HEADS = tuple(f.name for f in dataclasses.fields(Heads) if f.name not in _NOT_GIVEN)


class Phase(NamedTuple):
    """A stretch of a method's training with one loss, one freezing mask and one schedule."""

    name: str  # of the method, and its own where there are several
    epochs: int
    freeze: tuple[str, ...]
    optim: ConfigDict  # config.optim with the method's and the phase's own changes
    make_loss: Callable[..., Loss]  # (model, **changes of the options)
    options: dict[str, Any]  # of the loss
    augment: dict | None  # of `random_resized_crop`


class Method(NamedTuple):
    """A trained method: its networks, and the phases they train in."""

    heads: Heads
    loss: str  # file of clipjax/adapt
    phases: tuple[Phase, ...]
    adversarial: bool  # the loss has a domain part
    data: dict[str, Any]  # fields of config.data in which it differs (experiments.sweep)

    @property
    def epochs(self) -> int:
        """Of all phases together."""
        return sum(phase.epochs for phase in self.phases)


def loss_files() -> dict[str, object]:
    """The modules of `clipjax.adapt` that hold a method, by name."""
    names = [m.name for m in pkgutil.iter_modules(clipjax.adapt.__path__)]
    modules = {name: importlib.import_module(f"clipjax.adapt.{name}") for name in names}
    return {name: m for name, m in modules.items() if hasattr(m, "make_loss")}


def build_methods(config, num_classes: int) -> dict[str, Method]:
    """The methods of `config.stages`, in order; with a sweep, each of them at each setting.

    Raises:
      ConfigError: a stage without a method, a loss without a file, or an option it refuses.
    """
    built, config = {}, expand(config)
    for name in config.stages:
        if name not in config.methods:
            raise ConfigError(
                f"stages names {name!r}, which config.methods does not have; methods: "
                f"{', '.join(sorted(config.methods))}.{meant([str(name)], list(config.methods))}"
            )
        check_name(name)
        try:
            built[name] = build_method(name, config, num_classes)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"methods.{name}: {error}") from None
    return built


def check_name(name: str) -> None:
    """Refuses a number as a method's or phase's name: its folder would pass for a checkpoint.

    Raises:
      ConfigError: such a name.
    """
    if is_step(name):
        raise ConfigError(
            f"{name!r} is the name of a method or a phase, and its folder would be taken for the "
            "checkpoint of that step; put a letter in front."
        )


def build_method(name: str, config, num_classes: int) -> Method:
    """One method of the config.

    Raises:
      ConfigError, ValueError, TypeError: what is wrong with it.
    """
    options, losses = method_entry(config, name), loss_files()
    _check_dicts(options)
    if lacking := [key for key in ("loss", "heads") if key not in options]:
        raise ValueError(f"it has no {' and no '.join(lacking)}.")
    file = options.pop("loss")
    if file not in losses:
        raise ValueError(
            f"its loss is {file!r}, but clipjax/adapt has no such method; it has: "
            f"{', '.join(losses)}."
        )
    check_known(f"methods.{name}.heads", options["heads"], _HEADS)
    heads, data = _heads(options.pop("heads"), num_classes), options.pop("data", {})
    if unknown := sorted(set(data) - set(DATA_FIELDS)):
        raise ValueError(f"data has {', '.join(unknown)}; a method has {', '.join(DATA_FIELDS)}.")
    check_data(f"methods.{name}: data.", data)
    adversarial = hasattr(losses[file], "gradient_ratio")
    if adversarial and heads.discriminator is None:
        raise ValueError(f"loss {file!r} needs heads.discriminator, the widths of a domain head.")
    own = {
        "epochs": options.pop("epochs", config.epochs),
        "freeze": options.pop("freeze", config.freeze),
        "augment": options.pop("augment", None),
        "optim": options.pop("optim", {}),
    }
    order, entries = _phase_entries(options)
    phases = []
    for label in order:
        check_name(label)
        entry = {**own, **options, **entries[label]}
        entry["optim"] = {**own["optim"], **entries[label].get("optim", {})}
        full_name = f"{name}/{label}" if label else name
        phases.append(_phase(full_name, entry, config, losses[file], heads))
    return Method(heads, file, tuple(phases), adversarial, data)


def _check_dicts(options: dict, where: str = "") -> None:
    """Refuses anything else where fields are expected."""
    for key in ("heads", "data", "optim", "phases"):
        if key in options and not isinstance(options[key], dict):
            raise ValueError(f"{where}{key} is {options[key]!r}; give a dict of its fields.")
    for label, phase in options.get("phases", {}).items():
        if not isinstance(phase, dict):
            raise ValueError(f"phases.{label} is {phase!r}; give a dict of its fields.")
        _check_dicts(phase, f"phases.{label}.")


def _heads(shape: dict, num_classes: int) -> Heads:
    """The networks on CLIP's features; refuses what is no such thing."""
    # Tuples, also where a config came back from JSON: equal methods must look equal.
    shape = {k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}
    try:
        return Heads(num_classes=num_classes, **shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"heads: {error}") from None


def _phase_entries(options: dict) -> tuple[tuple[str, ...], dict[str, dict]]:
    """The phases' names in order and their entries; a method without is one nameless phase."""
    entries, order = options.pop("phases", None), options.pop("phase_order", ())
    if not entries:
        return ("",), {"": {}}
    if sorted(order) != sorted(entries):
        raise ValueError(
            f"phase_order is {tuple(order)}, but phases has {', '.join(sorted(entries))}; name "
            "each once."
        )
    return tuple(order), entries


def _phase(name: str, entry: dict, config, file, heads: Heads) -> Phase:
    """A phase from its entry: what is not its own is an option of the loss."""
    epochs, augment = entry.pop("epochs"), entry.pop("augment")
    check_augment(name, augment)
    if entry.get("diversity_weight") and heads.members == 1:
        raise ConfigError(f"methods.{name}: diversity_weight needs an ensemble: heads.members > 1.")
    freeze, changes = entry.pop("freeze"), entry.pop("optim")
    check_freeze(name, freeze)
    if not is_whole(epochs):
        raise ConfigError(f"methods.{name}: epochs is {epochs!r}; give a whole number.")
    if epochs <= 0 or config.batch_size <= 0:
        raise ConfigError(
            f"epochs={epochs} with batch_size={config.batch_size} trains nothing in {name}; both "
            "must be positive."
        )
    optim = own_optim(name, config.optim, changes)
    if options := options_of(file.make_loss):
        check_known(f"methods.{name}", entry, (*_FIELDS, *options))
    check_options(name, entry, file.make_loss)
    make_loss = lambda model, **changes: file.make_loss(model, **{**entry, **changes})  # noqa: E731
    make_loss(as_model(heads))  # refuses options that it does not know
    takes = inspect.signature(file.make_loss).parameters
    if config.parallel == "pmap" and "axis_name" not in takes:
        raise ConfigError(
            f"methods.{name}: its loss does not take axis_name, which parallel=pmap needs; use "
            "parallel=jit."
        )
    phase = Phase(name, epochs, tuple(freeze), optim, make_loss, entry, augment)
    build_optimizer(phase, 1)
    return phase


def own_optim(name: str, shared: ConfigDict, changes: dict) -> ConfigDict:
    """`config.optim` with what a method or phase changes of it (`methods.<name>.optim`)."""
    if unknown := sorted(set(changes) - set(shared)):
        raise ConfigError(
            f"methods.{name}.optim has {', '.join(unknown)}, which optim does not have; it has "
            f"{', '.join(shared)}.{meant(unknown, list(shared))}"
        )
    optim = {**shared, **changes}
    check_optim(name, optim, shared)
    optim["lr_mults"] = tuple((pattern, float(factor)) for pattern, factor in optim["lr_mults"])
    return ConfigDict(optim)


def learning_rate(phase: Phase, steps: int) -> Callable:
    """The phase's learning rate as a function of the steps made in it."""
    optim = phase.optim
    own = {k: optim[k] for k in _RATE if k not in ("schedule", "lr")}
    return make_schedule(optim.schedule, optim.lr, steps, **own)


def strength(phase: Phase) -> Schedule:
    """Lambda of an adversarial phase as a function of the run's progress."""
    given = {k: v for k, v in phase.options.items() if k in _LAMBDA}
    return lambda_schedule(given.pop("schedule", "ganin"), **given)


def own_config(config, method: Method) -> ConfigDict:
    """The config as one method sees it: with the data it trains on."""
    if not method.data:
        return config
    own = config.copy_and_resolve_references()
    own.data.update(method.data)
    return own


def teams(
    methods: dict[str, Method],
    can_join: Callable[[Method], bool],
    size: Callable[[Method], Any] = lambda method: None,
) -> list[tuple[str, ...]]:
    """Which methods can train as one program: those that differ in numbers along the run alone.

    Args:
      methods: by name.
      can_join: whether a method trains on cached features throughout.
      size: how many examples it trains on, which all of a program have in common.
    """
    found: dict[Any, list[str]] = {}
    for name, method in methods.items():
        key = (_likeness(method), size(method)) if can_join(method) else name
        found.setdefault(key, []).append(name)
    return [tuple(names) for names in found.values()]


def _likeness(method: Method) -> str:
    """What the methods of a team have in common, as text."""
    phases = []
    for phase in method.phases:
        free = LOSS_FACTORS + (_LAMBDA if method.adversarial else ())
        options = {k: v for k, v in phase.options.items() if k not in free}
        optim = {k: v for k, v in phase.optim.items() if k not in _RATE + OPTIM_FACTORS}
        phases.append((phase.epochs, phase.freeze, sorted(options.items()), sorted(optim.items())))
    return repr((method.heads, method.loss, phases))


def build_optimizer(
    phase: Phase,
    steps: int,
    *,
    spans: tuple[Span, ...] = (),
    index: int = 0,
    rate: Callable | None = None,
    **factors: Any,
) -> optax.GradientTransformation:
    """The optimizer of a phase of `steps` steps, the `index`-th of `spans`.

    `rate` stands in for the phase's own learning rate, `factors` for its `OPTIM_FACTORS`.

    Raises:
      ConfigError: an unknown schedule or optimizer.
    """
    rest = {k: phase.optim[k] for k in ("name", "weight_decay", "clip_norm", "lr_mults")}
    if spans:
        rest |= {"start": spans[index].start, "since": training_since(spans, index)}
    try:
        rate = rate or learning_rate(phase, steps)
        return make_optimizer(rate, freeze=phase.freeze, **rest | factors)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{phase.name}: optim: {error}") from None


def check_groups(phase: Phase, groups: tuple[str, ...], unused: set[str]) -> None:
    """Refuses patterns that name no layer group, and a phase that trains nothing.

    Args:
      phase: what to check.
      groups: all layer groups of the encoder and the heads.
      unused: those that the method has no use for.

    Raises:
      ConfigError: either.
    """
    try:
        check_patterns(phase.freeze, groups)
        check_patterns([pattern for pattern, _ in phase.optim.lr_mults], groups, "lr_mults")
    except ValueError as error:
        raise ConfigError(f"methods.{phase.name}: {error}") from None
    if all(is_frozen(group, phase.freeze) or group in unused for group in groups):
        raise ConfigError(
            f"methods.{phase.name}: freeze={phase.freeze} leaves nothing to train; free a layer "
            f"group of {', '.join(group for group in groups if group not in unused)}."
        )
