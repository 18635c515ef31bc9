"""The optimizer and the learning rate of a phase."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from clipjax.errors import ConfigError
from clipjax.study.training import PhaseConfig
from clipjax.train.groups import layer_mults
from clipjax.train.optim import Rule, make_optimizer
from clipjax.train.phases import Span, training_since
from clipjax.train.schedules import make_schedule

# Options of the optimizer that are numbers along the run, in which methods of one program may
# differ; and those that are plain factors in the step.
_CURVE = ("warmup", "warmup_kind", "warmup_from", "step_every", "gamma", "min_lr")
RATE = ("schedule", "lr", "schedule_every", "schedule_over", *_CURVE)
OPTIM_FACTORS = ("weight_decay",)


def learning_rate(phase: PhaseConfig, spans: Sequence[Span], index: int) -> Callable:
    """Return the phase's learning rate as a function of the steps made in it.

    `spans` are the run's phases, of which this is the `index`-th.
    """
    optim, span = phase.optim, spans[index]
    rest = {key: getattr(optim, key) for key in _CURVE}
    if optim.schedule_every == "epoch":
        rest["every"] = span.steps // phase.epochs
    if optim.schedule_over == "phase":
        return make_schedule(optim.schedule, optim.lr, span.steps, **rest)
    curve = make_schedule(optim.schedule, optim.lr, spans[-1].start + spans[-1].steps, **rest)
    return lambda step: curve(span.start + step)


def build_optimizer(
    phase: PhaseConfig,
    spans: Sequence[Span],
    index: int = 0,
    *,
    rate: Callable | None = None,
    depths: Mapping[str, int] = {},
    **factors: Any,
) -> optax.GradientTransformation:
    """Build a phase's optimizer; `rate` and `factors` replace its own rate and `OPTIM_FACTORS`.

    `depths`: blocks of each tower, for `optim.layer_decay`.
    """
    optim = phase.optim
    rest = {k: getattr(optim, k) for k in ("weight_decay", "clip_norm", "clip_value")}
    rest["lr_mults"] = (*optim.lr_mults, *layer_mults(optim.layer_decay, depths))
    rest |= {"start": spans[index].start, "since": training_since(spans, index)}
    rule = Rule(**{field.name: getattr(optim, field.name) for field in dataclasses.fields(Rule)})
    try:
        rate = rate or learning_rate(phase, spans, index)
        return make_optimizer(rate, rule, freeze=phase.freeze, **rest | factors)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{phase.name}: optim: {error}") from None
