"""Zero-shot, then every method of the config on cached features, then the results."""

from __future__ import annotations

import functools
import importlib
import pathlib
import pkgutil
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import clipjax.adapt
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
from clipjax.model.clip import CLIP, normalize
from clipjax.model.heads import Heads, as_model, init_heads, predict
from clipjax.model.hf import load_clip
from clipjax.train.arrays import fit_arrays, steps_per_epoch
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.optim import frozen_tree, make_optimizer, make_schedule
from experiments.models import model_directory


class Encoded(NamedTuple):
    """A dataset seen through the frozen encoder."""

    parts: dict[tuple[str, str], feats.Features]  # (domain, split) -> features
    text_weights: jax.Array  # [K, P]: zero-shot class weights
    scale: float  # CLIP's factor on cosine similarities


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


def encode(config, dataset: Dataset, say) -> Encoded:
    """Loads the model and encodes what the run needs, or reads it from the feature cache."""
    directory = model_directory(config.model)
    clip_config, params = load_clip(directory)
    preprocess: Preprocess = load_preprocess(directory)
    tokenize = text.load_tokenizer(directory)
    module = CLIP(clip_config)
    encode_text = jax.jit(functools.partial(module.apply, {"params": params}, method="encode_text"))
    weights = text.zero_shot_classifier(encode_text, tokenize, dataset.classes, config.prompts)

    @jax.jit
    def encode_image(params, pixels):
        return normalize(
            module.apply({"params": params}, preprocess.normalize(pixels), method="encode_image")
        )

    cache = config.features.cache_dir or feats.default_cache_dir() / "features"
    key = feats.fingerprint(params)
    parts = {}
    for domain, split in dict.fromkeys(needed_parts(config, dataset)):
        parts[domain, split] = feats.cached_features(
            functools.partial(encode_image, params),
            dataset.source(domain, split),
            preprocess,
            weights=key,
            batch_size=config.features.batch_size,
            cache_dir=cache if config.features.cache else None,
        )
    scale = float(module.apply({"params": params}, method="scale"))
    say(
        f"features of {sum(len(p.labels) for p in parts.values())} images in "
        f"{len(dataset.domains)} domains, {len(dataset.classes)} classes"
    )
    return Encoded(parts, weights, scale)


def load_method(name: str):
    """The module of `clipjax.adapt` that holds a method's `make_loss`.

    Raises:
      ConfigError: no such method; those there are are listed.
    """
    found = [m.name for m in pkgutil.iter_modules(clipjax.adapt.__path__)]
    if name in found:
        module = importlib.import_module(f"clipjax.adapt.{name}")
        if hasattr(module, "make_loss"):
            return module
    known = [
        m for m in found if hasattr(importlib.import_module(f"clipjax.adapt.{m}"), "make_loss")
    ]
    raise ConfigError(f"unknown loss {name!r} in methods; known: {', '.join(known)}.")


def check_frozen_encoder(freeze: tuple[str, ...]) -> tuple[str, ...]:
    """The freeze patterns for the heads; refuses to train the encoder on cached features."""
    encoder = [p for p in freeze if p.startswith("clip/")]
    if "clip/.*" not in encoder:
        raise ConfigError(
            f"freeze={tuple(freeze)} leaves parts of the encoder to train, but this experiment "
            "trains on cached features; add 'clip/.*'."
        )
    return tuple(p for p in freeze if not p.startswith("clip/"))


def train_method(name, config, encoded: Encoded, num_classes: int, workdir, log):
    """Trains one method for all seeds; returns (heads, params stacked over seeds)."""
    spec = config.methods[name].to_dict()
    heads = Heads(num_classes=num_classes, **spec.pop("heads"))
    module = load_method(spec.pop("loss"))
    try:
        loss = module.make_loss(as_model(heads), **spec)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"methods.{name}: {error}") from None
    source = encoded.parts[config.data.source, "train"]
    target = encoded.parts[config.data.target, "train"]
    data = {
        "source": {"inputs": jnp.asarray(source.features), "label": jnp.asarray(source.labels)},
        "target": {"inputs": jnp.asarray(target.features)},
    }
    total = config.epochs * steps_per_epoch(data, config.batch_size)
    optim = config.optim.to_dict()
    freeze = check_frozen_encoder(tuple(config.freeze))
    shape = {k: optim.pop(k) for k in ("warmup", "step_every", "gamma")}
    try:
        schedule = make_schedule(optim.pop("schedule"), optim.pop("lr"), total, **shape)
        optimizer = make_optimizer(schedule, freeze=freeze, **optim)
    except ValueError as error:
        raise ConfigError(str(error)) from None

    example = data["source"]["inputs"][:1]

    def init(seed):
        key = jax.random.key(seed)
        return init_heads(heads, key, example, encoded.text_weights, encoded.scale)

    frozen = frozen_tree(jax.eval_shape(init, 0), freeze) if freeze else None
    step = make_step(loss, optimizer, total_steps=total, frozen=frozen)
    seeds = jnp.array(config.seeds, jnp.uint32)
    states = jax.jit(
        jax.vmap(lambda seed: init_state(init(seed), optimizer, seed=seed, frozen=frozen))
    )(seeds)
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
    return heads, states.params


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


def run(config, workdir: pathlib.Path, say) -> dict:
    """Runs the study and writes its results; returns them."""
    started = time.perf_counter()
    timing = {}

    def lap(what: str) -> None:
        timing[what] = round(time.perf_counter() - started - sum(timing.values()), 2)

    dataset = open_data(config)
    log = MetricsLog(workdir / "metrics.jsonl")
    log.rewind(lambda record: record.get("phase") != "evaluate")
    encoded = encode(config, dataset, say)
    lap("encode")
    rows = zero_shot_rows(encoded)
    for name in config.stages:
        say(f"train {name}: {config.epochs} epochs, {len(config.seeds)} seeds")
        heads, params = train_method(name, config, encoded, len(dataset.classes), workdir, log)
        more, scores = evaluate_method(name, heads, params, encoded)
        rows += more
        log.append({"phase": "evaluate", "method": name, "information_maximization_val": scores})
        lap(name)
    results = report.collect(config, dataset, rows, timing)
    report.write(workdir, results)
    say(report.table(results))
    say(f"results: {workdir / 'results.json'}, {workdir / 'results.md'}")
    return results
