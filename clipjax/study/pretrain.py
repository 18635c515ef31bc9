"""The contrastive stage: a CLIP from scratch on image-text pairs, in Hugging Face layout."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax.adapt import average as averages
from clipjax.adapt import contrastive
from clipjax.adapt.method import Backbone
from clipjax.adapt.step import init_state, make_step
from clipjax.data.features.cache import fingerprint
from clipjax.data.features.identity import sizes, tokenizer_files
from clipjax.data.images.augment import augment_drawings
from clipjax.data.images.preprocess import Preprocess, save_preprocess
from clipjax.data.images.restyle import check_styles
from clipjax.data.loading import text_pairs as pairs
from clipjax.data.loading.sampler import process_rows
from clipjax.data.loading.workers import load_ahead
from clipjax.data.open import open_dataset
from clipjax.errors import CheckpointError, ConfigError
from clipjax.evaluate.metrics import accuracy
from clipjax.log import MetricsLog, NoLog
from clipjax.model.backbone import make_backbone
from clipjax.model.clip import CLIP, CLIPConfig, TextConfig, VisionConfig, normalize
from clipjax.model.hf.hub import copy_tokenizer, find_model
from clipjax.model.hf.load import load_clip, save_clip
from clipjax.model.hf.params import abstract_params
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.hf.weights import read_json
from clipjax.model.text import zero_shot_classifier
from clipjax.study.config import Arch, Painting, Pretraining
from clipjax.study.fields import check_names
from clipjax.study.mesh import training_mesh, wanted_trace
from clipjax.study.model_record import check_recorded, check_same_model
from clipjax.study.workdir import run_name
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.distributed.sharding import DATA, fetch
from clipjax.train.journal import Outputs
from clipjax.train.optim import Rule, make_optimizer
from clipjax.train.preemption import Notice
from clipjax.train.schedules import make_schedule
from clipjax.train.stream import Steps, fit_stream


class Plan(NamedTuple):
    """Model and data of pretraining, opened and checked."""

    config: Pretraining
    corpus: pairs.PairCorpus
    tokenize: Callable
    tokenizer_dir: pathlib.Path
    arch: CLIPConfig
    start: Any  # parameters to go on from; None for random ones


def clip_config(arch: Arch, tokenizer_dir: pathlib.Path) -> CLIPConfig:
    """Return the architecture of the config, with the vocabulary of the tokenizer's files."""
    vocab = read_json(file := tokenizer_dir / "vocab.json")
    if missing := {"<|startoftext|>", "<|endoftext|>"} - vocab.keys():
        raise CheckpointError(f"{file} has no token {min(missing)}; give the tokenizer of a CLIP.")
    eos = vocab["<|endoftext|>"]
    check_names(VisionConfig, arch.vision, where="arch.vision")
    check_names(TextConfig, arch.text, where="arch.text")
    words = {"bos_token_id": vocab["<|startoftext|>"], "eos_token_id": eos, "pad_token_id": eos}
    try:
        text = TextConfig(**arch.text, **words, vocab_size=len(vocab))
        return CLIPConfig(VisionConfig(**arch.vision), text, projection_dim=arch.projection_dim)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"arch: {error}") from None


def two_towers(module: CLIP, preprocess: Preprocess, *, augment: Painting, keep: float) -> Backbone:
    """Return the model as contrastive training sees it: drawings are painted on the device."""

    def encode_image(params, inputs, rng):
        paint, drop = jax.random.split(rng)
        images = augment_drawings(paint, inputs["rgba"], inputs["mono"], **vars(augment))
        pixels = (images - np.array(preprocess.mean)) / np.array(preprocess.std)
        clip = {"params": params["clip"]}
        return normalize(module.apply(clip, pixels, keep=keep, rng=drop, method="encode_image"))

    towers = make_backbone(module, lambda pixels, rng: pixels)
    return towers._replace(encode={**towers.encode, "image": encode_image})


def zero_shot_validation(module, preprocess, tokenize, prompts):
    """Return params -> zero-shot accuracy on the validation splits of the embedded dataset."""
    dataset = open_dataset("emoji")
    sources = [dataset.source(domain, "val") for domain in dataset.domains]
    pixels = {
        s.domain: np.stack([preprocess.crop(s[i].image, s[i].name) for i in range(len(s))])
        for s in sources
    }
    encode_text = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode_text"))
    look = lambda pixels, rng: preprocess.normalize(pixels)
    encode_image = jax.jit(make_backbone(module, look).encode["image"])

    def evaluate(params):
        encode = functools.partial(encode_text, params["clip"])
        weights = zero_shot_classifier(encode, tokenize, dataset.classes, prompts)
        logits = lambda source: encode_image(params, pixels[source.domain]) @ weights.T
        hits = lambda source: float(accuracy(logits(source), jnp.asarray(source.labels)))
        return {f"val/{source.domain}": hits(source) for source in sources}

    return evaluate


def prepare(config: Pretraining) -> Plan:
    """Open the corpus and the tokenizer and check them against the config."""
    training_mesh(config.devices, config.batch_size, most=1)  # refuses one that cannot be
    check_styles(config.augment.styles)
    tokenizer_dir = find_model(config.tokenizer)
    arch = clip_config(config.arch, tokenizer_dir)
    context = arch.text.max_position_embeddings
    tokenize = load_tokenizer(tokenizer_dir, context=context, tower=arch.text)
    corpus = pairs.PairCorpus(config.data.root)
    if config.distill and corpus.teacher is None:
        fault = f"distill={config.distill:g} needs the features of a teacher, and"
        build = (
            f"`python tools/teach_corpus.py --corpus={corpus.root}` makes them; or set distill=0"
        )
        raise ConfigError(f"{fault} {corpus.root} has none; {build}.")
    pairs.check_mixture(corpus, config.data.mixture)
    if corpus.image_size != arch.vision.image_size:
        fault = f"{config.data.root} holds drawings of {corpus.image_size} pixels"
        raise ConfigError(f"{fault}; arch.vision.image_size must be that too.")
    return Plan(config, corpus, tokenize, tokenizer_dir, arch, start_params(config.init, arch))


def start_params(init: str, arch: CLIPConfig):
    """Return the weights of `config.init`, float32; None where it is empty."""
    if not init:
        return None
    found, params = load_clip(init, dtype=jnp.float32)
    if found != arch:
        fault = f"config.init={init!r} has another architecture than config.arch and the tokenizer"
        raise ConfigError(f"{fault} give:\n  {found}\n  {arch}")
    return params


def run(plan: Plan, workdir: pathlib.Path, say) -> None:
    """Train, resuming where a killed run stopped, and write `workdir/export`."""
    config, arch, corpus = plan.config, plan.arch, plan.corpus
    devices, steps = config.devices, config.steps
    # What decides the model: sizes, tokenizer, the weights it goes on from.
    identity = sizes(arch) | tokenizer_files(plan.tokenizer_dir)
    identity |= {} if plan.start is None else {"weights": fingerprint(plan.start)}
    if told := check_same_model(workdir, identity, plan.tokenizer_dir):
        say(f"note: {told}")
    preprocess, module = Preprocess(size=arch.vision.image_size), CLIP(arch)
    say(f"{len(corpus)} drawings, {len(corpus.texts)} texts")
    optimizer, make = _optimizer(config), _batch_maker(plan)
    distill = {"distill": config.distill}
    if config.distill:
        distill["widths"] = arch.projection_dim, corpus.teacher.shape[1]
    average = averages.ema(config.ema) if config.ema else None
    own = contrastive.make_method(make_backbone(module, None), **distill).init(None)
    start = {"clip": _start(plan, module), **own}
    state = init_state(start, optimizer, seed=config.seeds[0], average=average)
    evaluate = config.evaluate_every and zero_shot_validation(
        module, preprocess, plan.tokenize, config.prompts
    )
    half = ("pretrain", config.keep_patches, steps - config.full_steps)
    log = MetricsLog if processes.is_first() else NoLog
    axis = DATA if devices.parallel == "pmap" else None
    every = config.log_every, config.save_every, config.evaluate_every
    mesh = training_mesh(devices, config.batch_size, most=1)  # on CPU by default one device
    trace = wanted_trace(devices.profile, workdir)
    folder, name = workdir / "checkpoints" / "pretrain", run_name(workdir)
    with Notice() as notice, Checkpointer(folder, keep=config.keep, run=name) as checkpointer:
        for phase, keep, until in (half, ("pretrain-full", 1.0, steps)):
            towers = two_towers(module, preprocess, augment=config.augment, keep=keep)
            method = contrastive.make_method(towers, axis_name=axis, **distill)
            state = fit_stream(
                make_step(
                    method.loss, optimizer, total_steps=steps, axis_name=axis, average=average
                ),
                state,
                functools.partial(load_ahead, make, last=until, threads=1),
                Steps(phase, until, *every, mesh=mesh, parallel=devices.parallel, trace=trace),
                Outputs(
                    checkpointer,
                    log(workdir / "metrics.jsonl"),
                    evaluate=evaluate and (lambda params: evaluate(fetch(params))),
                    say=say,
                    stop=notice.reached,
                ),
            )
    params = fetch((state.average if average else state).params["clip"])
    if processes.is_first():
        now = identity | tokenizer_files(plan.tokenizer_dir)  # it may have changed meanwhile
        check_recorded(workdir, now, plan.tokenizer_dir)
        out = workdir / "export"
        save_clip(out, arch, params, dtype=np.float16)
        save_preprocess(out, preprocess)
        copy_tokenizer(plan.tokenizer_dir, out)
        count = sum(x.size for x in jax.tree.leaves(abstract_params(arch)))
        say(f"exported {count} parameters to {out}")


def _optimizer(config: Pretraining) -> optax.GradientTransformation:
    optim = config.optim
    rate = make_schedule(optim.schedule, optim.lr, config.steps, warmup=optim.warmup)
    rest = {"weight_decay": optim.weight_decay, "clip_norm": optim.clip_norm}
    return make_optimizer(rate, Rule(optim.name, b2=optim.b2), **rest)


def _start(plan: Plan, module: CLIP) -> Any:
    """Return parameters to begin with: those of `config.init`, or random ones."""
    if plan.start is not None:
        return plan.start
    size = plan.arch.vision.image_size
    example = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 2), jnp.int32)
    return module.init(jax.random.key(plan.config.seeds[0]), *example)["params"]


def _batch_maker(plan: Plan) -> Callable[[int], dict]:
    """Return step -> this process's share of its batch."""
    config, data = plan.config, plan.config.data
    mine = process_rows(config.batch_size, processes.place())
    sample = functools.partial(
        pairs.sample_batch,
        plan.corpus,
        plan.tokenize,
        seed=config.seeds[0],
        batch_size=config.batch_size,
        mixture=data.mixture,
        wording=pairs.Wording(data.caption_share, data.category_share, data.templates),
    )
    return lambda number: jax.tree.map(lambda x: x[mine], sample(step=number))
