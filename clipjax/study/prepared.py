"""A study with its data, model and methods opened, and what of it cannot train."""

import inspect
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import VALIDATION, Classes, Words
from clipjax.adapt.preserve import EMBEDDING
from clipjax.data.dataset import Dataset
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import some
from clipjax.log import sinks as trackers
from clipjax.model.backbone import make_backbone, tower_params
from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.image_model import ImageConfig, ImageModel, NoTexts
from clipjax.study.config import Study
from clipjax.study.fields import dotted, flat
from clipjax.study.mesh import device_memory, training_mesh
from clipjax.study.methods import Functions, Method, check_groups
from clipjax.study.parts import OWN_DATA, Devices
from clipjax.study.training import PhaseConfig
from clipjax.train.groups import Name, is_frozen, layer_groups, matches, name_tree

RECORD = "evidence.json"  # what a finished run has kept of its data


class Recorded(NamedTuple):
    """Stands for a run's dataset: its classes are known, its images are not needed."""

    classes: tuple[str, ...]  # in the run's order
    class_names: tuple[str, ...]  # as prompts say them
    programs: list[tuple[str, ...]]  # the methods that trained as one program each
    place: pathlib.Path  # of the record

    def source(self, domain: str, split: str) -> NoReturn:
        """Raise DataError: there are no images."""
        raise DataError(
            f"{self.place} names the run's classes and holds no images, and those of {domain}/"
            f"{split} are needed; is metrics.jsonl beside it complete?"
        )


def read_record(workdir: pathlib.Path) -> Recorded | None:
    """Read what a run has kept of its data; None where an earlier clipjax kept nothing."""
    place = workdir / RECORD
    try:
        found = json.loads(place.read_text()) if place.exists() else {}
        words = [found.get(key) for key in ("classes", "class_names", "programs")]
        if None in words:
            return None
        classes, names, programs = map(tuple, words)
        return Recorded(classes, names, [tuple(each) for each in programs], place)
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{place} is damaged ({error}); remove it to read the data.") from error


class Opened(NamedTuple):
    """What of a study is open already, in place of what its config names."""

    dataset: Dataset | None = None
    model: Mapping[str, Any] | None = None  # as `clipjax.study.model_opened.open_model` returns it


NOTHING = Opened()


class Plan(NamedTuple):
    """A study with its data, model and methods opened."""

    study: Study
    dataset: Dataset | Recorded
    class_names: tuple[str, ...]  # as prompts say them
    model: pathlib.Path  # directory
    module: CLIP | ImageModel
    params: Any  # of the encoder
    preprocess: Preprocess
    methods: dict[str, Method]
    notes: tuple[str, ...] = ()  # what the user should know of the data
    tokens: np.ndarray | None = None  # int32 [K, prompts, T]; None of a model without texts
    identity: Mapping[str, Any] = {}  # of the model (`clipjax.data.features.identity`)
    others: Mapping[str, Any] = {}  # a `Plan` of each of `study.evaluations`: data and texts
    bare: np.ndarray | None = None  # int32 [K, T], of `Classes.bare`; None where nothing reads it
    words: Mapping[str, Words] = {}  # that prompts start from
    elsewhere: Any = None  # a `Plan` of the dataset of `study.forgetting`
    teacher: Any = None  # a `Plan` of the same data with the model of `study.encoder.teacher`

    @property
    def clip_config(self) -> CLIPConfig | ImageConfig:
        """Sizes of the encoder."""
        return self.module.config


def cached_phases(plan: Plan, method: Method) -> tuple[bool, ...]:
    """Return which phases train on image features that were encoded once.

    There the image tower is frozen, sees images as they are, and has not trained before.
    """
    found: list[bool] = []
    for phase in method.phases:
        still = phase.augment is None and not through_images(plan, method, phase)
        found.append(still and all(found))
    return tuple(found)


def through_images(plan: Plan, method: Method, phase: PhaseConfig) -> bool:
    """Return whether a gradient goes through the image tower: it trains, or what alters it."""
    frozen = all(is_frozen(group, phase.freeze) for group in _images(plan))
    return not frozen or "image" in method.kind.alters


def _images(plan: Plan) -> tuple[str, ...]:
    """Return the layer groups of the image tower."""
    return layer_groups({"clip": tower_params(plan.params, ("image",))})


def made_of(plan: Plan, method: Method, phase: PhaseConfig) -> Functions:
    """Make a method over the model's cached embeddings; ConfigError for what the model refuses."""
    backbone = make_backbone(plan.module, lambda pixels, rng: pixels, ("image",), plan.words)
    try:
        return method.on(backbone, shape_classes(plan), phase)
    except ValueError as error:
        raise ConfigError(f"methods.{method.config.stage}: {error}") from None


def shape_classes(plan: Plan) -> Classes:
    """Return the classes of a plan before a text is encoded: their weights are zeros."""
    names, width = tuple(plan.dataset.classes), plan.clip_config.projection_dim
    if plan.module.config.text is None:
        return Classes(names, *(NoTexts(*s) for s in ((len(names), 1, 1), (len(names), width), ())))
    tokens = np.zeros((len(names), 1, 1), np.int32) if plan.tokens is None else plan.tokens
    return Classes(names, tokens, jnp.zeros((len(names), width)), 1.0, plan.bare)


def own_shapes(plan: Plan, method: Method, phase: int = -1) -> Any:
    """Return shapes of a method's own parameters, nothing computed; {} of a closed form's.

    The options of the last phase make them; those of another one have to make the same.
    """
    if not method.trains:
        return {}
    made = made_of(plan, method, method.phases[phase])
    own = jax.eval_shape(made.init, jax.random.key(0))
    if made.start is None:
        return own
    start = lambda data, own: made.start(data, shape_classes(plan), own)
    return jax.eval_shape(start, feature_shapes(plan, method), own)


def feature_shapes(plan: Plan, method: Method, examples: int = 1 << 16) -> Any:
    """Return shapes of a method's training features, of any number of examples a domain."""
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((examples, *sizes), dtype)
    found = {"source": {"inputs": shape(plan.clip_config.projection_dim)}}
    if "target" in method.kind.reads:
        found["target"] = dict(found["source"])
    if "zero_shot" in method.kind.reads:
        for part in found.values():
            part["zero_shot"] = shape(len(plan.dataset.classes))
    if EMBEDDING in method.kind.reads:
        for part in found.values():
            part[EMBEDDING] = part["inputs"]
    found["source"]["label"] = shape(dtype=jnp.int32)
    if VALIDATION in getattr(method.kind, "start_reads", ()):
        found[VALIDATION] = dict(found["source"])
    if (domains := len(method.data.sources)) > 1:
        found["source"]["domain"] = shape(domains)
    return found


def _clip_groups(plan: Plan, method: Method) -> tuple[str, ...]:
    """Return the layer groups of what a method uses of the encoder."""
    towers = method.kind.towers if method.trains else ("image",)
    return layer_groups({"clip": tower_params(plan.params, towers)})


def check_masks(plan: Plan, method: Method) -> None:
    """Raise ConfigError for patterns that fit no group, or phases that train nothing."""
    own = own_shapes(plan, method)
    everything = {"clip": plan.params, **own}
    unused = set(layer_groups(everything)) - {*layer_groups(own), *_clip_groups(plan, method)}
    shared, cached = plan.study.data, all(cached_phases(plan, method))
    if method.config.align != "none" and not cached:
        told = f"methods.{method.config.stage}: align={method.config.align} is of cached embeddings"
        remedy = "freeze the image tower and leave augment out, or leave align out"
        raise ConfigError(f"{told}, and this method trains from pixels; {remedy}.")
    differs = [name for name in OWN_DATA if getattr(method.data, name) != getattr(shared, name)]
    keeps = method.trains and method.kind.episode is not None
    if keeps and any(not all(is_frozen(g, p.freeze) for g in _images(plan)) for p in method.phases):
        told = (
            f"methods.{method.config.stage}: loss {method.config.loss!r} keeps embeddings to answer"
        )
        raise ConfigError(
            f"{told} by, and the image tower would leave them; freeze clip/vision/.*."
        )
    for index, phase in enumerate(method.phases):
        if phase.options != method.phases[-1].options and own_shapes(plan, method, index) != own:
            told = f"methods.{phase.name}: its options make other parameters than the last phase's"
            raise ConfigError(f"{told}; give what shapes parameters to the whole method.")
        check_groups(phase, everything, unused)
    if method.config.thaws:
        names = [n for n in jax.tree.leaves(name_tree(everything)) if n.group not in unused]
        _check_thaw(method, names)
    for phase in method.phases:
        if differs and not cached:
            own = f"{phase.name} has a data.{differs[0]} of its own"
            raise ConfigError(f"{own} and trains from pixels; such methods need a run each.")


def _check_thaw(method: Method, names: Sequence[Name]) -> None:
    """Raise ConfigError if a phase of `unfreeze` thaws nothing, or a layer is open before its turn.

    `names` are of the parameters that the method uses.
    """
    where, first = f"methods.{method.config.stage}.unfreeze", method.phases[0]
    part = lambda name: name.group.rpartition("/")[0]  # "clip/vision"
    thaws = lambda name: any(matches(pattern, name) for pattern in method.config.thaws)
    parts = {part(name) for name in names if thaws(name)} - {""}
    open_early = lambda name: part(name) in parts and not is_frozen(name, first.freeze)
    if early := sorted({name.group for name in names if open_early(name)}):
        told = f"{some(early, 3)} would train from the first phase"
        raise ConfigError(f"{where}: {told}; name them in order, or in freeze.")
    free = [{n.path for n in names if not is_frozen(n, p.freeze)} for p in method.phases]
    for phase, before, after in zip(method.phases[1:], free, free[1:], strict=False):
        if before == after:
            told = f"phase {phase.label!r} thaws nothing that this method uses"
            raise ConfigError(f"{where}: {told}; leave it out of order, or of freeze.")


def check_machine(plan: Plan) -> None:
    """Raise ConfigError for packages, memory or devices that this machine lacks."""
    training, devices = plan.study.training, plan.study.devices
    trackers.check(training.track)
    for method in plan.methods.values():
        _check_memory(plan, method)
        _check_tasks(plan, method)
    pixels = [m.config for m in plan.methods.values() if not all(cached_phases(plan, m))]
    for config in pixels:
        training_mesh(devices, config.batch_size, training.accumulate)  # refuses what cannot be
    if plan.methods and not pixels:
        asked, usual = dotted(flat(devices)), dotted(flat(Devices()))
        if changed := [name for name in asked if asked[name] != usual[name]]:
            field = f"{changed[0]}={asked[changed[0]]!r}"
            raise ConfigError(f"{field} is for training from pixels; leave it out of this run.")


def _check_memory(plan: Plan, method: Method) -> None:
    """Raise ConfigError for more parameters than memory holds."""
    count = lambda params: sum(x.size for x in jax.tree.leaves(params))
    seeds = len(plan.study.training.seeds)
    size, kept = count(own_shapes(plan, method)) * seeds, 0  # heads train for all seeds at once
    if not all(cached_phases(plan, method)):
        encoder = count(tower_params(plan.params, method.kind.towers))
        size += encoder
        kept = 4 * encoder * seeds  # the trained encoders
    # On CPU all parts of an array lie in one memory.
    parts = 1 if jax.local_devices()[0].platform == "cpu" else plan.study.devices.mesh.fsdp
    # Parameters, gradients and two moments in float32.
    memory, needed = device_memory(), size * 4 * 4 / parts + kept
    if needed > memory:
        raise ConfigError(
            f"{method.phases[0].name} trains {size:,} parameters, which need {needed / 1e9:.1f} GB "
            f"of {memory / 1e9:.1f} GB; use fewer members, narrower heads or fewer seeds."
        )


def task_bytes(plan: Plan, method: Method) -> int:
    """Return about how many bytes a step of episodes needs for its tasks; 0 without episodes.

    Embeddings and what each layer of the heads makes of them, forth and back; a copy of the heads a
    task and inner step, whose layers are computed again one step at a time; images.
    """
    if not method.trains or not (episodes := method.config.episodes):
        return 0
    own = {k: v for k, v in own_shapes(plan, method).items() if k not in method.kind.constants}
    sizes, width = jax.tree.leaves(own), plan.clip_config.projection_dim
    layers = width + sum(x.shape[-1] for x in sizes if len(x.shape) > 1)
    images = episodes.tasks * episodes.way * (episodes.shot + episodes.query)
    usual = inspect.signature(method.make).parameters.get("steps")
    usual = 0 if usual is None else usual.default
    steps = max(phase.options.get("steps", usual) for phase in method.phases)
    copies = episodes.tasks * (steps + 2) * sum(x.size for x in sizes)
    found = 4 * len(plan.study.training.seeds) * (2 * images * layers + copies)
    if not all(cached_phases(plan, method)):  # its seeds one after the other
        vision = plan.clip_config.vision
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        found += 4 * images * (3 * plan.preprocess.size**2 + 8 * tokens * vision.hidden_size)
    return found


def _check_tasks(plan: Plan, method: Method) -> None:
    """Raise ConfigError for episodes that memory does not hold."""
    if (needed := task_bytes(plan, method)) > (memory := device_memory()):
        episodes = method.config.episodes
        raise ConfigError(
            f"methods.{method.config.stage}: a step of {episodes.tasks} tasks of {episodes.way} x "
            f"({episodes.shot} + {episodes.query}) images needs about {needed / 1e9:.1f} GB of "
            f"{memory / 1e9:.1f} GB; take fewer episodes.tasks, classes, images or seeds."
        )


def idle_domain_losses(plan: Plan) -> list[str]:
    """Return a sentence for each phase whose reversed gradient reaches no parameter."""
    return [
        f"in {phase.name} nothing in front of the domain head trains, so the reversed gradient "
        "reaches nothing; give heads.adapter or free the encoder."
        for method in plan.methods.values()
        for phase in method.phases
        if "lam" in method.kind.schedules
        and method.heads is not None
        and phase.options.get("domain_weight") != 0
        and all(is_frozen(group, phase.freeze) for group in _clip_groups(plan, method))
        and (method.heads.adapter is None or is_frozen("adapter", phase.freeze))
    ]
