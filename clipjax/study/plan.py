"""What a study needs, opened and checked before anything expensive."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import Classes
from clipjax.data.classes import match_classes
from clipjax.data.dataset import Dataset, Skipped, check_domain, open_parts, reasons
from clipjax.data.features.identity import identity_of
from clipjax.data.images.preprocess import Preprocess, load_preprocess
from clipjax.data.joined import JoinedDataset
from clipjax.data.loading import sampler
from clipjax.data.open import open_dataset
from clipjax.data.readers.files import is_image_name
from clipjax.data.subset import few_shot, fraction
from clipjax.errors import ConfigError, DataError
from clipjax.model.backbone import make_backbone, tower_params
from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.load import check_size, load_clip
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.prompts import fill_prompts, read_class_names
from clipjax.model.text import class_tokens, confusable
from clipjax.study.config import Study
from clipjax.study.mesh import device_memory, training_mesh
from clipjax.study.methods import Method, build_methods, check_groups
from clipjax.study.parts import OWN_DATA, Data, Devices, Encoder, MethodConfig, PhaseConfig
from clipjax.study.recorded import Recorded
from clipjax.train.groups import is_frozen, layer_groups

FEWEST_FOR_DISTANCE = 20  # images a domain, below which a proxy A-distance means nothing
Part = tuple[str, str]  # (domain, split)


class Plan(NamedTuple):
    """A study with its data, model and methods opened."""

    study: Study
    dataset: Dataset | Recorded
    class_names: tuple[str, ...]  # as prompts say them
    model: pathlib.Path  # directory
    module: CLIP
    params: Any  # of the encoder
    preprocess: Preprocess
    methods: dict[str, Method]
    notes: tuple[str, ...] = ()  # what the user should know of the data
    tokens: np.ndarray | None = None  # int32 [K, prompts, T]; None where no text is read
    identity: Mapping[str, Any] = {}  # tells the model (`clipjax.data.features.identity`)

    @property
    def clip_config(self) -> CLIPConfig:
        """Sizes of the encoder."""
        return self.module.config


def prepare(study: Study, *, training: bool = True, recorded: Recorded | None = None) -> Plan:
    """Opens everything the study names; whatever can be known to be wrong is said here.

    Args:
      study: from `clipjax.study.config.parse` or `checked`.
      training: whether this machine is to train it, and must have the devices and the memory. A
        finished run is read anywhere.
      recorded: what a finished run has kept of its data, which are then not opened.
    """
    encoder = study.encoder
    dataset, notes = (recorded, []) if recorded else matched_data(study)
    methods = build_methods(study, tuple(dataset.classes))
    if recorded:
        names = recorded.class_names
    else:
        check_parts(study, dataset)
        names = prompt_names(encoder.class_names, dataset.classes)
    for name in names:  # before a model is downloaded
        fill_prompts(name, encoder.prompts)
    directory, clip_config, params, preprocess = open_model(encoder)
    preprocess = dataclasses.replace(preprocess, decoder=study.data.decoder)
    tokens, more = read_prompts(encoder, dataset.classes, names, directory)
    plan = Plan(
        study,
        dataset,
        names,
        directory,
        make_module(encoder, clip_config),
        params,
        preprocess,
        methods,
        (*notes, *more),
        tokens,
        identity_of(directory, clip_config, params, preprocess),
    )
    for method in methods.values():
        check_masks(plan, method)
    if training:
        check_machine(plan)
    return plan


def open_model(encoder: Encoder) -> tuple[pathlib.Path, CLIPConfig, Any, Preprocess]:
    """The model of a study: its directory, sizes, float32 parameters, and how it looks at images.

    Raises:
      CheckpointError: there is none, or its files are damaged or do not fit each other.
      ConfigError: a single tower.
    """
    directory = find_model(encoder.model, encoder.revision or None)
    preprocess = load_preprocess(directory)
    size = encoder.image_size or None
    clip_config, params = load_clip(directory, dtype=jnp.float32, image_size=size)
    if clip_config.text is None or clip_config.vision is None:
        raise ConfigError(
            f"model {encoder.model!r} holds one tower of a CLIP; the study needs images and texts."
        )
    preprocess = preprocess.with_size(size or preprocess.size)
    check_size(clip_config, preprocess, directory)
    return directory, clip_config, params, preprocess


def check_machine(plan: Plan) -> None:
    """Refuses what this machine cannot train: its packages, devices, memory, steps to trace.

    Raises:
      ConfigError: what is wrong, and where.
    """
    training, devices = plan.study.training, plan.study.devices
    if training.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError('config.tensorboard needs tensorboardX: pip install -e ".[tensorboard]".')
    for method in plan.methods.values():
        check_memory(plan, method)
    if not all(all(cached_phases(plan, method)) for method in plan.methods.values()):
        training_mesh(devices, training.batch_size, training.accumulate)  # refuses what cannot be
    elif plan.methods:
        _refuse_what_pixels_need(devices)


def _refuse_what_pixels_need(devices: Devices) -> None:
    """Refuses what would be asked for in vain where all phases train on cached features."""
    mesh = devices.mesh
    asked = {
        "profile": devices.profile,
        "mesh.data": mesh.data,
        "mesh.fsdp": mesh.fsdp if mesh.fsdp > 1 else 0,
        "parallel": devices.parallel if devices.parallel != "jit" else "",
    }
    for field, value in asked.items():
        if value:
            raise ConfigError(
                f"{field}={value!r} is for phases that train from pixels, and this run has none: "
                "cached features train whole epochs of all runs in one call; leave it out."
            )


def make_module(encoder: Encoder, clip_config: CLIPConfig) -> CLIP:
    """The encoder of these sizes, computing as the config says."""
    return CLIP(clip_config, getattr(jnp, encoder.compute_dtype), remat=encoder.remat)


def needed_parts(study: Study, dataset: Dataset) -> list[Part]:
    """What a run encodes: test splits, and what training and tuning need."""
    domains = evaluated(study, dataset)
    parts = [(domain, "test") for domain in domains]
    if study.whole_domains:
        others = [split for split in ("train", "val") if dataset.has_split(split)]
        parts += [(domain, split) for domain in domains for split in others]
    if study.stages:
        ends = (study.data.source_name, *study.targets)
        parts += [(domain, split) for split in ("train", "val") for domain in ends]
    return list(dict.fromkeys(parts))


def check_parts(study: Study, dataset: Dataset) -> None:
    """Refuses a run one of whose parts has no images: training data of the target, for example.

    Raises:
      DataError: the part.
    """
    for domain, split in needed_parts(study, dataset):
        if not len(dataset.source(domain, split)):
            raise DataError(
                f"split {split!r} of domain {domain!r} has no images; add some, or give train, val "
                "and test folders."
            )

    images = sum(map(len, open_parts(dataset)[0].values()))
    check_unreadable(unused_images(dataset), images, study.data.max_unreadable)
    for data in dict.fromkeys(method.data for method in study.trained):
        planned_epoch(data, study.training.batch_size, dataset)
    for method in study.trained:
        if method.episodes:
            check_episodes(method, dataset)
    if study.stages and study.training.selection == "proxy_a_distance":
        ends = (study.data.source_name, *study.targets)
        fewest = min(len(dataset.source(domain, "val")) for domain in ends)
        if fewest < FEWEST_FOR_DISTANCE:
            raise ConfigError(
                f"selection=proxy_a_distance needs {FEWEST_FOR_DISTANCE} validation images a "
                f"domain, and there are {fewest}; choose another rule."
            )


def check_episodes(method: MethodConfig, dataset: Dataset) -> None:
    """Refuses episodes that the labelled training images cannot fill.

    Raises:
      DataError: which classes have too few.
    """
    labels, wanted = dataset.source(method.data.source_name, "train").labels, method.episodes
    rows = training_rows(method.data, labels, dataset.classes)
    labels = labels if rows is None else labels[rows]
    classes = tuple(dataset.classes)
    made = sampler.Episodes(wanted.way, wanted.shot, wanted.query, wanted.count, len(classes))
    sampler.check_episodes(made, labels, classes)


def unused_images(dataset: Dataset) -> list[Skipped]:
    """What was passed over and is an image by its name and place, or a row of a table."""

    def meant(name: str, reason: str) -> bool:
        return ".parquet:" in name or (is_image_name(name) and "outside of" not in reason)

    return [entry for entry in dataset.skipped if meant(*entry)]


def check_unreadable(skipped: Sequence[Skipped], images: int, most: float) -> str:
    """A sentence on the images that are left out; "" if none is.

    Args:
      skipped: these.
      images: how many there are beside them.
      most: the share of all that may be left out.

    Raises:
      DataError: more than that.
    """
    if not skipped:
        return ""
    images += len(skipped)
    first = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in skipped[:5])
    if len(skipped) > most * images:
        raise DataError(
            f"{len(skipped)} of {images} images cannot be read, more than data.max_unreadable="
            f"{most} allows: {first}. Replace or remove them; `python -m experiments.inspect` "
            "with the same options lists them all."
        )
    return f"{len(skipped)} of {images} images cannot be read and are left out: {first}"


def prompt_names(file: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What prompts call the classes: their own names, or those of the file `config.class_names`."""
    own = read_class_names(file, classes) if file else {}
    return tuple(own.get(name, name) for name in classes)


def read_prompts(
    encoder: Encoder, classes: Sequence[str], names: Sequence[str], model: str | pathlib.Path
) -> tuple[np.ndarray, list[str]]:
    """Token ids of the classes' prompts, int32 [K, prompts, T], and notes on classes alike.

    Args:
      encoder: of the study, for its prompts.
      classes: K names, as the dataset has them.
      names: as prompts say them.
      model: its directory or Hub id.

    Raises:
      ConfigError: prompts that tell no classes apart, or have no place for a name.
      CheckpointError: a tokenizer that is damaged or does not fit the model's text tower.
    """
    revision = None if isinstance(model, pathlib.Path) else encoder.revision or None
    tokenize = load_tokenizer(model, revision=revision)
    tokens = class_tokens(tokenize, names, encoder.prompts)
    return tokens, confusable(tokens, classes, fill_prompts(names[0], encoder.prompts))


def evaluated(study: Study, dataset: Dataset) -> tuple[str, ...]:
    """The domains of results: source and target always, in the order of the dataset."""
    if not study.data.domains:
        return dataset.domains
    for domain in study.data.domains:
        check_domain(dataset, domain)
    wanted = {study.data.source_name, *study.targets, *study.data.domains}
    return tuple(domain for domain in dataset.domains if domain in wanted)


def planned_epoch(data: Data, batch_size: int, dataset: Dataset) -> int:
    """Steps of an epoch if every image can be read.

    Raises:
      ConfigError: no such length, or no such choice of labelled examples.
    """
    return sampler.steps_per_epoch(*planned_sizes(data, dataset), batch_size, data.epoch)


def planned_sizes(data: Data, dataset: Dataset) -> tuple[int, int]:
    """Training examples of source and target if every image can be read.

    Raises:
      ConfigError: no such choice of labelled examples.
    """
    source, target = (dataset.source(domain, "train") for domain in (data.source_name, data.target))
    chosen = training_rows(data, source.labels, dataset.classes)
    return len(source) if chosen is None else len(chosen), len(target)


def training_rows(data: Data, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """Which of these labelled examples are trained on; None for all.

    Raises:
      ConfigError: more shots than a class has.
    """
    if data.shots:
        return few_shot(labels, data.shots, data.subset_seed, classes)
    if data.fraction != 1:
        return fraction(labels, data.fraction, data.subset_seed)
    return None


def matched_data(study: Study) -> tuple[Dataset, list[str]]:
    """The study's dataset with classes matched by name, and what there is to say of it."""
    dataset = open_data(study)
    data, domains = study.data, evaluated(study, dataset)
    dataset, notes = match_classes(dataset, data.source_name, data.target, domains, data.classes)
    if dataset.skipped:
        count, first = len(dataset.skipped), dataset.skipped[0].name
        told = f"{count:,} files are passed over" if count > 1 else "1 file is passed over"
        notes = [*notes, f"{told}: {reasons(dataset.skipped)}; the first: {first}"]
    return dataset, notes


def open_data(study: Study) -> Dataset:
    """The study's dataset, its source and targets checked before anything expensive."""
    data = study.data
    dataset = open_dataset(data.name, data.root, fractions=data.fractions, lists=data.lists)
    for domain in data.sources:
        check_domain(dataset, domain)
    if len(data.sources) > 1:
        dataset = JoinedDataset(dataset, data.sources, data.source_name)
    for target in study.targets:
        check_domain(dataset, target)
        if data.source == target:
            raise ConfigError(
                f"data.source and data.target are both {target!r}; adaptation needs two "
                f"different domains of {', '.join(dataset.domains)}."
            )
    return dataset


def own_shapes(plan: Plan, method: Method) -> Any:
    """Shapes of a method's own parameters, nothing computed; {} of a closed form's."""
    if not method.trains:
        return {}
    names, width = tuple(plan.dataset.classes), plan.clip_config.projection_dim
    tokens = np.zeros((len(names), 1, 1), np.int32) if plan.tokens is None else plan.tokens
    classes = Classes(names, tokens, jnp.zeros((len(names), width)), 1.0)
    backbone = make_backbone(plan.module, lambda pixels, rng: pixels, ("image",))
    made = method.on(backbone, classes, method.phases[0])
    return jax.eval_shape(made.init, jax.random.key(0))


def clip_groups(plan: Plan, method: Method) -> tuple[str, ...]:
    """The layer groups of what a method uses of the encoder."""
    towers = method.kind.towers if method.trains else ("image",)
    return layer_groups({"clip": tower_params(plan.params, towers)})


def cached_phases(plan: Plan, method: Method) -> tuple[bool, ...]:
    """Which phases train on image features that were encoded once: the image tower is frozen, sees
    images as they are, and has not trained before."""
    groups = layer_groups({"clip": tower_params(plan.params, ("image",))})

    def can(phase: PhaseConfig) -> bool:
        frozen = all(is_frozen(group, phase.freeze) for group in groups)
        return frozen and phase.augment is None and "image" not in method.kind.alters

    return tuple(itertools.accumulate(map(can, method.phases), lambda before, now: before and now))


def check_masks(plan: Plan, method: Method) -> None:
    """Refuses masks that fit no group or train nothing.

    Raises:
      ConfigError: what is wrong, and where.
    """
    own = own_shapes(plan, method)
    everything = {"clip": plan.params, **own}
    used = {*layer_groups(own), *clip_groups(plan, method)}
    unused = set(layer_groups(everything)) - used
    shared, cached = plan.study.data, all(cached_phases(plan, method))
    differs = [name for name in OWN_DATA if getattr(method.data, name) != getattr(shared, name)]
    for phase in method.phases:
        check_groups(phase, everything, unused)
        if differs and not cached:
            raise ConfigError(
                f"{phase.name} has a data.{differs[0]} of its own and trains from pixels; only "
                "methods on a frozen encoder can differ in their data. Use a run each."
            )


def check_memory(plan: Plan, method: Method) -> None:
    """Refuses more parameters than memory holds.

    Raises:
      ConfigError: the method, and what it needs.
    """
    own, seeds = own_shapes(plan, method), len(plan.study.training.seeds)
    cached = all(cached_phases(plan, method))
    # Parameters, gradients and two moments in float32; heads train for all seeds at once.
    copies, kept = 4 * 4, 0
    size = sum(x.size for x in jax.tree.leaves(own)) * seeds
    if not cached:
        clip = tower_params(plan.params, method.kind.towers)
        count = sum(x.size for x in jax.tree.leaves(clip))
        size += count
        kept = 4 * count * seeds  # the trained encoders
    # On CPU all parts of an array lie in one memory.
    parts = 1 if jax.local_devices()[0].platform == "cpu" else plan.study.devices.mesh.fsdp
    memory, needed = device_memory(), size * copies / parts + kept
    if needed > memory:
        raise ConfigError(
            f"{method.phases[0].name} trains {size:,} parameters, which with gradients and "
            f"optimizer state need {needed / 1e9:.1f} GB; this machine has "
            f"{memory / 1e9:.1f} GB. Use fewer members, narrower heads or fewer seeds."
        )


def warn_of_idle_domain_loss(plan: Plan, method: Method) -> list[str]:
    """A sentence per phase whose reversed gradient reaches no parameter."""
    lines = []
    for phase in method.phases:
        reverses = "lam" in method.kind.schedules and phase.options.get("domain_weight") != 0
        if not reverses or method.heads is None:
            continue
        ahead = [g for g in clip_groups(plan, method) if not is_frozen(g, phase.freeze)]
        if not ahead and (method.heads.adapter is None or is_frozen("adapter", phase.freeze)):
            lines.append(
                f"note: in {phase.name} nothing in front of the domain head trains, so the "
                "reversed gradient reaches nothing; give heads.adapter or free the encoder."
            )
    return lines
