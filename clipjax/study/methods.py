"""From a study's methods to heads and losses; refuses what cannot run."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

import clipjax.adapt
from clipjax.adapt.grl import Schedule, lambda_schedule
from clipjax.adapt.step import Loss
from clipjax.errors import ConfigError
from clipjax.model.heads import Heads, as_model
from clipjax.study.config import Pretraining, Study
from clipjax.study.entries import FIELDS
from clipjax.study.fields import is_number, meant, short
from clipjax.study.parts import Data, MethodConfig, PhaseConfig
from clipjax.train.groups import check_patterns, is_frozen, layer_groups, name_tree
from clipjax.train.optim import make_optimizer, make_schedule
from clipjax.train.phases import Span, training_since
from clipjax.train.restore import is_step

# Options that are numbers along the run, in which methods of one program may differ.
_RATE = ("schedule", "lr", "warmup", "step_every", "gamma")
_LAMBDA = ("schedule", "lam_max", "gamma", "start")
# Options that are plain factors in the step: of the optimizer, and of the loss.
OPTIM_FACTORS, LOSS_FACTORS = ("weight_decay",), ("label_smoothing",)


# What the config says of heads: not what the data say, nor flax.
_NOT_GIVEN = ("num_classes", "parent", "name")
HEADS = tuple(f.name for f in dataclasses.fields(Heads) if f.name not in _NOT_GIVEN)


class Method(NamedTuple):
    """A trained method: what the config says of it, its networks and its loss."""

    config: MethodConfig
    heads: Heads
    make_loss: Callable[..., Loss]  # (model, **options), of its file in clipjax/adapt
    adversarial: bool  # the loss has a domain part

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases it trains in."""
        return self.config.phases

    @property
    def data(self) -> Data:
        """What it trains on."""
        return self.config.data

    def loss(self, phase: PhaseConfig, model: Any, **changes: Any) -> Loss:
        """The loss of a phase, some options changed."""
        return self.make_loss(model, **{**phase.options, **changes})


def loss_files() -> dict[str, object]:
    """The modules of `clipjax.adapt` that hold a method, by name."""
    names = [m.name for m in pkgutil.iter_modules(clipjax.adapt.__path__)]
    modules = {name: importlib.import_module(f"clipjax.adapt.{name}") for name in names}
    return {name: m for name, m in modules.items() if hasattr(m, "make_loss")}


def build_methods(study: Study, num_classes: int) -> dict[str, Method]:
    """The methods that a study trains, by name, in order.

    Raises:
      ConfigError: a loss without a file, an option it refuses, heads that cannot be.
    """
    built, parallel = {}, study.devices.parallel
    for config in study.trained:
        where = f"methods.{config.stage}"
        for name in (config.stage, *(phase.label for phase in config.phases)):
            check_name(name)
        try:
            built[config.name] = _build(config, where, num_classes, parallel)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from None
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


def _build(config: MethodConfig, where: str, num_classes: int, parallel: str) -> Method:
    losses = loss_files()
    if config.loss not in losses:
        raise ConfigError(
            f"{where}.loss is {config.loss!r}, but clipjax/adapt has no such method; it has: "
            f"{', '.join(losses)}.{meant(config.loss, losses)}"
        )
    file = losses[config.loss]
    if unknown := [name for name in config.heads if name not in HEADS]:
        raise ConfigError(
            f"{where}.heads has no {', '.join(unknown)}; it has {', '.join(HEADS)}."
            f"{meant(unknown[0], HEADS)}"
        )
    try:
        heads = Heads(num_classes=num_classes, **config.heads)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}.heads: {error}") from None
    adversarial = hasattr(file, "gradient_ratio")
    if adversarial and heads.discriminator is None:
        raise ConfigError(
            f"{where}: loss {config.loss!r} needs heads.discriminator, the widths of a domain head."
        )
    method = Method(config, heads, file.make_loss, adversarial)
    for phase in config.phases:
        at = f"{where}.phases.{phase.label}" if phase.label else where
        check_options(at, phase.options, file.make_loss)
        if phase.options.get("diversity_weight") and heads.members == 1:
            raise ConfigError(f"{at}: diversity_weight needs an ensemble: heads.members > 1.")
        method.loss(phase, as_model(heads))  # refuses values that it does not take
        build_optimizer(phase, 1)
    return method


def check_options(where: str, options: Mapping[str, Any], make_loss: Callable) -> None:
    """Refuses options that a loss does not have, or not of the kind of its defaults.

    Args:
      where: the method or phase, for the error.
      options: what is given.
      make_loss: of a file of clipjax/adapt; options are its keyword-only parameters.

    Raises:
      ConfigError: the option.
    """
    parameters = inspect.signature(make_loss).parameters.values()
    takes = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in takes:
            known = [name for name in takes if name != "axis_name"]
            raise ConfigError(
                f"{where} has no option {option}; its loss takes {', '.join(known) or 'none'}."
                f"{meant(option, [*known, *FIELDS])}"
            )
        usual, said = takes[option], f"{where}.{option} is {short(value)}"
        if isinstance(usual, bool) and not isinstance(value, bool):
            raise ConfigError(f"{said}; give True or False.")
        if isinstance(usual, (int, float)) and not isinstance(usual, bool) and not is_number(value):
            raise ConfigError(f"{said}; give a finite number.")
        if isinstance(usual, str) and not isinstance(value, str):
            raise ConfigError(f"{said}; give a name, as {usual!r} is.")
        if option == "label_smoothing" and not 0 <= value < 1:
            raise ConfigError(f"{said}; give at least 0 and less than 1.")


def learning_rate(phase: PhaseConfig, steps: int) -> Callable:
    """The phase's learning rate as a function of the steps made in it."""
    optim = phase.optim
    own = {k: getattr(optim, k) for k in _RATE if k not in ("schedule", "lr")}
    return make_schedule(optim.schedule, optim.lr, steps, **own)


def lambda_of(phase: PhaseConfig) -> Schedule:
    """Lambda of an adversarial phase as a function of the run's progress."""
    given = {k: v for k, v in phase.options.items() if k in _LAMBDA}
    return lambda_schedule(given.pop("schedule", "ganin"), **given)


def group_runs(
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
        key = (program_key(method), size(method)) if can_join(method) else name
        found.setdefault(key, []).append(name)
    return [tuple(names) for names in found.values()]


def program_key(method: Method) -> str:
    """What the methods of one program have in common, as text."""
    phases = []
    for phase in method.phases:
        free = LOSS_FACTORS + (_LAMBDA if method.adversarial else ())
        options = {k: v for k, v in phase.options.items() if k not in free}
        optim = {k: v for k, v in vars(phase.optim).items() if k not in _RATE + OPTIM_FACTORS}
        phases.append((phase.epochs, phase.freeze, sorted(options.items()), sorted(optim.items())))
    return repr((method.heads, method.config.loss, phases))


def build_optimizer(
    phase: PhaseConfig,
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
    kept = ("name", "weight_decay", "clip_norm", "lr_mults")
    rest = {k: getattr(phase.optim, k) for k in kept}
    if spans:
        rest |= {"start": spans[index].start, "since": training_since(spans, index)}
    try:
        rate = rate or learning_rate(phase, steps)
        return make_optimizer(rate, freeze=phase.freeze, **rest | factors)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{phase.name}: optim: {error}") from None


def check_groups(phase: PhaseConfig, params: Any, unused: set[str]) -> None:
    """Refuses patterns that name no layer group or parameter, and a phase that trains nothing.

    Args:
      phase: what to check.
      params: of the encoder and the heads, or their shapes.
      unused: layer groups that the method has no use for.

    Raises:
      ConfigError: either.
    """
    try:
        check_patterns(phase.freeze, params)
        check_patterns([pattern for pattern, _ in phase.optim.lr_mults], params, "lr_mults")
    except ValueError as error:
        raise ConfigError(f"methods.{phase.name}: {error}") from None
    names = jax.tree.leaves(name_tree(params))
    if all(name.group in unused or is_frozen(name, phase.freeze) for name in names):
        groups = layer_groups(params)
        raise ConfigError(
            f"methods.{phase.name}: freeze={phase.freeze} leaves nothing to train; free a layer "
            f"group of {', '.join(group for group in groups if group not in unused)}."
        )


_DEEPEST = 64  # blocks; no CLIP has as many


def trains_on_pixels(config: Study | Pretraining) -> bool:
    """Whether a method trains from pixels, as far as the config says; in doubt, yes.

    `clipjax.study.plan.cached_phases` knows, but when memory is set up nothing is loaded yet.
    """
    if isinstance(config, Pretraining):
        return True
    tower = ("embedding", "projection", *(f"block_{i}" for i in range(_DEEPEST)))
    groups = [f"clip/vision/{part}" for part in tower]
    return any(
        phase.augment is not None
        or bool(method.heads.get("text"))
        or not all(is_frozen(group, phase.freeze) for group in groups)
        for method in config.trained
        for phase in method.phases
    )
