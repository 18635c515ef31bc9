"""Zero-shot, then every method of the config on cached features, then the results."""

from __future__ import annotations

import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.step import init_state, make_step
from clipjax.data import features as feats
from clipjax.data.preprocess import Preprocess, load_preprocess
from clipjax.data.sources import Dataset, check_domain, open_dataset
from clipjax.errors import CheckpointError, ConfigError
from clipjax.evaluate import report
from clipjax.evaluate.metrics import accuracy, calibration_error, disagreement
from clipjax.evaluate.select import information_maximization, proxy_a_distance
from clipjax.log import MetricsLog
from clipjax.model.clip import CLIP, CLIPConfig, normalize
from clipjax.model.heads import as_model, init_heads, member_logits, predict
from clipjax.model.hf import check_size, load_clip
from clipjax.model.hub import find_model
from clipjax.model.prompts import fill_prompts, read_class_names
from clipjax.model.text import load_tokenizer, zero_shot_classifier
from clipjax.train.arrays import fit_arrays, steps_per_epoch
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.optim import frozen_tree
from experiments.methods import Method, build_methods, build_optimizer, head_freeze

FEWEST_FOR_DISTANCE = 20  # test images a domain, below which a proxy A-distance means nothing


class Plan(NamedTuple):
    """What a run needs, opened and checked before anything expensive."""

    dataset: Dataset
    class_names: tuple[str, ...]  # as prompts say them
    model: pathlib.Path  # directory
    clip_config: CLIPConfig
    params: Any  # of the encoder
    preprocess: Preprocess
    methods: dict[str, Method]


class Encoded(NamedTuple):
    """A dataset seen through the frozen encoder."""

    parts: dict[tuple[str, str], feats.Features]  # (domain, split) -> features
    text_weights: jax.Array  # [K, P]: zero-shot class weights
    scale: float  # CLIP's factor on cosine similarities


def prepare(config) -> Plan:
    """Opens everything the config names; whatever can be known to be wrong is said here."""
    dataset = open_data(config)
    methods = build_methods(config, len(dataset.classes))
    for method in methods.values():
        build_optimizer(method, config, method.epochs)
    names = class_names(config, dataset)
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
    check_size(clip_config, preprocess, directory)
    return Plan(dataset, names, directory, clip_config, params, preprocess, methods)


def class_names(config, dataset: Dataset) -> tuple[str, ...]:
    """What prompts call the classes: their own names, or those of the file `config.class_names`."""
    own = {}
    if config.class_names:
        own = read_class_names(config.class_names, dataset.classes)
    return tuple(own.get(name, name) for name in dataset.classes)


def open_data(config) -> Dataset:
    """The dataset of the config, its source and target checked before anything expensive."""
    dataset = open_dataset(config.data.name, config.data.root)
    check_domain(dataset, config.data.source)
    check_domain(dataset, config.data.target)
    if config.data.source == config.data.target:
        raise ConfigError(
            f"data.source and data.target are both {config.data.source!r}; adaptation needs two "
            f"different domains of {', '.join(dataset.domains)}."
        )
    return dataset


def needed_parts(config, dataset: Dataset) -> list[tuple[str, str]]:
    """(domain, split) pairs the run reads: every test split, and what training and tuning need."""
    source, target = config.data.source, config.data.target
    parts = [(domain, "test") for domain in dataset.domains]
    if config.whole_domains:
        others = [split for split in ("train", "val") if dataset.has_split(split)]
        parts += [(domain, split) for domain in dataset.domains for split in others]
    if config.stages:
        parts += [(source, "train"), (target, "train"), (source, "val"), (target, "val")]
    return parts


def encode(config, plan: Plan, say) -> Encoded:
    """Encodes what the run needs, or reads it from the feature cache."""
    tokenize = load_tokenizer(plan.model)
    module, params = CLIP(plan.clip_config), plan.params
    classes = plan.class_names
    # Parameters are arguments: as constants of the program they would be in memory twice.
    encode_text = jax.jit(functools.partial(module.apply, method="encode_text"))
    weights = zero_shot_classifier(
        functools.partial(encode_text, {"params": params}), tokenize, classes, config.prompts
    )

    @jax.jit
    def encode_image(params, pixels):
        pixels = plan.preprocess.normalize(pixels)
        return normalize(module.apply({"params": params}, pixels, method="encode_image"))

    cache = config.features.cache_dir or feats.default_cache_dir() / "features"
    # The config too: an activation or a number of heads changes features, and no weight.
    key = f"{feats.fingerprint(params)} {plan.clip_config.vision}"
    parts = {}
    for domain, split in dict.fromkeys(needed_parts(config, plan.dataset)):
        parts[domain, split] = feats.cached_features(
            functools.partial(encode_image, params),
            plan.dataset.source(domain, split),
            plan.preprocess,
            weights=key,
            batch_size=config.features.batch_size,
            cache_dir=cache if config.features.cache else None,
        )
    images = sum(len(part.labels) for part in parts.values())
    say(f"features of {images} images, {len(plan.dataset.domains)} domains, {len(classes)} classes")
    return Encoded(parts, weights, float(module.apply({"params": params}, method="scale")))


def training_data(config, encoded: Encoded) -> dict:
    """Source features with labels, target features without."""
    source = encoded.parts[config.data.source, "train"]
    target = encoded.parts[config.data.target, "train"]
    return {
        "source": {"inputs": jnp.asarray(source.features), "label": jnp.asarray(source.labels)},
        "target": {"inputs": jnp.asarray(target.features)},
    }


def start_states(name: str, method: Method, config, optimizer, example, text_weights, scale):
    """Train states of all seeds, stacked; and the frozen part of the heads, as a mask."""
    freeze = head_freeze(tuple(config.freeze))

    def init(seed):
        return init_heads(method.heads, jax.random.key(seed), example, text_weights, scale)

    try:
        frozen = frozen_tree(jax.eval_shape(init, 0), freeze) if freeze else None
    except ValueError as error:
        raise ConfigError(f"methods.{name}: {error}") from None
    start = lambda seed: init_state(init(seed), optimizer, seed=seed, frozen=frozen)  # noqa: E731
    return jax.jit(jax.vmap(start))(jnp.array(config.seeds, jnp.uint32)), frozen


def train_method(name: str, method: Method, config, encoded: Encoded, workdir, log):
    """Trains one method for all seeds; returns its parameters, stacked over seeds."""
    data = training_data(config, encoded)
    total = method.epochs * steps_per_epoch(data, config.batch_size)
    optimizer = build_optimizer(method, config, total)
    example = data["source"]["inputs"][:1]
    states, frozen = start_states(
        name, method, config, optimizer, example, encoded.text_weights, encoded.scale
    )
    step = make_step(method.loss, optimizer, total_steps=total, frozen=frozen)
    with Checkpointer(workdir / "checkpoints" / name) as checkpointer:
        states = fit_arrays(
            step,
            states,
            data,
            epochs=method.epochs,
            batch_size=config.batch_size,
            phase=name,
            checkpointer=checkpointer,
            log=log,
            save_every=config.save_every,
        )
    return states.params


def trained_heads(name: str, plan: Plan, config, workdir: pathlib.Path):
    """The parameters of a trained method from its last checkpoint, stacked over seeds.

    Raises:
      CheckpointError: there is none, or it does not fit the config.
    """
    width, classes = plan.clip_config.projection_dim, len(plan.dataset.classes)
    like = jax.eval_shape(
        lambda: start_states(
            name,
            plan.methods[name],
            config,
            build_optimizer(plan.methods[name], config, 1),
            jnp.zeros((1, width)),
            jnp.zeros((classes, width)),
            1.0,
        )[0]
    )
    with Checkpointer(workdir / "checkpoints" / name) as checkpointer:
        found = checkpointer.restore(like)
    if found is None:
        raise CheckpointError(f"{workdir} has no checkpoint of {name!r}; run the experiment first.")
    return found[0].params


def evaluate_method(name, heads, params, encoded: Encoded) -> tuple[list[dict], dict]:
    """Rows per domain and split (`clipjax.evaluate.report.row`); label-free validation scores."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def measure(params, features, labels):
        logits = predict(heads, params, features)
        members = member_logits(heads, params, features)
        return {
            "accuracy": accuracy(logits, labels),
            "ece": calibration_error(logits, labels),
            "members": accuracy(members, labels),
            "disagreement": disagreement(members),
            "information_maximization": information_maximization(logits),
        }

    rows, scores = [], {}
    for (domain, split), part in encoded.parts.items():
        if split == "train":
            continue
        found = measure(params, jnp.asarray(part.features), jnp.asarray(part.labels))
        found = {k: np.asarray(v, np.float64).round(6).tolist() for k, v in found.items()}
        extra = {"ece": found["ece"]}
        if heads.members > 1:
            extra |= {k: found[k] for k in ("members", "disagreement")}
        rows.append(report.row(name, domain, split, len(part.labels), found["accuracy"], **extra))
        if split == "val":
            scores[domain] = found["information_maximization"]
    return rows, scores


def domain_distances(config, heads, params, encoded: Encoded) -> list[float]:
    """Proxy A-distance of source and target test images in the adapted features, per seed."""
    adapt = jax.jit(jax.vmap(as_model(heads).features, in_axes=(0, None, None)))
    one, two = (
        np.asarray(adapt(params, jnp.asarray(encoded.parts[d, "test"].features), None))
        for d in (config.data.source, config.data.target)
    )
    return [round(proxy_a_distance(a, b), 4) for a, b in zip(one, two, strict=True)]


def zero_shot_rows(config, encoded: Encoded) -> list[dict]:
    """Zero-shot accuracy of every encoded test and validation part, and of whole domains."""
    parts = {key: part for key, part in encoded.parts.items() if key[1] != "train"}
    if config.whole_domains:
        for domain in dict.fromkeys(domain for domain, _ in encoded.parts):
            pieces = [part for (d, _), part in encoded.parts.items() if d == domain]
            columns = (np.concatenate(column) for column in zip(*pieces, strict=True))
            parts[domain, "all"] = feats.Features(*columns)
    rows = []
    for (domain, split), part in parts.items():
        logits = encoded.scale * part.features @ encoded.text_weights.T
        labels = jnp.asarray(part.labels)
        hit, ece = float(accuracy(logits, labels)), float(calibration_error(logits, labels))
        n = len(part.labels)
        rows.append(report.row("zero_shot", domain, split, n, [hit], ece=[round(ece, 6)]))
    return rows


def run(config, plan: Plan, workdir: pathlib.Path, say) -> dict:
    """Runs the study and writes its results; returns them."""
    started = time.perf_counter()
    timing = {}

    def lap(what: str) -> None:
        timing[what] = round(time.perf_counter() - started - sum(timing.values()), 2)

    log = MetricsLog(workdir / "metrics.jsonl")
    log.rewind(lambda record: True)  # drops a line that a kill cut short
    encoded = encode(config, plan, say)
    lap("encode")
    rows = zero_shot_rows(config, encoded)
    distances = {}
    source, target = (encoded.parts[d, "test"] for d in (config.data.source, config.data.target))
    if measurable := min(len(source.labels), len(target.labels)) >= FEWEST_FOR_DISTANCE:
        distances["zero_shot"] = [round(proxy_a_distance(source.features, target.features), 4)]
    for name, method in plan.methods.items():
        say(f"train {name}: {method.epochs} epochs, {len(config.seeds)} seeds")
        params = train_method(name, method, config, encoded, workdir, log)
        more, scores = evaluate_method(name, method.heads, params, encoded)
        rows += more
        if measurable:
            distances[name] = domain_distances(config, method.heads, params, encoded)
        log.append_once({"phase": "evaluate", "method": name, "information_maximization": scores})
        lap(name)
    results = report.collect(config, plan.dataset, rows, distances, timing)
    report.write(workdir, results)
    say(report.table(results))
    say(f"results: {workdir / 'results.json'}, {workdir / 'results.md'}")
    return results
