"""The contrastive stage: a CLIP from scratch on image-text pairs, in Hugging Face layout."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.contrastive import TwoTowers, make_loss
from clipjax.adapt.step import init_state, make_step
from clipjax.data import pairs
from clipjax.data.augment import augment_drawings
from clipjax.data.order import process_rows
from clipjax.data.preprocess import Preprocess, save_preprocess
from clipjax.data.sources import open_dataset
from clipjax.errors import ConfigError
from clipjax.evaluate.metrics import accuracy
from clipjax.log import MetricsLog, NoLog
from clipjax.model.clip import CLIP, CLIPConfig, TextConfig, VisionConfig, normalize
from clipjax.model.hf import load_clip, save_clip
from clipjax.model.hf_params import abstract_params
from clipjax.model.hub import copy_tokenizer, find_model
from clipjax.model.text import load_tokenizer, zero_shot_classifier
from clipjax.model.weights import read_json
from clipjax.train import processes
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.loop import fit_stream
from clipjax.train.optim import make_optimizer, make_schedule
from clipjax.train.preemption import Notice
from clipjax.train.sharding import DATA, fetch
from experiments.choices import check_saving, check_seeds
from experiments.fields import check_known, options_of
from experiments.mesh import check_parallel, training_mesh, wanted_trace
from experiments.run import run_name


class Plan(NamedTuple):
    """What pretraining reads, opened and checked."""

    corpus: pairs.PairCorpus
    tokenize: Callable
    tokenizer_dir: pathlib.Path
    arch: CLIPConfig
    start: Any  # parameters to go on from; None for random ones


def clip_config(config, tokenizer_dir: pathlib.Path) -> CLIPConfig:
    """The architecture of the config, its vocabulary from the tokenizer's files."""
    vocab = read_json(tokenizer_dir / "vocab.json")
    eos = vocab["<|endoftext|>"]
    words = {
        "vocab_size": len(vocab),
        "bos_token_id": vocab["<|startoftext|>"],
        "eos_token_id": eos,
        "pad_token_id": eos,
    }
    arch = config.arch.to_dict()
    try:
        return CLIPConfig(
            VisionConfig(**arch["vision"]),
            TextConfig(**arch["text"], **words),
            projection_dim=arch["projection_dim"],
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"arch: {error}") from None


def two_towers(module: CLIP, preprocess: Preprocess, *, augment: dict, keep: float) -> TwoTowers:
    """The model as contrastive training sees it: drawings are painted and cropped on the device."""

    def encode_image(params, inputs, rng):
        paint, drop = jax.random.split(rng)
        images = augment_drawings(paint, inputs["rgba"], inputs["mono"], **augment)
        pixels = (images - np.array(preprocess.mean)) / np.array(preprocess.std)
        return normalize(
            module.apply(
                {"params": params["clip"]}, pixels, keep=keep, rng=drop, method="encode_image"
            )
        )

    def encode_text(params, tokens):
        embedded = module.apply({"params": params["clip"]}, tokens, method="encode_text")
        return normalize(embedded)

    def scale(params):
        return module.apply({"params": params["clip"]}, method="scale")

    return TwoTowers(encode_image, encode_text, scale)


def zero_shot_validation(module, preprocess, tokenize, prompts):
    """params -> zero-shot accuracy on every domain's validation split of the embedded dataset."""
    dataset = open_dataset("emoji")
    sources = [dataset.source(domain, "val") for domain in dataset.domains]
    pixels = {
        s.domain: np.stack([preprocess.crop(s[i].image, s[i].name) for i in range(len(s))])
        for s in sources
    }
    encode_image = jax.jit(
        lambda p, x: normalize(
            module.apply({"params": p}, preprocess.normalize(x), method="encode_image")
        )
    )
    encode_text = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode_text"))

    def evaluate(params):
        weights = zero_shot_classifier(
            functools.partial(encode_text, params["clip"]), tokenize, dataset.classes, prompts
        )
        result = {}
        for source in sources:
            image = encode_image(params["clip"], pixels[source.domain])
            result[f"val/{source.domain}"] = float(
                accuracy(image @ weights.T, jnp.asarray(source.labels))
            )
        return result

    return evaluate


def prepare(config) -> Plan:
    """Opens the corpus and the tokenizer and checks them against the config."""
    _check_names(config)
    check_parallel(config)
    check_seeds(config)
    check_saving(config)
    training_mesh(config, most=1)  # refuses one that cannot be
    tokenizer_dir = find_model(config.tokenizer)
    context = config.arch.text.max_position_embeddings
    tokenize = load_tokenizer(tokenizer_dir, context=context)
    corpus = pairs.PairCorpus(config.data.root)
    pairs.check_mixture(corpus, config.data.mixture.to_dict())
    arch = clip_config(config, tokenizer_dir)
    if corpus.image_size != arch.vision.image_size:
        raise ConfigError(
            f"{config.data.root} holds drawings of {corpus.image_size} pixels, but "
            f"arch.vision.image_size is {arch.vision.image_size}; make them equal."
        )
    return Plan(corpus, tokenize, tokenizer_dir, arch, start_params(config, arch))


def _check_names(config) -> None:
    """Refuses fields of blocks that only what takes them knows.

    Raises:
      ConfigError: the field.
    """
    check_known("optim", config.optim, ("schedule", "lr", "warmup", *options_of(make_optimizer)))
    check_known("augment", config.augment, options_of(augment_drawings))
    for tower, kind in (("vision", VisionConfig), ("text", TextConfig)):
        check_known(
            f"arch.{tower}", config.arch[tower], [field.name for field in dataclasses.fields(kind)]
        )


def start_params(config, arch: CLIPConfig):
    """The weights of `config.init`, float32; None where it is empty.

    Raises:
      ConfigError: a model of another architecture than `config.arch`.
    """
    if not config.init:
        return None
    found, params = load_clip(config.init, dtype=jnp.float32)
    if found != arch:
        raise ConfigError(
            f"config.init={config.init!r} is a model of another architecture than config.arch and "
            f"the tokenizer give:\n  {found}\n  {arch}"
        )
    return params


def run(config, plan: Plan, workdir: pathlib.Path, say) -> None:
    """Trains, resuming where a killed run stopped, and writes `workdir/export`."""
    corpus, tokenize, tokenizer_dir, arch, _ = plan
    mixture = config.data.mixture.to_dict()
    preprocess = Preprocess(size=arch.vision.image_size)
    module = CLIP(arch)
    seed = int(config.seeds[0])
    say(f"{len(corpus)} drawings, {len(corpus.texts)} texts")

    optim = config.optim.to_dict()
    schedule = make_schedule(
        optim.pop("schedule"), optim.pop("lr"), config.steps, warmup=optim.pop("warmup")
    )
    optimizer = make_optimizer(schedule, **optim)
    size = arch.vision.image_size
    params = plan.start
    if params is None:
        example = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 2), jnp.int32)
        params = module.init(jax.random.key(seed), *example)["params"]
    state = init_state({"clip": params}, optimizer, seed=seed)

    mine = process_rows(config.batch_size, processes.place())

    def make(number: int) -> dict:
        batch = pairs.sample_batch(
            corpus,
            tokenize,
            seed=seed,
            step=number,
            batch_size=config.batch_size,
            mixture=mixture,
            caption_share=config.data.caption_share,
            category_share=config.data.category_share,
            templates=config.data.templates,
        )
        return jax.tree.map(lambda x: x[mine], batch)

    evaluate = config.evaluate_every and zero_shot_validation(
        module, preprocess, tokenize, config.prompts
    )
    phases = (
        ("pretrain", config.keep_patches, config.steps - config.full_steps),
        ("pretrain-full", 1.0, config.steps),
    )
    log = MetricsLog if processes.is_first() else NoLog
    axis = DATA if config.parallel == "pmap" else None
    folder, name = workdir / "checkpoints" / "pretrain", run_name(workdir)
    with Notice() as notice, Checkpointer(folder, keep=config.keep, run=name) as checkpointer:
        for phase, keep, until in phases:
            model = two_towers(module, preprocess, augment=config.augment.to_dict(), keep=keep)
            state = fit_stream(
                make_step(
                    make_loss(model, axis), optimizer, total_steps=config.steps, axis_name=axis
                ),
                state,
                functools.partial(pairs.batches, make, last=until),
                until,
                phase=phase,
                checkpointer=checkpointer,
                log=log(workdir / "metrics.jsonl"),
                log_every=config.log_every,
                save_every=config.save_every,
                evaluate=evaluate and (lambda params: evaluate(fetch(params))),
                evaluate_every=config.evaluate_every,
                say=say,
                mesh=training_mesh(config, most=1),  # on CPU one device, unless more are asked for
                parallel=config.parallel,
                trace=wanted_trace(config, workdir),
                stop=notice.reached,
            )
    params = fetch(state.params["clip"])
    if not processes.is_first():
        return
    out = workdir / "export"
    save_clip(out, arch, params, dtype=np.float16)
    save_preprocess(out, preprocess)
    copy_tokenizer(tokenizer_dir, out)
    count = sum(x.size for x in jax.tree.leaves(abstract_params(arch)))
    say(f"exported {count} parameters to {out}")
