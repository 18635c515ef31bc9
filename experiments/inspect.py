"""What a run would see, before it runs: `python -m experiments.inspect --config=configs/dann.py`.

Counts images, classes, duplicates and unreadable files, and shows some images. Prints it in
short; --out gets inspect.html with all of it, and a contact sheet (PNG) of each domain. Nothing is
trained. Exit code 0 if a run would start, 1 with the reason if not.
"""

from __future__ import annotations

import pathlib
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from absl import app, flags

from clipjax.runtime.cli import user_errors
from experiments.configfile import as_mapping, define_config, refuse_bad_config

if TYPE_CHECKING:  # heavy: imported by what needs them, once the flags are known to be right
    import numpy as np

    from clipjax.data.dataset import Part
    from clipjax.evaluate.report.contact_sheet import Strip
    from clipjax.evaluate.report.tables import Chapter
    from clipjax.inspect.stats import Rows
    from clipjax.inspect.verdict import Subject
    from clipjax.study import Features, Pretraining, Study

WHOLE, SAMPLE = 20_000, 2_000  # decoded without being asked: all of up to, else of each domain
PAGE = "inspect.html"


class Options(NamedTuple):
    """What to look at."""

    decode: str = ""  # "all", "none", a number for each domain, or "" for the default
    duplicates: bool = True
    seed: int = 0


def define_flags() -> None:
    """The command line; not on import, so that modules with flags of one name can meet."""
    define_config(
        "configs/dann.py", "Experiment whose data to look at, as experiments.main has it."
    )
    flags.DEFINE_string("out", "", "Where files go; default runs/inspect-<hash of the config>.")
    flags.DEFINE_string(
        "decode",
        "",
        "Which images to decode: all, none, or how many of each domain, drawn at random. Default: "
        f"all of up to {WHOLE}, else {SAMPLE} of each domain.",
    )
    flags.DEFINE_bool("duplicates", True, "Read every file to find images of equal content.")
    flags.DEFINE_integer("seed", 0, "Of what is drawn at random.")


def main(argv: list[str]) -> None:
    """Looks at what the flags name."""
    from clipjax.errors import DataError
    from clipjax.io import local_only
    from clipjax.study import parse

    if len(argv) > 1:
        raise app.UsageError(f"unexpected words {argv[1:]}; options start with --.")
    with user_errors():
        given = flags.FLAGS
        options = Options(given.decode, given.duplicates, given.seed)
        config = parse(as_mapping(given.config))
        out = local_only(given.out, "what inspect writes") if given.out else None
        out = out or default_out(config)
        if refusals := inspect(config, out, options):
            raise DataError(refusals[0])


def default_out(config: Study | Pretraining) -> pathlib.Path:
    """runs/inspect-<hash of the config>, the hash that the run's own folder has."""
    from clipjax.study.workdir import name_of

    return pathlib.Path("runs") / f"inspect-{name_of(config)}"


def inspect(study: Study | Pretraining, out: pathlib.Path, options: Options) -> list[str]:
    """Looks, prints, writes; returns why a run would not start, nothing if it would.

    Raises:
      ConfigError: no study, a domain that does not exist, an option that makes no sense, or a place
        that cannot be written, or is being written by another inspection.
      DataError: nothing to be opened.
    """
    from clipjax.errors import ConfigError
    from clipjax.io import check_reachable
    from clipjax.runtime.claim import claimed

    check_decode(options.decode)
    check_reachable(out)
    if (out / PAGE).is_dir():
        raise ConfigError(f"{out / PAGE} is a folder; remove it, or choose another --out.")
    with claimed(out):
        return _inspect(study, out, options)


def _inspect(study: Study | Pretraining, out: pathlib.Path, options: Options) -> list[str]:
    from clipjax.evaluate.report import tables as chapters
    from clipjax.inspect.verdict import opened

    began = time.perf_counter()
    subject = opened(study)
    found, refusals = survey(subject, options)
    refusals = [*dict.fromkeys(subject.refusals + refusals)]
    found += [cache(study.features), sheets(subject, options.seed, out)]
    for text in filter(None, map(chapters.as_text, found)):
        say(text)
    verdict = (
        "A run would start, as far as the data goes."
        if not refusals
        else f"No run would start: {refusals[0]}"
    )
    write_page(subject, found, [verdict, *refusals[1:]], out)
    took = time.perf_counter() - began
    say(f"\n{verdict}\nAll of it: {out / 'inspect.html'} ({took:.0f} s)")
    return refusals


def say(text: str) -> None:
    """Prints; what the terminal cannot show, such as file names of no encoding, as escapes."""
    from clipjax.log import writable

    print(writable(text, sys.stdout.encoding), flush=True)


def check_decode(decode: str) -> None:
    """Raises ConfigError where --decode is no choice."""
    from clipjax.errors import ConfigError

    if decode not in ("", "all", "none") and not (decode.isdecimal() and int(decode)):
        raise ConfigError(f"--decode={decode} is no choice; give all, none, or a number above 0.")


def survey(subject: Subject, options: Options) -> tuple[list[Chapter], list[str]]:
    """Counts and reads; the chapters on that, and refusals."""
    from clipjax.inspect import report as findings
    from clipjax.inspect import stats as census
    from clipjax.inspect.scan import read
    from clipjax.inspect.verdict import judge

    data, dataset, sources = subject.study.data, subject.dataset, subject.sources
    rows, counts = census.Rows(sources), census.class_counts(sources, len(dataset.classes))
    chosen, how = decoded_rows(rows, options)
    reading = read(
        rows,
        subject.preprocess,
        decode=chosen,
        hashing=options.duplicates,
        workers=data.workers,
    )
    most = data.max_unreadable
    verdict = judge(subject.needed, rows, reading, most)
    found = [
        findings.counts_chapter(dataset, counts, subject.closed, data),
        findings.balance_chapter(dataset, counts),
        findings.classes_chapter(dataset, counts, subject.class_notes),
        findings.images_chapter(rows, reading, [how, *subject.crop_notes], verdict, most),
        findings.skipped_chapter(dataset.skipped),
    ]
    if options.duplicates:
        found.append(findings.duplicates_chapter(rows, reading, dataset.classes))
    return found, [verdict.refusal] if verdict.refusal else []


def decoded_rows(rows: Rows, options: Options) -> tuple[np.ndarray, str]:
    """Which rows to decode, bool [N], and a sentence about them."""
    import numpy as np

    from clipjax.inspect.stats import sample_rows

    decode, seed = options.decode, options.seed
    if decode == "none":
        return np.zeros(len(rows), bool), "No image was decoded (--decode=none)."
    if decode == "all" or (not decode and len(rows) <= WHOLE):
        return np.ones(len(rows), bool), "Every image was decoded."
    each = int(decode or SAMPLE)
    drawn = f"Up to {each:,} images of each domain were decoded, drawn with seed {seed}"
    return sample_rows(rows, each, seed), f"{drawn}; --decode=all decodes every one."


def cache(settings: Features) -> Chapter:
    """What the feature cache holds."""
    from clipjax.data.features import cache as features
    from clipjax.inspect.report import cache_chapter
    from clipjax.io import default_cache_dir

    folder = settings.cache_dir or default_cache_dir() / "features"
    return cache_chapter(features.list_cache(folder), str(folder), settings.cache)


def sheets(subject: Subject, seed: int, out: pathlib.Path) -> Chapter:
    """A contact sheet of each domain, as a PNG file and on the page."""
    from clipjax.evaluate.report import contact_sheet as contact
    from clipjax.evaluate.report.tables import Chapter, Listing
    from clipjax.io import write_atomically
    from clipjax.log import progress

    dataset = subject.dataset
    classes = contact.choose_classes(len(dataset.classes), seed)
    pictures, files = [], []
    for domain in progress(dataset.domains, what="contact sheets", unit="domain"):
        parts = [part for part, s in subject.sources.items() if part[0] == domain and len(s)]
        if not parts:
            continue
        shown = "/".join(parts[0])  # train, or the first split with images
        strips = domain_strips(subject, parts[0], classes, seed)
        file = out / ("contact-" + domain.replace("/", "_") + ".png")
        title = f"{dataset.name}: {shown}, as the model sees it"
        write_atomically(file, contact.sheet_png(title, strips))
        files.append(str(file))
        pictures.append(contact.sheet(shown, strips))
    note = (
        f"{len(classes)} of {len(dataset.classes)} classes, the same of every domain, and of each "
        f"up to {contact.PER_CLASS} images as the model sees them; drawn with seed {seed}."
    )
    items = [Listing("Files:", files), *pictures]
    return Chapter("sheets", "Contact sheets", [note], items)


def domain_strips(subject: Subject, part: Part, classes: list[int], seed: int) -> list[Strip]:
    """Images of some classes of a part; those that cannot be read are left out."""
    from clipjax.errors import DataError
    from clipjax.evaluate.report.contact_sheet import Strip, choose_rows

    source, strips = subject.sources[part], []
    for label in classes:
        images = []
        for row in choose_rows(source.labels, label, seed):
            try:
                example = source[row]
                images.append(subject.preprocess.crop(example.image, example.name))
            except DataError:
                continue  # among the unreadable ones, which are listed
        count = int((source.labels == label).sum())
        strips.append(Strip(subject.dataset.classes[label], count, images))
    return strips


def write_page(
    subject: Subject, found: list[Chapter], verdict: list[str], out: pathlib.Path
) -> None:
    """Writes inspect.html."""
    from clipjax.evaluate.report import page
    from clipjax.io import write_atomically

    data, name = subject.study.data, subject.dataset.name
    html = page.document(
        f"What a run would see: {data.source_name} → {data.target}",
        f"{name}{f' ({data.root})' if data.root else ''}; model {subject.study.encoder.model}",
        verdict,
        found,
    )
    write_atomically(out / PAGE, html)


if __name__ == "__main__":
    refuse_bad_config()
    define_flags()
    app.run(main)
