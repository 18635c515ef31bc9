"""From the config's method entries to heads, losses and an optimizer; refuses what cannot run."""

from __future__ import annotations

import importlib
import pkgutil
from typing import NamedTuple

import optax
from ml_collections import ConfigDict

import clipjax.adapt
from clipjax.adapt.step import Loss
from clipjax.errors import ConfigError
from clipjax.model.heads import Heads, as_model
from clipjax.train.optim import make_optimizer, make_schedule


class Method(NamedTuple):
    """A trained method: its networks, its loss and how long and how fast it trains."""

    heads: Heads
    loss: Loss
    optim: ConfigDict  # config.optim with the method's own changes
    epochs: int


def loss_files() -> dict[str, object]:
    """The modules of `clipjax.adapt` that hold a method, by name."""
    names = [m.name for m in pkgutil.iter_modules(clipjax.adapt.__path__)]
    modules = {name: importlib.import_module(f"clipjax.adapt.{name}") for name in names}
    return {name: m for name, m in modules.items() if hasattr(m, "make_loss")}


def build_methods(config, num_classes: int) -> dict[str, Method]:
    """The methods of `config.stages`, in order.

    Raises:
      ConfigError: a stage without a method, a loss without a file, or an option it refuses.
    """
    losses, built = loss_files(), {}
    for name in config.stages:
        if name not in config.methods:
            raise ConfigError(
                f"stages names {name!r}, which config.methods does not have; methods: "
                f"{', '.join(sorted(config.methods))}."
            )
        options = config.methods[name].to_dict()
        epochs = options.pop("epochs", config.epochs)
        optim = own_optim(name, config.optim, options.pop("optim", {}))
        if lacking := [key for key in ("loss", "heads") if key not in options]:
            raise ConfigError(f"methods.{name} has no {' and no '.join(lacking)}.")
        file = options.pop("loss")
        if file not in losses:
            raise ConfigError(
                f"methods.{name}.loss is {file!r}, but clipjax/adapt has no such method; "
                f"it has: {', '.join(losses)}."
            )
        try:
            heads = Heads(num_classes=num_classes, **options.pop("heads"))
            if options.get("diversity_weight") and heads.members == 1:
                raise ValueError("diversity_weight needs an ensemble: heads.members > 1.")
            loss = losses[file].make_loss(as_model(heads), **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"methods.{name}: {error}") from None
        built[name] = Method(heads, loss, optim, epochs)
    return built


def own_optim(name: str, shared: ConfigDict, changes: dict) -> ConfigDict:
    """`config.optim` with what a method changes of it (`methods.<name>.optim`)."""
    if unknown := sorted(set(changes) - set(shared)):
        raise ConfigError(
            f"methods.{name}.optim has {', '.join(unknown)}, which optim does not have; it has "
            f"{', '.join(shared)}."
        )
    return ConfigDict({**shared, **changes})


def head_freeze(freeze: tuple[str, ...]) -> tuple[str, ...]:
    """The freeze patterns that concern the heads; the encoder must be frozen as a whole.

    Raises:
      ConfigError: patterns that leave parts of the encoder to train.
    """
    if "clip/.*" not in freeze:
        raise ConfigError(
            f"freeze={tuple(freeze)} leaves the encoder to train, but these experiments train on "
            "cached features of a frozen encoder; add 'clip/.*'."
        )
    return tuple(p for p in freeze if not p.startswith("clip/"))


def build_optimizer(method: Method, config, total_steps: int) -> optax.GradientTransformation:
    """The optimizer of a method over its heads.

    Raises:
      ConfigError: an unknown schedule or optimizer, or a run without steps.
    """
    if total_steps <= 0 or config.batch_size <= 0:
        raise ConfigError(
            f"epochs={method.epochs} with batch_size={config.batch_size} trains nothing; both "
            "must be positive."
        )
    optim = method.optim.to_dict()
    shape = {k: optim.pop(k) for k in ("warmup", "step_every", "gamma")}
    try:
        schedule = make_schedule(optim.pop("schedule"), optim.pop("lr"), total_steps, **shape)
        return make_optimizer(schedule, freeze=head_freeze(tuple(config.freeze)), **optim)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim: {error}") from None
