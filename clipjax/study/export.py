"""Writes the model of a finished run as one directory (`clipjax.export.adapted`)."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from clipjax.adapt import align
from clipjax.adapt.step import merge
from clipjax.data.features.identity import tokenizer_files
from clipjax.errors import CheckpointError, ConfigError
from clipjax.evaluate import results as report
from clipjax.evaluate.rows import own_rows
from clipjax.export.adapted import Trained, save_adapted
from clipjax.export.program import usage
from clipjax.io import check_reachable, to_json
from clipjax.model.backbone import as_linear
from clipjax.model.heads import Heads, fold_affine, predict
from clipjax.model.hf.load import load_clip
from clipjax.runtime.claim import claimed
from clipjax.study.config import Study, parse
from clipjax.study.encode import encode_texts
from clipjax.study.model_record import check_recorded
from clipjax.study.plan import prepare
from clipjax.study.prepared import Plan, read_record
from clipjax.study.trainer import trainers
from clipjax.train.checkpoint import warn

PyTree = Any


def choose(results: dict, stages: list[str], method: str, seed: int | None) -> tuple[str, int]:
    """Return the method and the position of the seed to export.

    By default the last method that sees no target labels, and the seed that is best on the source.
    """
    if not stages:
        raise ConfigError("this run trained nothing (zero-shot only); there is nothing to export.")
    labelled = results.get("target_labels", ())
    method = method or [name for name in stages if name not in labelled or len(stages) == 1][-1]
    if method not in stages:
        raise ConfigError(f"the run trained no method {method!r}; it trained {', '.join(stages)}.")
    seeds = results["seeds"]
    if seed is None:
        row = own_rows(results["rows"], "val")[method, results["data"]["source"]]
        return method, int(np.argmax(row["accuracies"]))
    if seed not in seeds:
        raise ConfigError(f"the run has no seed {seed}; it has {', '.join(map(str, seeds))}.")
    return method, seeds.index(seed)


def model_card(results: dict, config: dict, method: str, seed: str, size: int) -> str:
    """Return README.md of an exported model; `size` is the side of its images in pixels."""
    data = results["data"]
    settings = to_json(config, indent=2, sort_keys=True)
    return (
        f"---\nlibrary_name: clipjax\npipeline_tag: image-classification\n---\n"
        f"# {results['model']} adapted: {data['source']} -> {data['target']} ({data['name']})\n\n"
        f"Method `{method}`, seed {seed}, checkpoint by the rule `{results['selection']}`. "
        f"{results['classes']} classes.\n\n"
        "```python\n"
        "from clipjax import load_adapted\n"
        'model = load_adapted("path/to/this/directory")\n'
        'print(model.classes[model.predict(["image.jpg"])[0].argmax()])\n'
        "```\n\n"
        "`config.json`, `model.safetensors`, tokenizer and preprocessor are a CLIP as transformers "
        "opens it; `heads.json` and `heads.safetensors` are what was trained on its features.\n\n"
        f"{usage(size, results['classes'])}\n"
        "## The run it comes from\n"
        f"{report.markdown(results).split(chr(10), 2)[2].strip()}\n\n"
        f"## Config\n```json\n{settings}\n```\n"
    )


def export(workdir: pathlib.Path, out: pathlib.Path, method: str, seed: int | None) -> None:
    """Write the model of a finished run. Its data need not be there, its encoder must.

    Raises:
      ConfigError: no finished run there, or `out` exists, or cannot be written.
      CheckpointError: the run's checkpoint or its encoder is missing or damaged, or the encoder is
        no longer what it was.
    """
    check_reachable(workdir)
    results = report.read(workdir)
    if results is None:
        raise ConfigError(f"{workdir} holds no finished run of a study; finish it first.")
    check_reachable(out)
    if out.exists():
        raise ConfigError(f"{out} exists; choose another --out or remove it.")
    with claimed(out.parent, out.name + ".lock"):
        _export(workdir, results, out, method, seed)


def recorded_config(workdir: pathlib.Path) -> tuple[Study, dict]:
    """Return the study of a run, and what its file says; missing fields have defaults."""
    file = workdir / "config.json"
    try:
        raw = json.loads(file.read_text())
        if isinstance(raw, dict) and isinstance(raw.get("remat"), bool):  # before it was a name
            raw["remat"] = "blocks" if raw["remat"] else "none"
        return parse(raw), raw
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); an export needs it.") from error


def prepared(study: Study, workdir: pathlib.Path) -> Plan:
    """Open what an export needs of a run: its encoder, and its classes as recorded."""
    try:
        # This machine need not be like the run's.
        return prepare(study, training=False, recorded=read_record(workdir))
    except CheckpointError as error:
        needed = f"needs the encoder that the run began with, {study.encoder.model!r}, where it was"
        raise CheckpointError(f"an export of {workdir} {needed}: {error}") from error


def _overlay(params: dict, over: dict) -> dict:
    """Replace some parameters, dict by dict."""
    both = {k: _overlay(params[k], v) if isinstance(v, dict) else v for k, v in over.items()}
    return {**params, **both}


def _check_answers(method: str, answer: Callable, params: PyTree, heads: Heads, exported: PyTree):
    """Raise ConfigError if a method's answers to embeddings are not those of its heads."""
    width = exported["adapter" if heads.adapter is not None else "classifier"]["layer_0"]["kernel"]
    x = np.random.default_rng(0).standard_normal((64, width.shape[-2])).astype(np.float32)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    spread = lambda logits: np.asarray(logits) - np.mean(logits, axis=1, keepdims=True)
    wanted, found = spread(answer(params, x)[0]), spread(predict(heads, exported, x))
    if not np.allclose(wanted, found, rtol=1e-3, atol=1e-3 * np.abs(wanted).max()):
        told = f"{method!r} answers with more than its heads (with {', '.join(sorted(params))})"
        raise ConfigError(f"{told}, and an export holds heads alone; export another method.")


def _export(
    workdir: pathlib.Path, results: dict, out: pathlib.Path, method: str, seed: int | None
) -> None:
    study, raw = recorded_config(workdir)
    if best := list(results.get("sweep", {}).get("best", {}).values()):
        method = method or best[-1]
    method, position = choose(results, [made.name for made in study.trained], method, seed)
    plan = prepared(study, workdir)
    if told := check_recorded(workdir, plan.identity, plan.model):
        warn(f"note: {told}")
    texts = encode_texts(plan)
    (trainer,) = (t for t in trainers(texts, workdir) if method in t.names)
    trained = trainer.restored()[method]
    whole = jax.tree.map(lambda x: x[position], trained.params)
    parts, maps = ("clip", "adapter", "classifier", "discriminator"), None
    one = {key: value for key, value in whole.items() if key in parts}
    if plan.methods[method].config.align != "none":
        maps = whole[align.OWN]["target"]
    stored = load_clip(plan.model, image_size=study.encoder.image_size or None)[1]
    # The parameters that were compared, each in the dtype it is stored in.
    own = jax.tree.map(lambda value, like: value.astype(like.dtype), plan.params, stored)
    clip, heads = _overlay(own, one.pop("clip", {})), plan.methods[method].heads
    if heads is None and set(one) == {"classifier"} and set(one["classifier"]) == {"layer_0"}:
        heads = Heads(len(plan.dataset.classes), class_bias="bias" in one["classifier"]["layer_0"])
    if heads is None:
        others = ", ".join(plan.methods)
        raise ConfigError(f"{method!r} has no heads to export; export another method of {others}.")
    if heads.text:
        heads, one = as_linear(plan.module, clip, texts.classes)
    if maps is not None:
        heads, one = fold_affine(heads, one, maps["mean"], maps["map"])
    if not set(parts).issuperset(whole):  # it may compute more than heads do
        _check_answers(method, trained.answer, merge(whole, trained.shared), heads, one)
    chosen = results["seeds"][position]
    picked = "as asked" if seed is not None else "the best on the source's validation split"
    scratch = out.with_name(out.name + ".partial")  # a kill leaves nothing that looks whole
    shutil.rmtree(scratch, ignore_errors=True)
    save_adapted(
        scratch,
        config=plan.clip_config,
        params=clip,
        preprocess=plan.preprocess,
        trained=Trained(heads, one, plan.dataset.classes),
        tokenizer=plan.model,
        card=model_card(results, raw, method, f"{chosen} ({picked})", plan.preprocess.size),
    )
    copied = tokenizer_files(scratch)
    if copied != {name: plan.identity.get(name) for name in copied}:
        raise CheckpointError(f"the tokenizer in {plan.model} changed meanwhile; export again.")
    scratch.rename(out)
    print(f"{method}, seed {chosen}: {out}")
