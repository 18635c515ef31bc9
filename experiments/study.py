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
from clipjax.errors import ConfigError
from clipjax.evaluate import report
from clipjax.evaluate.metrics import accuracy
from clipjax.evaluate.select import information_maximization
from clipjax.log import MetricsLog
from clipjax.model import text
from clipjax.model.clip import CLIP, CLIPConfig, normalize
from clipjax.model.heads import init_heads, predict
from clipjax.model.hf import load_clip
from clipjax.train.arrays import fit_arrays, steps_per_epoch
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.optim import frozen_tree
from experiments.methods import Method, build_methods, build_optimizer, head_freeze
from experiments.models import model_directory


class Plan(NamedTuple):
    """What a run needs, opened and checked before anything expensive."""

    dataset: Dataset
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
    if methods:
        build_optimizer(config, config.epochs)
    try:
        text.fill_prompts("", config.prompts)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    directory = model_directory(config.model)
    return Plan(dataset, *load_clip(directory), load_preprocess(directory), methods)


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
    if config.stages:
        parts += [(source, "train"), (target, "train"), (source, "val"), (target, "val")]
    return parts


def encode(config, plan: Plan, say) -> Encoded:
    """Encodes what the run needs, or reads it from the feature cache."""
    tokenize = text.load_tokenizer(model_directory(config.model))
    module, params = CLIP(plan.clip_config), plan.params
    encode_text = jax.jit(functools.partial(module.apply, {"params": params}, method="encode_text"))
    classes = plan.dataset.classes
    weights = text.zero_shot_classifier(encode_text, tokenize, classes, config.prompts)

    @jax.jit
    def encode_image(params, pixels):
        pixels = plan.preprocess.normalize(pixels)
        return normalize(module.apply({"params": params}, pixels, method="encode_image"))

    cache = config.features.cache_dir or feats.default_cache_dir() / "features"
    key = feats.fingerprint(params)
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


def train_method(name: str, method: Method, config, encoded: Encoded, workdir, log):
    """Trains one method for all seeds; returns its parameters, stacked over seeds."""
    data = training_data(config, encoded)
    total = config.epochs * steps_per_epoch(data, config.batch_size)
    optimizer = build_optimizer(config, total)
    freeze = head_freeze(tuple(config.freeze))
    example = data["source"]["inputs"][:1]

    def init(seed):
        key = jax.random.key(seed)
        return init_heads(method.heads, key, example, encoded.text_weights, encoded.scale)

    try:
        frozen = frozen_tree(jax.eval_shape(init, 0), freeze) if freeze else None
    except ValueError as error:
        raise ConfigError(f"methods.{name}: {error}") from None
    step = make_step(method.loss, optimizer, total_steps=total, frozen=frozen)
    start = lambda seed: init_state(init(seed), optimizer, seed=seed, frozen=frozen)  # noqa: E731
    states = jax.jit(jax.vmap(start))(jnp.array(config.seeds, jnp.uint32))
    with Checkpointer(workdir / "checkpoints" / name) as checkpointer:
        states = fit_arrays(
            step,
            states,
            data,
            epochs=config.epochs,
            batch_size=config.batch_size,
            phase=name,
            checkpointer=checkpointer,
            log=log,
            save_every=config.save_every,
        )
    return states.params


def evaluate_method(name, heads, params, encoded: Encoded) -> tuple[list[dict], dict]:
    """Accuracy rows per domain and split; label-free scores on the validation splits."""
    logits_of = jax.jit(jax.vmap(functools.partial(predict, heads), in_axes=(0, None)))
    rows, scores = [], {}
    for (domain, split), part in encoded.parts.items():
        if split == "train":
            continue
        logits = logits_of(params, jnp.asarray(part.features))
        hits = accuracy(logits, jnp.asarray(part.labels))
        rows.append(report.row(name, domain, split, len(part.labels), np.asarray(hits).tolist()))
        if split == "val":
            scores[domain] = np.asarray(jax.vmap(information_maximization)(logits)).tolist()
    return rows, scores


def zero_shot_rows(encoded: Encoded) -> list[dict]:
    """Zero-shot accuracy of every encoded test and validation part."""
    rows = []
    for (domain, split), part in encoded.parts.items():
        if split == "train":
            continue
        logits = encoded.scale * part.features @ encoded.text_weights.T
        hit = float(accuracy(logits, jnp.asarray(part.labels)))
        rows.append(report.row("zero_shot", domain, split, len(part.labels), [hit]))
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
    rows = zero_shot_rows(encoded)
    for name, method in plan.methods.items():
        say(f"train {name}: {config.epochs} epochs, {len(config.seeds)} seeds")
        params = train_method(name, method, config, encoded, workdir, log)
        more, scores = evaluate_method(name, method.heads, params, encoded)
        rows += more
        log.append_once({"phase": "evaluate", "method": name, "information_maximization": scores})
        lap(name)
    results = report.collect(config, plan.dataset, rows, timing)
    report.write(workdir, results)
    say(report.table(results))
    say(f"results: {workdir / 'results.json'}, {workdir / 'results.md'}")
    return results
