"""What a study needs, opened and checked before anything expensive."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.census import open_parts
from clipjax.data.classes import match_classes
from clipjax.data.files import is_image_name
from clipjax.data.order import steps_per_epoch
from clipjax.data.preprocess import Preprocess, load_preprocess
from clipjax.data.sources import Dataset, Skipped, check_domain, open_dataset
from clipjax.data.subset import few_shot, fraction
from clipjax.errors import ConfigError, DataError
from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.heads import init_heads
from clipjax.model.hf import check_size, load_clip
from clipjax.model.hub import find_model
from clipjax.model.network import needed_clip
from clipjax.model.prompts import fill_prompts, read_class_names
from clipjax.train.optim import is_frozen, layer_groups
from experiments.choices import COMPUTE, check_choices
from experiments.mesh import device_memory, training_mesh
from experiments.methods import Method, Phase, build_methods, check_groups, own_config
from experiments.recorded import Recorded
from experiments.sweep import targets

FEWEST_FOR_DISTANCE = 20  # images a domain, below which a proxy A-distance means nothing
Part = tuple[str, str]  # (domain, split)


class Plan(NamedTuple):
    """Data, model and methods of a config."""

    dataset: Dataset | Recorded
    class_names: tuple[str, ...]  # as prompts say them
    model: pathlib.Path  # directory
    module: CLIP
    params: Any  # of the encoder
    preprocess: Preprocess
    methods: dict[str, Method]
    notes: tuple[str, ...] = ()  # what the user should know of the data

    @property
    def clip_config(self) -> CLIPConfig:
        """Sizes of the encoder."""
        return self.module.config


def prepare(config, *, training: bool = True, recorded: Recorded | None = None) -> Plan:
    """Opens everything the config names; whatever can be known to be wrong is said here.

    Args:
      config: of the run.
      training: whether this machine is to train it, and must have the devices and the memory. A
        finished run is read anywhere.
      recorded: what a finished run has kept of its data, which are then not opened.
    """
    dataset, notes = (recorded, []) if recorded else matched_data(config)
    methods = build_methods(config, len(dataset.classes))
    check_choices(config)
    if not recorded:
        check_parts(config, dataset, methods)
    names = recorded.class_names if recorded else class_names(config, dataset)
    fill_prompts(names[0], config.prompts)
    directory = find_model(config.model, config.revision or None)
    preprocess = load_preprocess(directory)
    size = config.image_size or None
    clip_config, params = load_clip(directory, dtype=jnp.float32, image_size=size)
    if clip_config.text is None or clip_config.vision is None:
        raise ConfigError(
            f"model {config.model!r} holds one tower of a CLIP; the study needs images and texts."
        )
    preprocess = preprocess.with_size(size or preprocess.size)
    preprocess = dataclasses.replace(preprocess, decoder=config.data.decoder)
    check_size(clip_config, preprocess, directory)
    module = make_module(config, clip_config)
    plan = Plan(dataset, names, directory, module, params, preprocess, methods, tuple(notes))
    for method in methods.values():
        check_masks(plan, method)
    if training:
        check_machine(plan, config)
    return plan


def check_machine(plan: Plan, config) -> None:
    """Refuses what this machine cannot train: its devices, its memory, steps to trace.

    Raises:
      ConfigError: what is wrong, and where.
    """
    for method in plan.methods.values():
        check_memory(plan, method, config)
    if not all(is_cached_throughout(plan, method) for method in plan.methods.values()):
        training_mesh(config)  # refuses one that cannot be
    elif plan.methods:
        _refuse_what_pixels_need(config)


def _refuse_what_pixels_need(config) -> None:
    """Refuses what would be asked for in vain where all phases train on cached features."""
    mesh = config.mesh
    asked = {
        "profile": config.profile,
        "mesh.data": mesh.data,
        "mesh.fsdp": mesh.fsdp if mesh.fsdp > 1 else 0,
        "parallel": config.parallel if config.parallel != "jit" else "",
    }
    for field, value in asked.items():
        if value:
            raise ConfigError(
                f"{field}={value!r} is for phases that train from pixels, and this run has none: "
                "cached features train whole epochs of all runs in one call; leave it out."
            )


def make_module(config, clip_config: CLIPConfig) -> CLIP:
    """The encoder of these sizes, computing as the config says."""
    return CLIP(clip_config, COMPUTE[config.compute_dtype], remat=config.remat)


def needed_parts(config, dataset: Dataset) -> list[Part]:
    """What a run encodes: test splits, and what training and tuning need."""
    source = config.data.source
    domains = evaluated(config, dataset)
    parts = [(domain, "test") for domain in domains]
    if config.whole_domains:
        others = [split for split in ("train", "val") if dataset.has_split(split)]
        parts += [(domain, split) for domain in domains for split in others]
    if config.stages:
        ends = (source, *targets(config))
        parts += [(domain, split) for split in ("train", "val") for domain in ends]
    return list(dict.fromkeys(parts))


def check_parts(config, dataset: Dataset, methods: Mapping[str, Method]) -> None:
    """Refuses a run one of whose parts has no images: training data of the target, for example.

    Raises:
      DataError: the part.
    """
    for domain, split in needed_parts(config, dataset):
        if not len(dataset.source(domain, split)):
            raise DataError(
                f"split {split!r} of domain {domain!r} has no images; add some, or give train, val "
                "and test folders."
            )

    images = sum(map(len, open_parts(dataset)[0].values()))
    check_unreadable(unused_images(dataset), images, config.data.max_unreadable)
    ends = (config.data.source, *targets(config))
    own = {repr(method.data): own_config(config, method) for method in methods.values()}
    for each in own.values() if own else [config] * bool(config.stages):
        planned_epoch(each, dataset)
    if config.stages and config.selection == "proxy_a_distance":
        fewest = min(len(dataset.source(domain, "val")) for domain in ends)
        if fewest < FEWEST_FOR_DISTANCE:
            raise ConfigError(
                f"selection=proxy_a_distance needs {FEWEST_FOR_DISTANCE} validation images a "
                f"domain, and there are {fewest}; choose another rule."
            )


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


def class_names(config, dataset: Dataset) -> tuple[str, ...]:
    """What prompts call the classes: their own names, or those of the file `config.class_names`."""
    own = {}
    if config.class_names:
        own = read_class_names(config.class_names, dataset.classes)
    return tuple(own.get(name, name) for name in dataset.classes)


def evaluated(config, dataset: Dataset) -> tuple[str, ...]:
    """The domains of results: source and target always, in the order of the dataset."""
    if not config.data.domains:
        return dataset.domains
    for domain in config.data.domains:
        check_domain(dataset, domain)
    wanted = {config.data.source, *targets(config), *config.data.domains}
    return tuple(domain for domain in dataset.domains if domain in wanted)


def planned_epoch(config, dataset: Dataset) -> int:
    """Steps of an epoch if every image can be read.

    Raises:
      ConfigError: no such length, or no such choice of labelled examples.
    """
    sizes = planned_sizes(config, dataset)
    return steps_per_epoch(*sizes, config.batch_size, config.data.epoch)


def planned_sizes(config, dataset: Dataset) -> tuple[int, int]:
    """Training examples of source and target if every image can be read.

    Raises:
      ConfigError: no such choice of labelled examples.
    """
    source, target = (dataset.source(d, "train") for d in (config.data.source, config.data.target))
    chosen = training_rows(config, source.labels, dataset.classes)
    return len(source) if chosen is None else len(chosen), len(target)


def training_rows(config, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """Which of these labelled examples are trained on; None for all.

    Raises:
      ConfigError: more shots than a class has, or both shots and a fraction.
    """
    data = config.data
    if data.shots and data.fraction != 1:
        raise ConfigError(
            f"data.shots={data.shots} and data.fraction={data.fraction} both choose; set one."
        )
    if data.shots:
        return few_shot(labels, data.shots, data.subset_seed, classes)
    if data.fraction != 1:
        return fraction(labels, data.fraction, data.subset_seed)
    return None


def matched_data(config) -> tuple[Dataset, list[str]]:
    """The dataset of the config with classes matched by name, and what there is to say of it."""
    dataset = open_data(config)
    data, domains = config.data, evaluated(config, dataset)
    dataset, notes = match_classes(dataset, data.source, data.target, domains, data.classes)
    if dataset.skipped:
        first = "; ".join(f"{name} ({reason})" for name, reason in dataset.skipped[:3])
        notes = [*notes, f"{len(dataset.skipped)} files are passed over: {first}"]
    return dataset, notes


def open_data(config) -> Dataset:
    """The dataset of the config, its source and target checked before anything expensive."""
    data = config.data
    dataset = open_dataset(data.name, data.root, fractions=data.fractions, lists=data.lists)
    check_domain(dataset, config.data.source)
    for target in targets(config):
        check_domain(dataset, target)
        if config.data.source == target:
            raise ConfigError(
                f"data.source and data.target are both {target!r}; adaptation needs two different "
                f"domains of {', '.join(dataset.domains)}."
            )
    return dataset


def start_heads(plan: Plan, method: Method, seed, text_weights: jax.Array, scale: float):
    """Initial parameters of a method's heads."""
    example = jnp.zeros((1, plan.clip_config.projection_dim))
    return init_heads(method.heads, jax.random.key(seed), example, text_weights, scale)


def head_shapes(plan: Plan, method: Method):
    """Shapes of a method's heads, nothing computed."""
    weights = jnp.zeros((len(plan.dataset.classes), plan.clip_config.projection_dim))
    return jax.eval_shape(lambda: start_heads(plan, method, 0, weights, 1.0))


def clip_groups(plan: Plan, method: Method) -> tuple[str, ...]:
    """The layer groups of what a method uses of the encoder."""
    return layer_groups({"clip": needed_clip(method.heads, plan.params)})


def is_cached(plan: Plan, method: Method, phase: Phase) -> bool:
    """Whether a phase can train on features that were encoded once, without the encoder at hand."""
    frozen = all(is_frozen(group, phase.freeze) for group in clip_groups(plan, method))
    return frozen and phase.augment is None and not method.heads.text


def is_cached_throughout(plan: Plan, method: Method) -> bool:
    """Whether all phases can."""
    return all(is_cached(plan, method, phase) for phase in method.phases)


def check_masks(plan: Plan, method: Method) -> None:
    """Refuses masks that fit no group or train nothing.

    Raises:
      ConfigError: what is wrong, and where.
    """
    heads = head_shapes(plan, method)
    everything = layer_groups({"clip": plan.params, **heads})
    unused = set(everything) - set(layer_groups(heads)) - set(clip_groups(plan, method))
    cached = is_cached_throughout(plan, method)
    for phase in method.phases:
        check_groups(phase, everything, unused)
        if method.data and not cached:
            raise ConfigError(
                f"{phase.name} has a data.{next(iter(method.data))} of its own and trains from "
                "pixels; only methods on a frozen encoder can differ in their data. Use a run each."
            )


def check_memory(plan: Plan, method: Method, config) -> None:
    """Refuses more parameters than memory holds.

    Raises:
      ConfigError: the method, and what it needs.
    """
    heads = head_shapes(plan, method)
    cached = is_cached_throughout(plan, method)
    # Parameters, gradients and two moments in float32; heads train for all seeds at once.
    copies, kept = 4 * 4, 0
    size = sum(x.size for x in jax.tree.leaves(heads)) * len(config.seeds)
    if not cached:
        clip = needed_clip(method.heads, plan.params)
        count = sum(x.size for x in jax.tree.leaves(clip))
        size += count
        kept = 4 * count * len(config.seeds)  # the trained encoders
    # On CPU all parts of an array lie in one memory.
    parts = 1 if jax.local_devices()[0].platform == "cpu" else config.mesh.fsdp
    memory, needed = device_memory(), size * copies / parts + kept
    if needed > memory:
        raise ConfigError(
            f"{method.phases[0].name} trains {size:,} parameters, which with gradients and "
            f"optimizer state need {needed / 1e9:.1f} GB; this machine has "
            f"{memory / 1e9:.1f} GB. Use fewer members, narrower heads or fewer seeds."
        )


def warn_of_idle_domain_loss(plan: Plan, name: str, method: Method) -> list[str]:
    """A sentence per phase whose reversed gradient reaches no parameter."""
    lines = []
    for phase in method.phases:
        if not method.adversarial or phase.options.get("domain_weight") == 0:
            continue
        ahead = [g for g in clip_groups(plan, method) if not is_frozen(g, phase.freeze)]
        if not ahead and (method.heads.adapter is None or is_frozen("adapter", phase.freeze)):
            lines.append(
                f"note: in {phase.name} nothing in front of the domain head trains, so the "
                "reversed gradient reaches nothing; give heads.adapter or free the encoder."
            )
    return lines
