"""Looks at images with masks, prints what it found, and writes inspect.html with overlays."""

import contextlib
import pathlib
import time
from collections.abc import Mapping

import numpy as np

from clipjax.data.dataset import reasons
from clipjax.data.mask_survey import KINDS, UNREADABLE, Survey, check_surveys, survey
from clipjax.data.masks import MaskDataset, MixedMasks
from clipjax.data.splits import SPLITS
from clipjax.errors import ClipjaxError, ConfigError, DataError
from clipjax.evaluate.report import page
from clipjax.evaluate.report.segments import legend, overlays, strip
from clipjax.evaluate.report.tables import Chapter, Listing, Picture, Plates, Table, as_text
from clipjax.inspect.report import percent
from clipjax.inspect.survey import PAGE, Options, say
from clipjax.io import check_reachable, write_atomically
from clipjax.io.texts import counted
from clipjax.runtime.claim import claimed
from clipjax.study.mask_teacher_config import masks_reader
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.segmentation_data import encoded_sizes, open_dataset_of, parts_of

Part = tuple[str, str]  # domain and split
SHOWN = 4  # images of each domain
LISTED = 1000  # faults on the page


def inspect_masks(config: Segmentation, out: pathlib.Path, options: Options) -> list[str]:
    """Look, print, write; return why a run would not start, nothing if it would.

    Every image and mask is read. ConfigError: a place that cannot be written or is in use, or
    options other than the seed. DataError: nothing can be opened.
    """
    if options.decode not in ("", "all") or not options.duplicates:
        raise ConfigError("--decode and --duplicates are not of masks, all of which are read.")
    check_reachable(out)
    with claimed(out):
        began = time.perf_counter()
        dataset = open_dataset_of(config.data)
        found = {
            (domain, split): MixedMasks([dataset.source(domain, split)])
            for domain in dataset.domains
            for split in dataset.splits_of(domain)
        }
        seen = {part: survey(source, workers=config.data.workers) for part, source in found.items()}
        refusals = _refusals(config, dataset, found, seen)
        chapters = [
            _counts(config, dataset, seen),
            _classes(dataset, seen),
            _sizes(seen),
            _faults(dataset, seen, config.data.max_unreadable),
        ]
        for text in filter(None, map(as_text, chapters)):
            say(text)
        starts = "A run would start, as far as the data goes."
        said = f"No run would start: {refusals[0]}" if refusals else starts
        title = f"What a run would see: {' and '.join(dataset.domains)}"
        where = f"{dataset.name}{f' ({config.data.root})' if config.data.root else ''}"
        sheets = _overlays(dataset, found, seen, options.seed)
        html = page.document(title, where, [said, *refusals[1:]], [sheets, *chapters])
        write_atomically(out / PAGE, html)
        say(f"\n{said}\nAll of it: {out / PAGE} ({time.perf_counter() - began:.0f} s)")
    return refusals


def _refusals(
    config: Segmentation,
    dataset: MaskDataset,
    found: Mapping[Part, MixedMasks],
    seen: Mapping[Part, Survey],
) -> list[str]:
    """Return why a run would not start."""
    try:
        reads, count, resize = masks_reader(config), len(config.data.sources), config.data.resize
        needed = parts_of(config.data, dataset, reads)
        pairs = [(found[part], seen[part]) for part in needed]
        if not reads:  # what is trained on, is without masks
            alone = [MixedMasks([dataset.source(*part).alone()]) for part in needed[:count]]
            pairs[:count] = [(x, survey(x, workers=config.data.workers)) for x in alone]
        check_surveys(pairs, config.data.max_unreadable)
        sizes = [{resize} if resize else set(each.sizes) for _, each in pairs]
        encoded_sizes(config.data, [set.union(*sizes[:count]), *sizes[count:]])
    except ClipjaxError as error:
        return [str(error)]
    return []


def _counts(config: Segmentation, dataset: MaskDataset, seen: Mapping[Part, Survey]) -> Chapter:
    lines = []
    for domain in dataset.domains:
        parts = {split: seen[domain, split] for split in SPLITS if (domain, split) in seen}
        cells = [f"{parts[split].images:,}" if split in parts else "–" for split in SPLITS]
        bare = sum(each.without for each in parts.values())
        faulty = sum(len(each.faults) for each in parts.values())
        mark = " (source)" * (domain in config.data.sources)
        lines.append([domain + mark, *cells, f"{bare:,}", f"{faulty:,}"])
    total = sum(each.images for each in seen.values() if each.masked)
    domains, classes = counted(len(dataset.domains), "domain"), len(dataset.classes)
    notes = [
        f"{counted(total, 'image')} with masks, {domains}, {counted(classes, 'class', 'classes')}."
    ]
    if bare := _bare(seen):
        told = "no masks: they are answered, not measured, and trained on with labels=teacher alone"
        notes.append(f"Images of {', '.join(bare)} have {told}.")
    header = ["domain", *SPLITS, "without a mask", "faulty"]
    return Chapter("counts", "Images", notes, [Table(header, lines)])


def _bare(seen: Mapping[Part, Survey]) -> list[str]:
    """Return the domains without any mask, and the splits without one of other domains."""
    names = []
    for domain in dict.fromkeys(domain for domain, _ in seen):
        masked = {split: each.masked for (of, split), each in seen.items() if of == domain}
        bare = [f"{domain}/{split}" for split, has in masked.items() if not has]
        names += bare if any(masked.values()) else [domain]
    return names


def _classes(dataset: MaskDataset, seen: Mapping[Part, Survey]) -> Chapter:
    """Show the share of each class among the labelled pixels, and what is ignored."""
    pixels = {
        domain: sum(each.pixels for (d, _), each in seen.items() if d == domain)
        for domain in dataset.domains
    }
    share = lambda count, of: percent(count / of) if of else "–"
    lines = [
        [name, *(share(found[k], found[:-1].sum()) for found in pixels.values())]
        for k, name in enumerate(dataset.classes)
    ]
    lines.append(["(ignored)", *(share(found[-1], found.sum()) for found in pixels.values())])
    notes = ["Shares of the labelled pixels, of all splits; ignored ones of all pixels."]
    for domain, found in pixels.items():
        if not found.sum():
            continue  # it has no masks
        if lost := [name for name, n in zip(dataset.classes, found, strict=False) if not n]:
            listed = ", ".join(lost[:10]) + ", ..." * (len(lost) > 10)
            notes.append(f"{domain} has no pixel of {listed}.")
    return Chapter("classes", "Classes", notes, [Table(["class", *dataset.domains], lines)])


def _sizes(seen: Mapping[Part, Survey]) -> Chapter:
    """Show how high and wide images are."""
    lines = []
    for (domain, split), each in seen.items():
        if each.sizes:
            most = max(each.sizes, key=lambda size: each.sizes[size])
            sides = [[size[k] for size in each.sizes] for k in (0, 1)]
            range_ = [f"{min(side)}" + f"–{max(side)}" * (min(side) < max(side)) for side in sides]
            usual = f"{most[0]} x {most[1]} ({each.sizes[most]:,})"
            lines.append([f"{domain}/{split}", *range_, str(len(each.sizes)), usual])
    header = ["part", "height", "width", "sizes", "most frequent"]
    return Chapter("sizes", "Sizes, in pixels", items=[Table(header, lines)])


def _faults(dataset: MaskDataset, seen: Mapping[Part, Survey], most: float) -> Chapter:
    """List what does not fit, and what is left out."""
    items = []
    for kind, told in KINDS.items():
        lines = [f.told for each in seen.values() for f in each.faults if f.kind == kind]
        if lines:
            what = f"{counted(len(lines), 'image')}: {told}"
            ends = "" if kind == UNREADABLE else ", which no run accepts"
            items.append(Listing(f"{what}{ends}", lines[:LISTED]))
    bare = [name for each in seen.values() for name in each.missing]
    if bare:
        items.append(Listing(f"{counted(len(bare), 'image')} without a mask", bare[:LISTED]))
    lines = [f"{entry.name}: {entry.reason}" for entry in dataset.skipped]
    if lines:
        items.append(Listing(f"Passed over: {reasons(dataset.skipped)}", lines[:LISTED]))
    notes = [f"Every image {'of the others ' * bool(_bare(seen))}has a mask that fits."]
    if items:
        notes = [f"Images without a mask, or unreadable, may be up to {percent(most)} of a run's."]
    return Chapter("faults", "What does not fit", notes, items)


def _overlays(
    dataset: MaskDataset,
    found: Mapping[Part, MixedMasks],
    seen: Mapping[Part, Survey],
    seed: int,
) -> Chapter:
    """Show some images of each domain with their masks laid over them."""
    pictures = []
    for domain in dataset.domains:
        parts = [part for part in found if part[0] == domain and seen[part].usable.any()]
        if not parts:
            continue
        parts.sort(key=lambda part: not seen[part].masked)
        masked = seen[parts[0]].masked
        rows = np.flatnonzero(seen[parts[0]].usable)
        rows, pairs = np.random.default_rng(seed).permutation(rows)[:SHOWN], []
        for row in rows.tolist():
            with contextlib.suppress(DataError):  # it was readable a moment ago
                pairs.append(found[parts[0]][row][:2])
        told = f"{'/'.join(parts[0])}: images" + ", and their masks over them" * masked
        drawn = overlays(pairs) if masked else strip([image for image, _ in pairs])
        pictures.append(Picture(drawn, told, told))
    note = f"Up to {SHOWN} images of each domain, drawn with seed {seed}; grey is ignored."
    return Chapter("sheets", "Masks", [note], [Plates(pictures, legend(dataset.classes))])
