"""What `experiments.inspect` looks at: the data of a config, opened and checked as a run does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clipjax.errors import ClipjaxError, ConfigError, DataError

if TYPE_CHECKING:  # heavy: imported by what needs them, once the flags are known to be right
    from clipjax.data.dataset import Part, Source
    from clipjax.data.images.preprocess import Preprocess
    from clipjax.inspect.scan import Reading
    from clipjax.inspect.stats import Rows
    from clipjax.study.config import Pretraining, Study
    from clipjax.study.parts import Encoder


class Subject(NamedTuple):
    """What is looked at, opened."""

    study: Study
    dataset: Any  # as a run sees it
    sources: dict[Part, Source]  # all there are
    closed: dict[Part, str]  # the others, and why
    needed: tuple[Part, ...]  # those of `sources` that a run reads
    preprocess: Preprocess
    class_notes: list[str]
    crop_notes: list[str]
    refusals: list[str]  # why a run would not start, as far as is known without reading images


class Verdict(NamedTuple):
    """What a run would say of the images that it finds unreadable."""

    parts: Sequence[Part]  # that it reads
    unreadable: int  # images of theirs; an estimate where not all were decoded
    images: int  # of theirs
    refusal: str  # "" if it would go on


def opened(study: Study | Pretraining) -> Subject:
    """Opens what the study names; only what leaves nothing to look at is raised.

    Raises:
      ConfigError: no study, or a domain that does not exist.
      DataError: nothing that can be opened.
    """
    from clipjax.data.dataset import open_parts
    from clipjax.errors import sentence
    from clipjax.study.config import Study
    from clipjax.study.plan import check_parts, needed_parts, open_data

    if not isinstance(study, Study):
        raise ConfigError("pretraining reads a corpus of pairs; inspect looks at data of studies.")
    try:
        dataset = open_data(study)
    except ClipjaxError:
        raise
    except Exception as error:
        where = f"{study.data.name} {study.data.root}".strip()
        raise DataError(f"{where!r} cannot be opened ({sentence(error)}).") from error
    dataset, class_notes, refusals = matched(study, dataset)
    refusals += refused(check_parts, study, dataset)
    prompt_notes, unnamed = prompted(study.encoder, dataset)
    class_notes, refusals = class_notes + prompt_notes, refusals + unnamed
    sources, closed = open_parts(dataset)
    needed = tuple(part for part in needed_parts(study, dataset) if part in sources)
    preprocess, crop_notes = find_preprocess(study.encoder, study.data.decoder)
    return Subject(
        study, dataset, sources, closed, needed, preprocess, class_notes, crop_notes, refusals
    )


def refused(check: Callable, *arguments) -> list[str]:
    """Why a check of the run refuses these arguments: at most one sentence."""
    from clipjax.errors import sentence

    try:
        check(*arguments)
    except Exception as error:  # of whatever kind: it would end the run
        return [sentence(error)]
    return []


def matched(study: Study, dataset) -> tuple[Any, list[str], list[str]]:
    """The dataset with its classes matched by name, as a run sees it; notes; refusals."""
    from clipjax.data.classes import match_classes
    from clipjax.study.plan import evaluated

    data, domains = study.data, evaluated(study, dataset)
    try:
        dataset, notes = match_classes(
            dataset, data.source_name, data.target, domains, data.classes
        )
    except ClipjaxError as error:
        return dataset, [f"A run refuses this: {error}"], [str(error)]
    return dataset, list(notes), []


def prompted(encoder: Encoder, dataset) -> tuple[list[str], list[str]]:
    """Notes on classes that prompts cannot tell apart, and refusals; no weights are read."""
    from clipjax.errors import CheckpointError
    from clipjax.study.plan import prompt_names, read_prompts

    try:
        names = prompt_names(encoder.class_names, dataset.classes)
        return read_prompts(encoder, dataset.classes, names, encoder.model)[1], []
    except CheckpointError as error:
        return [f"Whether prompts tell the classes apart is not known, because {error}"], []
    except ConfigError as error:
        return [f"A run refuses this: {error}"], [str(error)]


def find_preprocess(encoder: Encoder, decoder: str) -> tuple[Preprocess, list[str]]:
    """How a run crops images, without any weights; CLIP's usual way, and why, if unknown."""
    from clipjax.data.images.preprocess import Preprocess, load_preprocess
    from clipjax.errors import CheckpointError
    from clipjax.model.hf.hub import find_preprocessor

    said = []
    try:
        preprocess = load_preprocess(find_preprocessor(encoder.model, encoder.revision or None))
    except CheckpointError as error:
        preprocess = Preprocess()
        said = [f"Cropped to CLIP's usual {preprocess.size} pixels, because {error}"]
    preprocess = preprocess.with_size(encoder.image_size or preprocess.size)
    return dataclasses.replace(preprocess, decoder=decoder), said


def judge(needed: Sequence[Part], rows: Rows, reading: Reading, most: float) -> Verdict:
    """What a run would say of unreadable images, by its own rule.

    Args:
      needed: the parts that it reads.
      rows: the images of these and other parts.
      reading: what was found.
      most: `data.max_unreadable`.
    """
    import numpy as np

    from clipjax.data.dataset import Skipped
    from clipjax.inspect.scan import unreadable_images
    from clipjax.study.plan import check_unreadable

    estimate = unreadable_images(rows, reading)
    bad = round(sum(estimate[part] for part in needed))
    images = int(np.isin(rows.part, [rows.parts.index(part) for part in needed]).sum())
    found = []
    for row in sorted(reading.unreadable):
        part = rows.parts[rows.part[row]]
        if part in needed:
            name = reading.names[row] or "/".join(part)
            reason = reading.unreadable[row].removeprefix(name).strip()
            found.append(Skipped(name, reason))
    unseen = found[:1] * (bad - len(found))  # one stands for those that the sample foretells
    refusals = refused(check_unreadable, found + unseen, images - bad, most)
    foretold = "By what a sample of the images foretells, " if unseen else ""
    return Verdict(needed, bad, images, foretold + refusals[0] if refusals else "")
