"""What `experiments.inspect` looks at: the data of a config, opened and checked as a run does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clipjax.errors import ClipjaxError, ConfigError, DataError

if TYPE_CHECKING:  # heavy: imported by what needs them, once the flags are known to be right
    from clipjax.data.census import Part, Rows
    from clipjax.data.preprocess import Preprocess
    from clipjax.data.reading import Reading
    from clipjax.data.sources import Source


class Subject(NamedTuple):
    """What is looked at, opened."""

    config: Any
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


def opened(config) -> Subject:
    """Opens what the config names; only what leaves nothing to look at is raised.

    Raises:
      ConfigError: no study, or a domain that does not exist.
      DataError: nothing that can be opened.
    """
    from clipjax.data.census import open_parts, sentence
    from experiments.fields import check_fields
    from experiments.plan import check_choices, check_parts, needed_parts, open_data

    check_fields(config)
    if config.experiment == "pretrain":
        raise ConfigError("pretraining reads a corpus of pairs; inspect looks at data of studies.")
    refusals = refused(check_choices, config)
    try:
        dataset = open_data(config)
    except ClipjaxError:
        raise
    except Exception as error:
        where = f"{config.data.name} {config.data.root}".strip()
        raise DataError(f"{where!r} cannot be opened ({sentence(error)}).") from error
    dataset, class_notes, unmatched = matched(config, dataset)
    refusals += unmatched + refused(check_parts, config, dataset, {})
    sources, closed = open_parts(dataset)
    needed = tuple(part for part in needed_parts(config, dataset) if part in sources)
    preprocess, crop_notes = find_preprocess(config)
    return Subject(
        config, dataset, sources, closed, needed, preprocess, class_notes, crop_notes, refusals
    )


def refused(check: Callable, *arguments) -> list[str]:
    """Why a check of the run refuses these arguments: at most one sentence."""
    from clipjax.data.census import sentence

    try:
        check(*arguments)
    except Exception as error:  # of whatever kind: it would end the run
        return [sentence(error)]
    return []


def matched(config, dataset) -> tuple[Any, list[str], list[str]]:
    """The dataset with its classes matched by name, as a run sees it; notes; refusals."""
    from clipjax.data.classes import match_classes
    from experiments.plan import evaluated

    data, domains = config.data, evaluated(config, dataset)
    try:
        dataset, notes = match_classes(dataset, data.source, data.target, domains, data.classes)
    except ClipjaxError as error:
        return dataset, [f"A run refuses this: {error}"], [str(error)]
    return dataset, list(notes), []


def find_preprocess(config) -> tuple[Preprocess, list[str]]:
    """How a run crops images, without any weights; CLIP's usual way, and why, if unknown."""
    from clipjax.data.decode import DECODERS
    from clipjax.data.preprocess import Preprocess, load_preprocess
    from clipjax.errors import CheckpointError
    from clipjax.model.hub import find_preprocessor

    said = []
    try:
        preprocess = load_preprocess(find_preprocessor(config.model, config.revision or None))
    except CheckpointError as error:
        preprocess = Preprocess()
        said = [f"Cropped to CLIP's usual {preprocess.size} pixels, because {error}"]
    preprocess = preprocess.with_size(config.image_size or preprocess.size)
    if config.data.decoder in DECODERS:  # otherwise among the refusals
        preprocess = dataclasses.replace(preprocess, decoder=config.data.decoder)
    return preprocess, said


def judge(needed: Sequence[Part], rows: Rows, reading: Reading, most: float) -> Verdict:
    """What a run would say of unreadable images, by its own rule.

    Args:
      needed: the parts that it reads.
      rows: the images of these and other parts.
      reading: what was found.
      most: `data.max_unreadable`.
    """
    import numpy as np

    from clipjax.data.reading import unreadable_images
    from clipjax.data.sources import Skipped
    from experiments.plan import check_unreadable

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
