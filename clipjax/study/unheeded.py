"""Options that would have no effect: refused before anything is read."""

from collections.abc import Iterator, Mapping
from typing import Any

from clipjax.errors import ConfigError
from clipjax.study.config import Study
from clipjax.study.towers import GROUPS, LAYERS, trains
from clipjax.study.training import Optim
from clipjax.train.groups import is_frozen

Method = Any  # a `clipjax.study.methods.Method`, whose file imports this one
# Fields of an entry that say how steps are made.
_OF_STEPS = ("epochs", "optim", "freeze", "augment", "average", "result", "batch_size")
_OF_STEPS += ("unfreeze", "phases")
# Fields of optim -> whether an optimizer of these settings heeds them.
_SGD, _ADAM = (lambda optim: optim.name == "sgd"), (lambda optim: optim.name != "sgd")
_STEP = lambda optim: optim.schedule == "step"
_WARM = lambda optim: optim.warmup > 0 and optim.schedule != "slanted"
_HEEDED = {"momentum": _SGD, "nesterov": _SGD, "b1": _ADAM, "b2": _ADAM, "eps": _ADAM}
_HEEDED |= {"step_every": _STEP, "gamma": _STEP, "warmup_from": _WARM, "warmup_kind": _WARM}
_TOLD = {_SGD: "adam and adamw", _ADAM: "sgd", _STEP: "another schedule than step"}
_TOLD |= {_WARM: "warmup=0, or schedule=slanted"}
_MULTS = " or have a rate of their own by lr_mults"


def check_heeded(study: Study, methods: Mapping[str, Method]) -> None:
    """Raise ConfigError for what a study or one of its methods is given in vain."""
    for method in methods.values():
        _check_steps(study, method)
        _check_shots(study, method)
        _check_features(method)
        asked = any(path.endswith("layer_decay") for path in _given(study, method))
        if asked and _decays(method) and not _trains_layers(method):
            told = f"methods.{method.config.stage}: optim.layer_decay has no layers to act on"
            raise ConfigError(f"{told}, all towers are frozen{_MULTS}; free one, or leave it out.")
    _check_optim(study, methods)
    if methods and not any(method.trains for method in methods.values()):
        if study.training.patience:
            told = f"patience={study.training.patience} ends runs early, and no method takes steps"
            raise ConfigError(f"{told}; leave it out.")
    swept = any("optim.layer_decay" in grid for grid in study.sweep)
    if methods and (swept or study.training.optim.layer_decay != 1):
        if not any(_trains_layers(method) for method in methods.values()):
            told = "optim.layer_decay has no layers to act on: every method freezes all towers"
            raise ConfigError(f"{told}{_MULTS}; free one, or leave it out.")


def _check_optim(study: Study, methods: Mapping[str, Method]) -> None:
    """Raise ConfigError for a field of optim that no phase heeds: of its method, or of any."""
    phases = lambda found: [phase.optim for method in found for phase in method.phases]
    usual, every = vars(Optim()), phases(methods.values())
    for name, heeds in _HEEDED.items():
        told = f"optim.{name} has no effect with {_TOLD[heeds]}; leave it out"
        for method in methods.values():
            stage = method.config.stage
            mine = phases(m for m in methods.values() if m.config.stage == stage)
            asked = any(path.endswith(f"optim.{name}") for path in _given(study, method))
            other = any(getattr(optim, name) != usual[name] for optim in mine)
            if asked and other and not any(map(heeds, mine)):
                raise ConfigError(f"methods.{stage}: {told}.")
        changed = getattr(study.training.optim, name) != usual[name]
        swept = any(f"optim.{name}" in grid for grid in study.sweep)
        if (changed or swept) and every and not any(map(heeds, every)):
            raise ConfigError(f"{told}.")


def _given(study: Study, method: Method) -> Iterator[str]:
    """Yield the fields that the config gives to one method: of its entry, and of sweeps."""
    stage = method.config.stage
    yield from _paths(study.methods[stage])
    for grid in study.sweep:
        yield from (k.removeprefix(f"methods.{stage}.") for k in grid if k.startswith("methods."))


def _paths(entry: Mapping, before: str = "") -> Iterator[str]:
    for key, value in entry.items():
        yield before + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{key}.")


def _check_steps(study: Study, method: Method) -> None:
    if method.trains:
        return
    if found := [p for p in _given(study, method) if p.partition(".")[0] in _OF_STEPS]:
        where, loss = f"methods.{method.config.stage}", method.config.loss
        raise ConfigError(f"{where}.{found[0]}: loss {loss!r} takes no steps; leave it out.")


def _check_shots(study: Study, method: Method) -> None:
    """CoOp's validation images are drawn after its shots, from one stream: once for a study."""
    own, usual = method.data, study.data
    if own.shots_rule != "coop":
        return
    where = f"methods.{method.config.stage}"
    if not own.shots:
        raise ConfigError(f"{where}: shots_rule=coop says which images shots takes, and it is 0.")
    of = lambda data: (data.shots_rule, data.shots, data.subset_seed)
    if of(own) != of(usual):
        fault = "its validation images are drawn after the shots of data.shots, once for the study"
        told = f"{where}: data.shots_rule=coop with shots or a subset_seed of its own: {fault}"
        raise ConfigError(f"{told}; run these shots apart.")


def _check_features(method: Method) -> None:
    """Raise ConfigError for a term on features that nothing trained makes, in any phase."""
    if not getattr(method.kind, "on_features", False):
        return
    adapts = lambda phase: method.heads.adapter and not is_frozen("adapter", phase.freeze)
    free = lambda phase: trains("image", phase) or adapts(phase)
    weighed = [phase for phase in method.phases if phase.options.get("weight") != 0]
    if weighed and not any(map(free, weighed)):
        told = f"loss {method.config.loss!r} has a term on features, and nothing that makes these"
        remedy = "give heads.adapter, or free layers of clip/vision"
        raise ConfigError(f"methods.{method.config.stage}: {told} trains; {remedy}.")


def _decays(method: Method) -> bool:
    return any(phase.optim.layer_decay != 1 for phase in method.phases)


def _trains_layers(method: Method) -> bool:
    """Return whether a phase trains a layer below a tower's output, by the config alone."""
    if not method.trains:
        return False
    towers = ["image", *(["text"] if "text" in method.kind.towers else [])]
    names = [f"{GROUPS[tower]}/{layer}" for tower in towers for layer in LAYERS]
    # An explicit factor comes first.
    other = lambda phase: (*phase.freeze, *(pattern for pattern, _ in phase.optim.lr_mults))
    return any(not is_frozen(name, other(phase)) for phase in method.phases for name in names)
