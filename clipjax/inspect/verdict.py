"""The data of a config, opened and checked as a run does, and whether the run would start."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.classes import match_classes
from clipjax.data.dataset import Part, Skipped, Source, open_parts
from clipjax.data.images.preprocess import Preprocess, load_preprocess
from clipjax.errors import CheckpointError, ClipjaxError, ConfigError, DataError, sentence
from clipjax.inspect.scan import Reading, unreadable_images
from clipjax.inspect.stats import Rows
from clipjax.model.hf.hub import find_preprocessor
from clipjax.model.prompts import fill_prompts
from clipjax.model.text import confusable
from clipjax.study import plan
from clipjax.study.config import Config, Study
from clipjax.study.defaults import check_model
from clipjax.study.methods import build_methods
from clipjax.study.needs import check_unreadable, with_labels
from clipjax.study.parts import Encoder
from clipjax.study.prompt_sets import all_names, read_prompts


class Subject(NamedTuple):
    """A study's data, opened to be inspected."""

    study: Study
    dataset: Any  # as a run sees it
    sources: dict[Part, Source]  # all there are
    closed: dict[Part, str]  # the others, and why
    needed: tuple[Part, ...]  # those of `sources` that a run reads
    preprocess: Preprocess
    data_notes: list[str]  # what the data decided
    class_notes: list[str]
    few_notes: list[str]  # warnings about parts, classes and epochs of few images
    crop_notes: list[str]
    refusals: list[str]  # why a run would not start, as far as is known without reading images


class Verdict(NamedTuple):
    """Return whether a run accepts the images that it finds unreadable."""

    parts: Sequence[Part]  # that it reads
    unreadable: int  # images of theirs; an estimate where not all were decoded
    images: int  # of theirs
    refusal: str  # "" if it would go on


def opened(study: Config) -> Subject:
    """Open the data of a study; a fault that leaves something to look at becomes a refusal."""
    if not isinstance(study, Study):
        raise ConfigError(
            "pretraining reads a corpus of pairs; inspect looks at the data of studies."
        )
    try:
        dataset, chosen = plan.open_data(study)
    except ClipjaxError:
        raise
    except Exception as error:
        where = f"{study.data.name} {study.data.root}".strip()
        raise DataError(f"{where!r} cannot be opened ({sentence(error)}).") from error
    data, notes, refusals, few = study.data, [], [], []
    domains = plan.evaluated(study, dataset)
    wrong = lambda error: [f"A run refuses this: {error}"]
    try:
        matched = match_classes(dataset, data.source_name, data.target, domains, data.classes)
        dataset, notes = matched[0], [*matched[1]]
    except ClipjaxError as error:
        notes, refusals = wrong(error), [str(error)]
    try:
        study, left_out = with_labels(study, dataset)
        notes += left_out
    except ClipjaxError as error:
        refusals.append(str(error))
    if refused := _refused(plan.check_parts, study, dataset):
        refusals += refused
    else:
        few = _too_little(study, dataset, refusals)
    encoder, classes = study.encoder, dataset.classes
    try:  # no weights are read
        check_model(encoder)
        called = all_names(encoder.class_names, dataset)
        names = tuple(called[name] for name in classes)
        tokens = read_prompts(encoder, names, encoder.model)
        notes += confusable(tokens, classes, fill_prompts(names[0], encoder.prompts))
    except CheckpointError as error:
        notes.append(f"Whether prompts tell the classes apart is not known, because {error}")
    except ConfigError as error:
        notes += wrong(error)
        refusals.append(str(error))
    sources, closed = open_parts(dataset)
    needed = tuple(part for part in plan.needed_parts(study, dataset) if part in sources)
    preprocess, cropped = find_preprocess(encoder, data.decoder)
    said = (chosen, notes, few, cropped, refusals)
    return Subject(study, dataset, sources, closed, needed, preprocess, *said)


def _too_little(study: Study, dataset: Any, refusals: list[str]) -> list[str]:
    """Return the run's warnings about few images; methods that it refuses are added."""
    try:
        methods = build_methods(study, tuple(dataset.classes))
    except ConfigError as error:
        refusals.append(str(error))
        methods = {}
    return plan.too_little(study, dataset, methods.values())


def _refused(check: Callable, *arguments) -> list[str]:
    """Return why a check of the run refuses these arguments: at most one sentence."""
    try:
        check(*arguments)
    except Exception as error:  # any kind would end the run
        return [sentence(error)]
    return []


def find_preprocess(encoder: Encoder, decoder: str) -> tuple[Preprocess, list[str]]:
    """Find how a run crops images, without weights; if unknown, CLIP's usual way and a note."""
    found, said = Preprocess(), []
    try:
        if encoder.model:
            found = load_preprocess(find_preprocessor(encoder.model, encoder.revision or None))
        else:
            said.append(f"Cropped to CLIP's usual {found.size} pixels, because no model is named.")
    except CheckpointError as error:
        said.append(f"Cropped to CLIP's usual {found.size} pixels, because {error}")
    found = found.with_size(encoder.image_size or found.size)
    return dataclasses.replace(found, decoder=decoder), said


def judge(needed: Sequence[Part], rows: Rows, reading: Reading, most: float) -> Verdict:
    """Judge the unreadable images of the `needed` parts as a run does (`data.max_unreadable`)."""
    estimate = unreadable_images(rows, reading)
    bad = round(sum(estimate[part] for part in needed))
    images = int(np.isin(rows.part, [rows.parts.index(part) for part in needed]).sum())
    found = []
    for row in sorted(reading.unreadable):
        part = rows.parts[rows.part[row]]
        if part in needed:
            name = reading.names[row] or "/".join(part)
            found.append(Skipped(name, reading.unreadable[row].removeprefix(name).strip()))
    unseen = found[:1] * (bad - len(found))  # one stands for those that the sample foretells
    refusals = _refused(check_unreadable, found + unseen, images - bad, most)
    foretold = "By what a sample of the images foretells, " if unseen else ""
    return Verdict(needed, bad, images, foretold + refusals[0] if refusals else "")
