"""Looks at a study's data, prints what it found, and writes inspect.html and contact sheets."""

import contextlib
import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import Part
from clipjax.data.features import cache
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import ConfigError, DataError
from clipjax.evaluate.report import contact_sheet as contact
from clipjax.evaluate.report import page
from clipjax.evaluate.report.tables import Chapter, Listing, as_text
from clipjax.inspect import report, verdict
from clipjax.inspect.scan import read
from clipjax.inspect.stats import Rows, bare_counts, class_counts, sample_rows
from clipjax.io import check_reachable, default_cache_dir, write_atomically
from clipjax.log import writable
from clipjax.log.bars import progress
from clipjax.runtime.claim import claimed
from clipjax.study.config import Config

WHOLE, SAMPLE = 20_000, 2_000  # decoded without being asked: all of up to, else of each domain
PAGE = "inspect.html"


class Options(NamedTuple):
    """The choices of the command line."""

    decode: str = ""  # "all", "none", a number for each domain, or "" for the default
    duplicates: bool = True
    seed: int = 0


def inspect(study: Config, out: pathlib.Path, options: Options) -> list[str]:
    """Look, print, write; return why a run would not start, nothing if it would.

    ConfigError: no study, a domain that does not exist, an option that makes no sense, or a place
    that cannot be written or is in use. DataError: nothing can be opened.
    """
    decode = options.decode
    if decode not in ("", "all", "none") and not (decode.isdecimal() and int(decode)):
        raise ConfigError(f"--decode={decode} is no choice; give all, none, or a number above 0.")
    check_reachable(out)
    if (out / PAGE).is_dir():
        raise ConfigError(f"{out / PAGE} is a folder; remove it, or choose another --out.")
    with claimed(out):
        return _inspect(study, out, options)


def _inspect(study: Config, out: pathlib.Path, options: Options) -> list[str]:
    began = time.perf_counter()
    subject = verdict.opened(study)
    found, refusals = _survey(subject, options)
    refusals = [*dict.fromkeys(subject.refusals + refusals)]
    folder = study.features.cache_dir or default_cache_dir() / "features"
    kept = report.cache_chapter(cache.list_cache(folder), str(folder), study.features.cache)
    sheets = _sheets(subject, options.seed, out)
    for text in filter(None, map(as_text, [*found, kept, sheets])):
        say(text)
    starts = "A run would start, as far as the data goes."
    said = f"No run would start: {refusals[0]}" if refusals else starts
    data, name = study.data, subject.dataset.name
    html = page.document(
        f"What a run would see: {data.source_name} → {data.target}",
        f"{name}{f' ({data.root})' if data.root else ''}; model {study.encoder.model or 'unnamed'}",
        [said, *refusals[1:]],
        [sheets, *found, kept],  # what one looks at comes first
    )
    write_atomically(out / PAGE, html)
    say(f"\n{said}\nAll of it: {out / PAGE} ({time.perf_counter() - began:.0f} s)")
    return refusals


def say(text: str) -> None:
    """Print; what the terminal cannot show, such as file names of no encoding, as escapes."""
    print(writable(text, sys.stdout.encoding), flush=True)


def _survey(subject: verdict.Subject, options: Options) -> tuple[list[Chapter], list[str]]:
    """Count and read images; return the chapters on that, and refusals."""
    data, dataset, sources = subject.study.data, subject.dataset, subject.sources
    rows, counts = Rows(sources), class_counts(sources, len(dataset.classes))
    bare = bare_counts(sources)
    chosen, how = _decoded_rows(rows, options)
    reading = read(
        rows, subject.preprocess, decode=chosen, hashing=options.duplicates, workers=data.workers
    )
    most = data.max_unreadable
    judged = verdict.judge(subject.needed, rows, reading, most)
    found = [
        report.counts_chapter(dataset, counts, subject.closed, data, subject.data_notes, bare),
        Chapter("few", "Few images", subject.few_notes),
        report.balance_chapter(dataset, counts),
        report.classes_chapter(dataset, counts, subject.class_notes, bare),
        report.images_chapter(rows, reading, [how, *subject.crop_notes], judged, most),
        report.skipped_chapter(dataset.skipped),
    ]
    if options.duplicates:
        found.append(report.duplicates_chapter(rows, reading, dataset.classes))
    return found, [judged.refusal] if judged.refusal else []


def _decoded_rows(rows: Rows, options: Options) -> tuple[np.ndarray, str]:
    """Return which rows to decode, bool [N], and a sentence about them."""
    decode, seed = options.decode, options.seed
    if decode == "none":
        return np.zeros(len(rows), bool), "No image was decoded (--decode=none)."
    if decode == "all" or (not decode and len(rows) <= WHOLE):
        return np.ones(len(rows), bool), "Every image was decoded."
    each = int(decode or SAMPLE)
    drawn = f"Up to {each:,} images of each domain were decoded, drawn with seed {seed}"
    return sample_rows(rows, each, seed), f"{drawn}; --decode=all decodes every one."


def _sheets(subject: verdict.Subject, seed: int, out: pathlib.Path) -> Chapter:
    """Make a contact sheet of each domain, as a PNG file and on the page, the run's own first."""
    dataset, data = subject.dataset, subject.study.data
    ends = (*data.sources, data.target)
    domains = sorted(dataset.domains, key=lambda d: ends.index(d) if d in ends else len(ends))
    classes = contact.choose_classes(len(dataset.classes), seed)
    pictures, files = [], []
    for domain in progress(domains, what="contact sheets", unit="domain"):
        parts = [part for part, s in subject.sources.items() if part[0] == domain and len(s)]
        if not parts:
            continue
        shown = "/".join(parts[0])  # train, or the first split with images
        held = set(np.unique(subject.sources[parts[0]].labels).tolist())
        wanted = classes if held & set(classes) or NO_LABEL not in held else []
        wanted = [*wanted, *([NO_LABEL] if NO_LABEL in held else [])]
        strips = [_strip(subject, parts[0], label, seed) for label in wanted]
        name = domain.replace("/", "_")[-100:]  # a domain may be a place
        file = out / f"contact-{name}.png"
        title = f"{dataset.name}: {shown}, as the model sees it"
        write_atomically(file, contact.sheet_png(title, strips))
        files.append(str(file))
        pictures.append(contact.sheet(shown, strips, folded=domain not in ends))
    note = (
        f"{len(classes)} of {len(dataset.classes)} classes, the same of every domain, and of each "
        f"up to {contact.PER_CLASS} images as the model sees them; drawn with seed {seed}."
    )
    listed = Listing("Files:", files, folded=True)
    return Chapter("sheets", "Contact sheets", [note], [*pictures, listed])


def _strip(subject: verdict.Subject, part: Part, label: int, seed: int) -> contact.Strip:
    """Return images of a class of a part, without those that cannot be read, which are listed."""
    source, images = subject.sources[part], []
    for row in contact.choose_rows(source.labels, label, seed):
        with contextlib.suppress(DataError):
            example = source[row]
            images.append(subject.preprocess.crop(example.image, example.name))
    count = int((source.labels == label).sum())
    name = "no label" if label == NO_LABEL else subject.dataset.classes[label]
    return contact.Strip(name, count, images)
