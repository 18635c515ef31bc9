"""From a study's methods to pure functions; refuses what cannot run."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import clipjax.adapt
from clipjax.adapt import method as contract
from clipjax.adapt.align import aligned
from clipjax.adapt.method import Backbone, Classes, ClosedForm
from clipjax.adapt.probe import from_logistic
from clipjax.adapt.terms import add_terms
from clipjax.errors import ConfigError
from clipjax.model.backbone import TOWERS, make_head
from clipjax.model.heads import Heads
from clipjax.model.prompts import fill_prompts
from clipjax.study.config import Study
from clipjax.study.fields import is_number, meant, no_such
from clipjax.study.loss_options import check_options, options_of, terms_of
from clipjax.study.optimizers import OPTIM_FACTORS, RATE, build_optimizer
from clipjax.study.parts import Data
from clipjax.study.prompt_sets import checked_reads
from clipjax.study.soups import check_soups
from clipjax.study.towers import check_preserve, held
from clipjax.study.training import MethodConfig, PhaseConfig
from clipjax.study.unheeded import check_heeded
from clipjax.train.groups import check_patterns, is_frozen, layer_groups, name_tree
from clipjax.train.phases import spans
from clipjax.train.restore import is_step

LOSS_FACTORS = ("label_smoothing",)  # plain factors in the step, as `OPTIM_FACTORS` are

# Heads as the config has them, without what the data or flax say.
_NOT_GIVEN = ("num_classes", "parent", "name")
_HEADS = tuple(f.name for f in dataclasses.fields(Heads) if f.name not in _NOT_GIVEN)
_NO_EPISODES = "needs episodes = {'way': ..., 'shot': ..., 'query': ..., 'count': ...}"

Functions = contract.Method | ClosedForm


class Method(NamedTuple):
    """A method of a study: what the config says of it, and the functions it is made of."""

    config: MethodConfig
    heads: Heads | None  # None where it takes none
    make: Callable[..., Functions]  # `make_method` of its module
    kind: Functions  # as its last phase makes it; it reads what any phase reads
    terms: tuple[str, ...] = ()  # options that are not its loss's own, but of `add_terms`

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases it trains in; none of a closed form."""
        return self.config.phases if self.trains else ()

    @property
    def trains(self) -> bool:
        """Return whether it takes steps."""
        return isinstance(self.kind, contract.Method)

    @property
    def data(self) -> Data:
        """The data it trains on."""
        return self.config.data

    @property
    def shots(self) -> int:
        """The labelled images a class, where they shape its parameters; else 0."""
        return self.data.shots if "shots" in inspect.signature(self.make).parameters else 0

    def on(self, backbone: Backbone, classes: Classes, phase: PhaseConfig, **changes) -> Functions:
        """Make the method over a backbone, with the options of a phase, some changed."""
        given = {**phase.options, **changes}
        terms = {name: given.pop(name) for name in self.terms if name in given}
        if self.heads is not None:
            given["head"] = make_head(self.heads, backbone, classes)
        taken = inspect.signature(self.make).parameters
        own = {"episodes": self.config.episodes, "shots": self.shots}
        given |= {name: value for name, value in own.items() if name in taken}
        made, align = self.make(backbone, classes, **given), self.config.align
        if self.heads is not None and self.heads.start == "logistic":
            made = from_logistic(made)
        if terms:
            text = self.heads is not None and self.heads.text
            made = add_terms(made, backbone, classes, text, **terms)
        if self.config.preserve and isinstance(made, contract.Method):
            made = held(made, backbone, classes, self.config, phase)
        texts = self.heads is not None and self.heads.from_texts and self.heads.class_bias
        return made if align == "none" else aligned(made, align, texts)


def find_module(where: str, loss: str) -> Any:
    """Import the module of a method: a file of clipjax/adapt, or "my_package.my_method"."""
    if "." not in loss:
        files = [file.name for file in pkgutil.iter_modules(clipjax.adapt.__path__)]
        modules = {name: importlib.import_module(f"clipjax.adapt.{name}") for name in files}
        known = [name for name, module in modules.items() if hasattr(module, "make_method")]
        if loss in known:
            return modules[loss]
        raise ConfigError(
            f"{where}.loss is {loss!r}, but clipjax/adapt has no such method; it has: "
            f"{', '.join(known)}. A method of your own is 'package.module'.{meant(loss, known)}"
        )
    try:
        module = importlib.import_module(loss)
    except Exception as error:
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ConfigError(f"{where}.loss: {loss!r} cannot be imported ({kind}{error}).") from error
    if not callable(getattr(module, "make_method", None)):
        wanted = "make_method(backbone, classes, **options), as clipjax.adapt.method describes it"
        raise ConfigError(f"{where}.loss: {loss!r} has no {wanted}.")
    return module


def build_methods(study: Study, classes: tuple[str, ...]) -> dict[str, Method]:
    """Build the methods that a study trains, by name, in order."""
    built = {}
    for config in study.trained:
        where = f"methods.{config.stage}"
        for name in (config.stage, *(phase.label for phase in config.phases)):
            if is_step(name):
                told = f"a method or phase is called {name!r}: its folder would be taken for the"
                raise ConfigError(f"{told} checkpoint of that step; put a letter in front.")
        try:
            built[config.name] = _build(config, where, classes)
            _check_ways(built[config.name], where, study)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from None
    check_soups(built, len(study.training.seeds))
    check_heeded(study, built)
    return built


def _build(config: MethodConfig, where: str, names: tuple[str, ...]) -> Method:
    module = find_module(where, config.loss)
    heads = _heads(config, where, module.make_method, len(names))
    taken = inspect.signature(module.make_method).parameters
    if "episodes" in taken and config.episodes is None:
        raise ConfigError(f"{where}: loss {config.loss!r} {_NO_EPISODES}.")
    # Nothing of it is called: what a method reads and runs is known before a model is opened.
    backbone = Backbone({tower: _absent for tower in TOWERS}, _absent, _absent, TOWERS)
    classes = Classes(names, None, np.zeros((len(names), 1), np.float32), 1.0)
    kinds, terms = [], tuple(terms_of(module))
    for phase in config.phases:
        at = f"{where}.phases.{phase.label}" if phase.label else where
        if config.align != "none" and any(phase.options.get(name) for name in terms):
            raise ConfigError(f"{at}: added terms compare CLIP's own embeddings; leave align out.")
        check_options(at, phase.options, module)
        if phase.options.get("diversity_weight") and heads is not None and heads.members == 1:
            raise ConfigError(f"{at}: diversity_weight needs an ensemble: heads.members > 1.")
        made = Method(config, heads, module.make_method, None, terms)
        kinds.append(made.on(backbone, classes, phase))
        if isinstance(kinds[-1], contract.Method):
            build_optimizer(phase, spans([phase.epochs], [phase.freeze]))
    config, kind = _with_defaults(config, options_of(module)), _of_all(kinds)
    config = config.with_episodes(len(names), kind.episode is not None)
    return Method(_fixing(config, kinds), heads, module.make_method, kind, terms)


def _with_defaults(config: MethodConfig, usual: Mapping[str, Any]) -> MethodConfig:
    """Write the defaults of loss factors out: methods of one program may differ in them."""
    known = {key: usual[key] for key in LOSS_FACTORS if is_number(usual.get(key))}
    filled = lambda phase: dataclasses.replace(phase, options=known | dict(phase.options))
    return dataclasses.replace(config, phases=tuple(map(filled, config.phases)))


def _fixing(config: MethodConfig, kinds: Sequence[Functions]) -> MethodConfig:
    """Freeze in each phase what the method, as the phase makes it, leaves constant."""

    def freeze(phase: PhaseConfig, kind: Functions) -> PhaseConfig:
        more = (f"{re.escape(name)}(/.*)?" for name in getattr(kind, "constants", ()))
        return dataclasses.replace(phase, freeze=(*phase.freeze, *more))

    return dataclasses.replace(config, phases=tuple(map(freeze, config.phases, kinds)))


def _of_all(kinds: Sequence[Functions]) -> Functions:
    """Return a method as its last phase makes it, with what any phase reads or cannot take."""
    last = kinds[-1]
    if isinstance(last, ClosedForm):
        return last
    reads = tuple(dict.fromkeys(part for kind in kinds for part in kind.reads))
    return last._replace(reads=reads, per_example=all(kind.per_example for kind in kinds))


def _absent(*_, **__):
    raise AssertionError("a method called its backbone while it was made")


def _heads(config: MethodConfig, where: str, make: Callable, num_classes: int) -> Heads | None:
    """Return the heads of a method that takes some."""
    if "head" not in inspect.signature(make).parameters:
        if config.heads:
            raise ConfigError(f"{where}: loss {config.loss!r} takes no heads; leave them out.")
        return None
    if config.heads is None:
        raise ConfigError(f"{where} has no heads; give them, {{}} for a linear one.")
    if unknown := [name for name in config.heads if name not in _HEADS]:
        raise no_such(unknown, _HEADS, f"{where}.heads")
    given = {"num_domains": len(config.data.sources) + 1, **config.heads}
    try:
        return Heads(num_classes=num_classes, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}.heads: {error}") from None


def _check_ways(method: Method, where: str, study: Study) -> None:
    """Raise ConfigError for batches that the method cannot have, or that change its loss."""
    kind, said = method.kind, f"{where}: loss {method.config.loss!r}"
    more = set() if method.trains else {contract.VALIDATION, *checked_reads(where, kind.reads)}
    if set(kind.reads) - more - set(contract.READS) or "source" not in kind.reads:
        raise ConfigError(
            f"{said} reads {', '.join(kind.reads)}, which a study does not bring; it brings "
            f"{', '.join(contract.READS)}, the source always."
        )
    if "support" in kind.reads and method.config.episodes is None:
        raise ConfigError(f"{said} {_NO_EPISODES}.")
    if method.config.episodes and "support" not in kind.reads and kind.episode is None:
        raise ConfigError(f"{said} takes no episodes; leave them out.")
    if method.heads and method.heads.start == "logistic" and "support" in kind.reads:
        told = "heads.start='logistic' fits the classes of all images, and an episode has its own"
        raise ConfigError(f"{where}: {told}; leave start out.")
    drawn = any(phase.options.get("templates", "all") != "all" for phase in method.phases)
    if drawn and len(fill_prompts("class", study.encoder.prompts)) == 1:
        fault = f"templates draws one of several prompts, and {study.encoder.prompts!r} is one"
        raise ConfigError(f"{where}: {fault}; leave it out, or choose more prompts.")
    check_preserve(where, kind, method.config)
    if method.config.wise and not starts_at_zero_shot(method):
        remedy = "use heads = {'text': True}, or {} for a linear head, without align"
        raise ConfigError(f"{where}: wise draws to zero-shot, where it does not start; {remedy}.")
    if not method.trains and any(phase.average for phase in method.config.phases):
        raise ConfigError(f"{said} takes no steps to average over; leave average out.")
    laid_out = lambda a: (
        a is not None and (a.start or a.last or a.kind in ("beta", "swad", "gauss"))
    )
    if study.training.patience and any(laid_out(phase.average) for phase in method.phases):
        fault = "ends a run when it will, and this average is laid out along all of its epochs"
        remedy = "average from the start (kind=uniform or ema), or set patience=0"
        raise ConfigError(f"{where}: patience {fault}; {remedy}.")
    accumulates, parallel = study.training.accumulate > 1, study.devices.parallel == "pmap"
    if (accumulates or parallel) and method.trains and not kind.per_example:
        cut = "accumulate" if accumulates else "parallel"
        fault = "compares the examples of a batch, of which parts have another loss"
        raise ConfigError(f"{said} {fault}; leave {cut} at its default.")


def starts_at_zero_shot(method: Method) -> bool:
    """Return whether a method's first answers are zero-shot's."""
    heads = method.heads if method.trains and "support" not in method.kind.reads else None
    if getattr(method.kind, "from_zero_shot", False):
        return method.config.align == "none"
    return heads is not None and method.config.align == "none" and (heads.text or heads.from_texts)


def group_runs(
    methods: dict[str, Method],
    can_join: Callable[[Method], bool],
    size: Callable[[Method], Any] = lambda method: None,
) -> list[tuple[str, ...]]:
    """Group methods that can train as one program: they differ in numbers along the run alone.

    `can_join`: whether a method trains on cached features throughout; `size`: on how many examples.
    """
    found: dict[Any, list[str]] = {}
    for name, method in methods.items():
        key = (_program_key(method), size(method)) if can_join(method) else name
        found.setdefault(key, []).append(name)
    return [tuple(names) for names in found.values()]


def _program_key(method: Method) -> str:
    """Return what the methods of one program have in common, as text."""
    phases, varying = [], RATE + OPTIM_FACTORS
    free = LOSS_FACTORS + tuple(method.kind.scheduled)
    for phase in method.phases:
        options = sorted(item for item in phase.options.items() if item[0] not in free)
        optim = sorted(item for item in vars(phase.optim).items() if item[0] not in varying)
        phases.append((phase.epochs, phase.freeze, options, optim, phase.average))
    config = method.config
    about = config.loss, config.episodes, config.align, config.batch_size, config.preserve
    return repr((method.heads, method.shots, *about, phases))


def check_groups(phase: PhaseConfig, params: Any, unused: set[str]) -> None:
    """Raise ConfigError for patterns that match nothing, and for a phase that trains nothing.

    `params` are the encoder's and the method's, `unused` layer groups that the method never reads.
    """
    try:
        check_patterns(phase.freeze, params)
        check_patterns([pattern for pattern, _ in phase.optim.lr_mults], params, "lr_mults")
    except ValueError as error:
        raise ConfigError(f"methods.{phase.name}: {error}") from None
    names = jax.tree.leaves(name_tree(params))
    if all(name.group in unused or is_frozen(name, phase.freeze) for name in names):
        groups = ", ".join(group for group in layer_groups(params) if group not in unused)
        where = f"methods.{phase.name}: freeze={phase.freeze}"
        raise ConfigError(f"{where} leaves nothing to train; free a layer group of {groups}.")
