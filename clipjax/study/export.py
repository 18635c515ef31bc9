"""Writes the model of a finished run as one directory (`clipjax.export.adapted`)."""

import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data.features.identity import tokenizer_files
from clipjax.errors import CheckpointError, ConfigError
from clipjax.evaluate import results as report
from clipjax.evaluate.choice import ACROSS, ZERO_SHOT, mean
from clipjax.evaluate.rows import lines_of, own_rows
from clipjax.evaluate.verdict import against_zero_shot
from clipjax.export.adapted import Trained, check_names, save_adapted
from clipjax.export.card import Card, license_of, model_card
from clipjax.export.onnx import check_onnx
from clipjax.export.push import check_push, push
from clipjax.io import check_reachable
from clipjax.model.heads import as_affine
from clipjax.model.prompts import fill_prompts
from clipjax.runtime.claim import claimed
from clipjax.study.config import Study, parse
from clipjax.study.encode import Encoded, encode_texts
from clipjax.study.folded import Beyond, Folded, folded
from clipjax.study.model_record import check_recorded
from clipjax.study.plan import prepare
from clipjax.study.prepared import Plan, read_record
from clipjax.train.checkpoint import warn

_EMBEDDED = "apache-2.0"  # licence of the tiny CLIP


class Chosen(NamedTuple):
    """What of a run is exported."""

    method: str
    position: int  # of the seed
    why: str  # the method, without a full stop
    variant: str = ""  # of the method; "" is its own result


def choose(
    results: dict,
    trained: Sequence[str],
    method: str = "",
    seed: int | None = None,
    variant: str = "",
) -> Chosen:
    """Return the method and the position of the seed to export.

    By default the method that the run's verdict takes, zero-shot among them; where a run has none,
    that with the best mean accuracy on the source's validation images, of those that see no target
    labels. And the seed that is best there. A `variant` is of a `method` that is named.
    """
    if variant and not method:
        raise ConfigError(f"variant {variant!r} is of a method; name it, as with --method=cite.")
    labelled = results.get("target_labels", ())
    found = results.get("verdict") or {}
    pick = found.get("method")
    validated = own_rows(results["rows"], "val")
    source, seeds = results["data"]["source"], results["seeds"]
    if pick is None:
        free = [name for name in (ZERO_SHOT, *trained) if name not in labelled]
        score = lambda name: validated.get((name, source), {}).get("accuracy_mean", -1.0)
        pick = max(free, key=score)
        told = f"best by {ACROSS}, and the run has no verdict"
    else:
        told = found["why"] or "nothing else was compared"
    why, method = told, method or pick
    if method != pick or variant:
        why = f"asked for; the run's rule takes {pick}: {told}"
    if method not in (ZERO_SHOT, *trained):
        known = ", ".join([*trained, ZERO_SHOT])
        raise ConfigError(f"the run has no method {method!r}; it has {known}.")
    if seed is not None and seed not in seeds:
        raise ConfigError(f"the run has no seed {seed}; it has {', '.join(map(str, seeds))}.")
    if variant:
        of = lambda split: {
            line.variant: line.rows
            for line in lines_of(results["rows"], split)
            if line.method == method
        }
        if variant not in (known := of("test")):
            raise ConfigError(f"{method} has no variant {variant!r}; it has {', '.join(known)}.")
        validated = {(method, d): row for d, row in of("val").get(variant, {}).items()}
    if method == ZERO_SHOT:
        return Chosen(method, 0, why)
    if seed is not None:
        return Chosen(method, seeds.index(seed), why, variant)
    best = int(np.argmax(validated[method, source]["accuracies"]))
    return Chosen(method, best, why, variant)


def next_best(
    results: dict, trained: Sequence[str], method: str, seed: int | None = None
) -> list[Chosen]:
    """Return what is exported where no export holds the method of the verdict, the best first.

    By the verdict's own rule, without what it refused; zero-shot, which any export holds, is last.
    """
    found = results.get("choice") or {}
    scores = {name: mean(own.get(found["rule"])) for name, own in found.get("scores", {}).items()}
    barred = {method, ZERO_SHOT, *found.get("refused", ())}
    known = [name for name in trained if scores.get(name) is not None and name not in barred]
    # What zero-shot beats would not have been taken before it.
    known = [name for name in known if scores[name] > (scores.get(ZERO_SHOT) or 0.0)]
    names = [*sorted(known, key=scores.__getitem__, reverse=True), ZERO_SHOT]
    why = f"the next best by {ACROSS}: the run's rule takes {method}, which no export holds"
    return [choose(results, trained, name, seed)._replace(why=why) for name in names]


def _first_held(
    texts: Encoded, workdir: pathlib.Path, picks: Sequence[Chosen]
) -> tuple[Chosen, Folded]:
    """Return the first that an export holds; Beyond, of the first, where none is."""
    refused = None
    for pick in picks:
        try:
            return pick, folded(texts, workdir, pick.method, pick.position, pick.variant)
        except Beyond as error:
            refused = refused or error
    raise refused


def export(
    workdir: pathlib.Path,
    out: pathlib.Path,
    method: str = "",
    seed: int | None = None,
    *,
    variant: str = "",
    onnx: bool = False,
    push_to: str = "",
    license: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Write the model of a finished run. Its data need not be there, its encoder must.

    Args:
      workdir: of the run.
      out: a directory that does not exist.
      method, seed, variant: see `choose`.
      onnx: whether to write two ONNX files too.
      push_to: owner/name of a model on the Hub that gets a copy; a new one is private.
      license: for the card; by default what the encoder's own card says.
      say: gets lines on what was written.

    Raises, before anything is written:
      ConfigError: no finished run there, or one of a model without texts; `out` exists, or cannot
        be written; no such method, variant or seed, a method that no export holds, classes of one
        name; no package or tower for ONNX; no token of the Hub, or another's.
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
    api = check_push(push_to) if push_to else None
    with claimed(out.parent, out.name + ".lock"):
        said = _export(workdir, results, out, method, seed, variant, onnx, license)
    say(said)
    if push_to:
        say(f"pushed to {push(api, push_to, out)}")


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


def _export(
    workdir: pathlib.Path,
    results: dict,
    out: pathlib.Path,
    method: str,
    seed: int | None,
    variant: str,
    onnx: bool,
    license: str,
) -> str:
    """Write the directory; return what was written, in words."""
    study, raw = recorded_config(workdir)
    there = {row["method"] for row in results["rows"]}  # one without labels was left out
    trained = [made.name for made in study.trained if made.name in there]
    picks = [choose(results, trained, method, seed, variant)]
    if not method:
        picks += next_best(results, trained, picks[0].method, seed)
    plan = prepared(study, workdir)
    if plan.module.config.text is None:
        told = f"an export holds a CLIP, and {study.encoder.model} has no text tower"
        raise ConfigError(
            f"{told}; `clipjax.study.run` of the same config and workdir restores it."
        )
    check_names(plan.dataset.classes)
    if onnx:
        check_onnx(plan.clip_config)
    if told := check_recorded(workdir, plan.identity, plan.model):
        warn(f"note: {told}")
    (method, position, why, _), found = _first_held(encode_texts(plan), workdir, picks)
    shown = f"{method} {variant}" if variant else method
    chosen = results["seeds"][position]
    picked = "as asked" if seed is not None else "the best on the source's validation split"
    encoder = study.encoder
    known = license or (_EMBEDDED if encoder.model == "tiny" else "")
    prompts = [fill_prompts(name, encoder.prompts)[0] for name in plan.class_names]
    below = against_zero_shot(results, method, variant)
    tables = report.markdown(results).split("\n", 2)[2].strip()
    card = Card(
        results=results,
        config=raw,
        method=shown,
        seed="" if method == ZERO_SHOT else f"{chosen} ({picked})",
        why=why,
        below=below,
        tables=tables.replace("\n## ", "\n### "),
        classes=plan.dataset.classes,
        clip=plan.clip_config,
        preprocess=plan.preprocess,
        heads=found.heads,
        affine=as_affine(found.heads, found.params) is not None,
        trained_encoder=found.trained_encoder,
        texts=tuple(prompts) if found.texts else (),
        onnx=onnx,
        license=known or license_of(encoder.model, plan.model, encoder.revision),
    )
    scratch = out.with_name(out.name + ".partial")  # a kill leaves nothing that looks whole
    shutil.rmtree(scratch, ignore_errors=True)
    save_adapted(
        scratch,
        config=plan.clip_config,
        params=found.clip,
        preprocess=plan.preprocess,
        trained=Trained(found.heads, found.params, plan.dataset.classes),
        tokenizer=plan.model,
        card=model_card(card),
        onnx=onnx,
    )
    copied = tokenizer_files(scratch)
    if copied != {name: plan.identity.get(name) for name in copied}:
        raise CheckpointError(f"the tokenizer in {plan.model} changed meanwhile; export again.")
    scratch.rename(out)
    if below:
        warn(f"warning: {below}")
    return f"{shown}{card.seed and f', seed {chosen}'}: {out}\nwhy {method}: {why}"
