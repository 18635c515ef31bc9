"""What `experiments.inspect` says: census numbers as chapters of sentences and tables."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.data.dataset import Dataset, Part, Skipped, reasons
from clipjax.data.readers.files import Names
from clipjax.data.splits import SPLITS
from clipjax.evaluate.report.tables import Chapter, Listing, Table
from clipjax.inspect import stats as census
from clipjax.inspect.scan import Reading
from clipjax.inspect.stats import Rows
from clipjax.inspect.verdict import Verdict
from clipjax.study.parts import Data

Counts = Mapping[Part, np.ndarray]  # images of each class, int64 [K]
PAIRS, MOST_PAIRS = 10, 1000  # of equal images, of each kind: on a terminal, on the page


def percent(share: float) -> str:
    """A share in per cent, two digits.

    >>> percent(0.0123), percent(0)
    ('1.2 %', '0 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts.

    >>> counted(1, "file"), counted(2000, "entry", "entries")
    ('1 file', '2,000 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(number: float) -> str:
    """Bytes for people.

    >>> size(999), size(12_300_000)
    ('999 B', '12.3 MB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.{0 if units[0] == 'B' else 1}f} {units[0]}"


def age(seconds: float) -> str:
    """A time span for people.

    >>> age(30), age(7200), age(200_000)
    ('30 s', '2 h', '2 d')
    """
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def counts_chapter(
    dataset: Dataset, counts: Counts, closed: Mapping[Part, str], data: Data
) -> Chapter:
    """Images of each domain and split."""
    marks = {data.source_name: " (source)", data.target: " (target)"}
    lines = []
    for domain in dataset.domains:
        found = [int(counts[domain, s].sum()) if (domain, s) in counts else None for s in SPLITS]
        cells = ["–" if n is None else f"{n:,}" for n in (*found, sum(n or 0 for n in found))]
        present = sum(each for (d, _), each in counts.items() if d == domain)
        lines.append([domain + marks.get(domain, ""), *cells, str(np.count_nonzero(present))])
    total = sum(int(each.sum()) for each in counts.values())
    note = f"{total:,} images, {len(dataset.domains)} domains, {len(dataset.classes)} classes."
    why = [f"{domain}/{split}: {reason}" for (domain, split), reason in closed.items()]
    return Chapter(
        "counts",
        "Images",
        [note],
        [
            Table(["domain", *SPLITS, "all", "classes"], lines),
            Listing("Splits that cannot be opened:", why),
        ],
    )


def balance_chapter(dataset: Dataset, counts: Counts) -> Chapter:
    """How evenly each part is spread over the classes."""
    lines = []
    for (domain, split), each in counts.items():
        if not each.sum():
            continue
        found = census.balance(each)
        ends = [f"{dataset.classes[c]} ({each[c]})" for c in (found.largest, found.smallest)]
        empty = str(int((each == 0).sum()))
        numbers = [f"{found.ratio:.1f}", f"{found.effective:.1f}", empty]
        lines.append([f"{domain}/{split}", *ends, *numbers])
    note = (
        "Ratio: images of the largest class over images of the smallest one that has any. "
        "Effective: how many classes of equal size would be as varied (exp of the entropy)."
    )
    header = ["part", "largest class", "smallest", "ratio", "effective", "classes without images"]
    return Chapter("balance", "Balance of the classes", [note], [Table(header, lines)])


def classes_chapter(dataset: Dataset, counts: Counts, notes: Sequence[str]) -> Chapter:
    """Images of each class in each domain, and the classes that domains lack.

    Args:
      dataset: as a run sees it.
      counts: its images.
      notes: what matching classes by name has to say.
    """
    lacking = [
        f"{domain} lacks {len(missing)}: {', '.join(dataset.classes[c] for c in missing)}"
        for domain, missing in census.missing_classes(counts).items()
        if missing
    ]
    items: list[Table | Listing] = [Listing("Classes without any image in a domain:", lacking)]
    for domain, whole in census.domain_counts(counts).items():
        splits = [s for s in SPLITS if (domain, s) in counts]
        order = np.argsort(-whole, kind="stable")
        lines = [
            [dataset.classes[c], *(f"{counts[domain, s][c]:,}" for s in splits), f"{whole[c]:,}"]
            for c in order
        ]
        title = f"{domain}, images of each class:"
        items.append(Table(["class", *splits, "all"], lines, title, head=3, tail=2))
    same = [] if lacking else ["Every class has images in every domain."]
    return Chapter("classes", "Classes", [*notes, *same], items)


def images_chapter(
    rows: Rows, reading: Reading, said: Sequence[str], verdict: Verdict, most: float
) -> Chapter:
    """Sizes and formats of what was decoded, what could not be, and what a run says to that.

    Args:
      rows: the images.
      reading: what decoding them found.
      said: sentences on how they were read.
      verdict: the run's.
      most: the share of unreadable images that a run accepts.
    """
    unopened, decoded = len(reading.unopened), int(reading.decoded.sum())
    notes = [*said]
    if unopened:
        notes.append(f"{unopened:,} of {reading.tried.sum():,} files cannot be opened.")
    if decoded:
        bad = len(reading.unreadable) - unopened
        share = percent(bad / decoded)
        notes.append(f"{bad:,} of {decoded:,} decoded images cannot be read ({share}).")
    notes += _scaled(reading, decoded - (len(reading.unreadable) - unopened))
    if verdict.parts and (unopened or decoded):
        notes.append(_judged(verdict, most, sampled=decoded + unopened < len(rows)))
    reasons = [reading.unreadable[row] for row in sorted(reading.unreadable)]
    return Chapter(
        "images",
        "What the images are",
        notes,
        [_sizes(rows, reading), Listing("Unreadable:", reasons)],
    )


def _scaled(reading: Reading, readable: int) -> list[str]:
    """What was scaled to 8 bits, by what its values are; nothing where there is no such image."""
    found = reading.scaled.values()
    if not found:
        return []
    kinds = collections.Counter(each.source for each in found).most_common()
    listed = "; ".join(f"{number:,} of {kind}" for kind, number in kinds)
    notes = [
        f"{len(found):,} of {counted(readable, 'readable image')} are grey of more than 8 bits, or "
        f"of floats, and are scaled to 8 bits: {listed}. transformers would cut them at 255."
    ]
    if dark := sum(each.dark for each in found):
        notes.append(
            f"{dark:,} of these stay below a quarter of white. If all do, their values may fill "
            "fewer bits than the file has: write them scaled up, or with 8 bits."
        )
    return notes


def _judged(verdict: Verdict, most: float, sampled: bool) -> str:
    about = f"{'about ' * sampled}{verdict.unreadable:,} of {verdict.images:,} images"
    share = percent(verdict.unreadable / max(1, verdict.images))
    then = " and would refuse to start" if verdict.refusal else ""
    return (
        f"The run reads {_listed(verdict.parts)}: {about} there cannot be read ({share}); it "
        f"accepts {percent(most)} (data.max_unreadable){then}."
    )


def _listed(parts: Sequence[Part]) -> str:
    """Parts by their domains.

    >>> _listed([("real", "test"), ("sketch", "test"), ("real", "train")])
    'real (test, train), sketch (test)'
    """
    splits: dict[str, list[str]] = {}
    for domain, split in parts:
        splits.setdefault(domain, []).append(split)
    return ", ".join(f"{domain} ({', '.join(found)})" for domain, found in splits.items())


def _sizes(rows: Rows, reading: Reading) -> Table:
    domain, lines = rows.key(0), []
    known = reading.sizes.min(axis=1) > 0 if len(rows) else np.zeros(0, bool)
    for number, name in enumerate(dict.fromkeys(part[0] for part in rows.parts)):
        own = known & (domain == number)
        if not own.any():
            continue
        cells = []
        for side in (reading.sizes[own].min(axis=1), reading.sizes[own].max(axis=1)):
            cells.append(f"{side.min()} / {np.median(side):.0f} / {side.max()}")
        kinds, times = np.unique(reading.formats[own], return_counts=True)
        order = np.argsort(-times, kind="stable")
        formats = ", ".join(f"{kinds[i]} {times[i]:,}" for i in order)
        lines.append([name, f"{own.sum():,}", *cells, formats])
    header = ["domain", "decoded", "shorter side, px", "longer side, px", "formats"]
    return Table(header, lines, "Sides: smallest / median / largest." if lines else "")


def skipped_chapter(skipped: Sequence[Skipped]) -> Chapter:
    """The files that were passed over."""
    how = f"{counted(len(skipped), 'file')}: {reasons(skipped)}" if skipped else "none"
    lines = [f"{each.name}: {each.reason}" for each in skipped]
    return Chapter("skipped", "Files passed over", [f"Passed over: {how}."], [Listing("", lines)])


def duplicates_chapter(rows: Rows, reading: Reading, classes: Sequence[str]) -> Chapter:
    """Images of equal content, by what they cross: splits, domains, classes."""
    groups = census.repeated(reading.hashes, reading.hashed)
    if not groups:
        return Chapter(
            "duplicates", "Duplicates", [f"{len(rows):,} images, all of different content."]
        )
    kinds = {
        "in more than one split": rows.key(1),
        "in more than one domain": rows.key(0),
        "in more than one class": rows.labels,
    }
    repeats = f"{counted(len(groups), 'content')} more than once"
    are = "is" if len(groups) == 1 else "are"
    notes = [f"There {are} {repeats}, as {sum(map(len, groups)):,} images together."]
    items: list[Table | Listing] = [_shared(groups, rows)]
    for words, key in kinds.items():
        pairs = census.crossings(groups, key)
        number = sum(len(np.unique(key[group])) > 1 for group in groups)
        items.append(_pairs(f"{number:,} {words}", pairs, rows, reading.names, classes))
    alike = [g for g in groups if all(len(np.unique(key[g])) == 1 for key in kinds.values())]
    pairs = [(group[0], row) for group in alike for row in group[1:]]
    title = f"{len(alike):,} inside one split and class"
    items.append(_pairs(title, pairs, rows, reading.names, classes))
    return Chapter("duplicates", "Duplicates", notes, items)


def _shared(groups: Sequence[np.ndarray], rows: Rows) -> Table:
    lines = [
        ["/".join(one), "itself" if one == two else "/".join(two), f"{number:,}"]
        for (one, two), number in census.shared_contents(groups, rows).items()
    ]
    return Table(["part", "shares with", "contents"], lines)


def _pairs(
    title: str, pairs: Sequence[tuple], rows: Rows, names: Names, classes: Sequence[str]
) -> Listing:
    def told(row: int) -> str:
        return f"{names[row]} ({'/'.join(rows.parts[rows.part[row]])}, {classes[rows.labels[row]]})"

    some = f", the first {MOST_PAIRS:,} pairs" if len(pairs) > MOST_PAIRS else ""
    lines = [f"{told(one)} = {told(two)}" for one, two in pairs[:MOST_PAIRS]]
    return Listing(f"{title}{some}:", lines, head=PAIRS)


def cache_chapter(entries: Sequence, folder: str, used: bool) -> Chapter:
    """The feature cache: how much, how old, how to be rid of it.

    Args:
      entries: `CacheEntry` each.
      folder: where they lie.
      used: whether the config's run reads and writes it.
    """
    notes = [] if used else ["This config does not use it (features.cache=False)."]
    if not entries:
        return Chapter("cache", "Feature cache", [*notes, f"Nothing in {folder}."])
    total = size(sum(entry.bytes for entry in entries))
    held = f"{counted(len(entries), 'entry', 'entries')}, {total}, in {folder}"
    notes.append(f"{held}. Any may be deleted (rm -r): a run that needs it encodes again.")
    lines = [
        [
            f"{entry.domain}/{entry.split}",
            f"{entry.rows:,}",
            size(entry.bytes),
            age(entry.age_s),
            "yes" if entry.complete else "no",
            str(entry.path.name),
        ]
        for entry in sorted(entries, key=lambda entry: entry.age_s)
    ]
    header = ["part", "images", "size", "age", "complete", "entry"]
    return Chapter("cache", "Feature cache", notes, [Table(header, lines, head=20)])
