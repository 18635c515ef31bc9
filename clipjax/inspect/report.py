"""The chapters of `clipjax inspect`: what was counted and read, as sentences and tables."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.data.dataset import Dataset, Part, Skipped, reasons
from clipjax.data.splits import SPLITS
from clipjax.data.unlabelled import NO_LABEL, labelled
from clipjax.evaluate.report.tables import Chapter, Listing, Table
from clipjax.inspect import stats as census
from clipjax.inspect.scan import Reading
from clipjax.inspect.stats import Rows
from clipjax.inspect.verdict import Verdict
from clipjax.io.texts import counted
from clipjax.study.parts import Data

Counts = Mapping[Part, np.ndarray]  # images of each class, int64 [K]
PAIRS, MOST_PAIRS = 10, 1000  # of equal images, of each kind: on a terminal, on the page


def percent(share: float) -> str:
    """Write a share in per cent, two digits.

    >>> percent(0.0123), percent(0)
    ('1.2 %', '0 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def size(number: float) -> str:
    """Write a number of bytes with its unit.

    >>> size(999), size(12_300_000)
    ('999 B', '12.3 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.{0 if unit == 'B' else 1}f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def age(seconds: float) -> str:
    """Write a time span in the largest unit of which it has two.

    >>> age(30), age(7200), age(200_000)
    ('30 s', '2 h', '2 d')
    """
    units = {"d": 86_400, "h": 3600, "min": 60, "s": 1}
    unit = next((unit for unit, length in units.items() if seconds >= 2 * length), "s")
    return f"{seconds / units[unit]:.0f} {unit}"


def counts_chapter(
    dataset: Dataset,
    counts: Counts,
    closed: Mapping[Part, str],
    data: Data,
    said: Sequence[str],
    bare: Mapping[Part, int],
) -> Chapter:
    """Count the images of each domain and split; `closed` says why some splits cannot be opened.

    `said` are notes on what the data decided, `bare` the numbers of images without a label, which
    `counts` leaves out.
    """
    marks = {data.source_name: " (source)", data.target: " (target)"}
    whole, lines = census.domain_counts(counts), []
    for domain in dataset.domains:
        parts = [(domain, s) for s in SPLITS]
        found = [int(counts[p].sum()) + bare.get(p, 0) if p in counts else None for p in parts]
        cells = ["–" if n is None else f"{n:,}" for n in (*found, sum(n or 0 for n in found))]
        classes = np.count_nonzero(whole.get(domain, 0))
        without = f"{sum(bare.get(part, 0) for part in parts):,}"
        lines.append([domain + marks.get(domain, ""), *cells, str(classes), without])
    total = sum(int(each.sum()) for each in counts.values()) + sum(bare.values())
    notes = [f"{total:,} images, {len(dataset.domains)} domains, {len(dataset.classes)} classes."]
    if silent := [d for d in dataset.domains if _bare(bare, d) and not whole[d].any()]:
        told = "no labels: what needs them, like test accuracy, is not measured."
        notes.append(f"{', '.join(silent)}: {told}")
    why = [f"{domain}/{split}: {reason}" for (domain, split), reason in closed.items()]
    columns = ["domain", *SPLITS, "all", "classes", "no label"]
    columns = columns[: None if bare else -1]
    table = Table(columns, [line[: len(columns)] for line in lines])
    shut = Listing("Splits that cannot be opened:", why)
    return Chapter("counts", "Images", [*notes, *said], [table, shut])


def _bare(bare: Mapping[Part, int], domain: str) -> bool:
    """Return whether a domain has images without a label."""
    return any(d == domain for d, _ in bare)


def balance_chapter(dataset: Dataset, counts: Counts) -> Chapter:
    """Show the balance of the classes in each part."""
    lines = []
    for part, each in counts.items():
        if each.any():
            found = census.balance(each)
            ends = [f"{dataset.classes[c]} ({each[c]})" for c in (found.largest, found.smallest)]
            numbers = [f"{found.ratio:.1f}", f"{found.effective:.1f}", f"{(each == 0).sum()}"]
            lines.append(["/".join(part), *ends, *numbers])
    note = (
        "Ratio: images of the largest class over images of the smallest one that has any. "
        "Effective: how many classes of equal size would be as varied (exp of the entropy)."
    )
    header = ["part", "largest class", "smallest", "ratio", "effective", "classes without images"]
    return Chapter("balance", "Balance of the classes", [note], [Table(header, lines)])


def classes_chapter(
    dataset: Dataset, counts: Counts, notes: Sequence[str], bare: Mapping[Part, int]
) -> Chapter:
    """Count the images of each class in each domain; `notes` are of matching classes by name.

    Of domains with images without a label, `bare`, it is not known which classes they lack.
    """
    names = dataset.classes
    counts = {part: each for part, each in counts.items() if each.any() or part not in bare}
    lacking = [
        f"{domain} lacks {len(missing)}: {', '.join(names[c] for c in missing)}"
        for domain, missing in census.missing_classes(counts).items()
        if missing and not _bare(bare, domain)
    ]
    items = [Listing("Classes without any image in a domain:", lacking)]
    for domain, whole in census.domain_counts(counts).items():
        splits = [s for s in SPLITS if (domain, s) in counts]
        columns = [*(counts[domain, s] for s in splits), whole]
        order = np.argsort(-whole, kind="stable")
        lines = [[names[c], *(f"{column[c]:,}" for column in columns)] for c in order]
        title = f"{domain}, images of each class:"
        items.append(Table(["class", *splits, "all"], lines, title, head=3, tail=2))
    labels = " with labels" * bool(bare)
    same = [] if lacking else [f"Every class has images in every domain{labels}."]
    return Chapter("classes", "Classes", [*notes, *same], items)


def images_chapter(
    rows: Rows, reading: Reading, said: Sequence[str], verdict: Verdict, most: float
) -> Chapter:
    """Show how images were read (`said`), sizes and formats, the verdict on unreadable ones."""
    unopened, decoded = len(reading.unopened), int(reading.decoded.sum())
    bad, notes = len(reading.unreadable) - unopened, [*said]
    if unopened:
        notes.append(f"{unopened:,} of {reading.tried.sum():,} files cannot be opened.")
    if decoded:
        share = percent(bad / decoded)
        notes.append(f"{bad:,} of {decoded:,} decoded images cannot be read ({share}).")
    notes += _scaled(reading, decoded - bad)
    if verdict.parts and (unopened or decoded):
        notes.append(_judged(verdict, most, sampled=decoded + unopened < len(rows)))
    why = [reading.unreadable[row] for row in sorted(reading.unreadable)]
    items = [_sizes(rows, reading), Listing("Unreadable:", why)]
    return Chapter("images", "What the images are", notes, items)


def _scaled(reading: Reading, readable: int) -> list[str]:
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
    splits: dict[str, list[str]] = {}
    for domain, split in verdict.parts:
        splits.setdefault(domain, []).append(split)
    parts = ", ".join(f"{domain} ({', '.join(found)})" for domain, found in splits.items())
    about = f"{'about ' * sampled}{verdict.unreadable:,} of {verdict.images:,} images"
    share = percent(verdict.unreadable / max(1, verdict.images))
    then = " and would refuse to start" if verdict.refusal else ""
    read = f"The run reads {parts}: {about} there cannot be read ({share})"
    return f"{read}; it accepts {percent(most)} (data.max_unreadable){then}."


def _sizes(rows: Rows, reading: Reading) -> Table:
    domain, lines = rows.key(0), []
    known = reading.sizes.min(axis=1) > 0
    for number, name in enumerate(dict.fromkeys(part[0] for part in rows.parts)):
        own = known & (domain == number)
        if not own.any():
            continue
        sides = np.sort(reading.sizes[own], axis=1).T  # shorter, longer
        cells = [f"{side.min()} / {np.median(side):.0f} / {side.max()}" for side in sides]
        kinds = collections.Counter(sorted(reading.formats[own].tolist())).most_common()
        formats = ", ".join(f"{kind} {times:,}" for kind, times in kinds)
        lines.append([name, f"{own.sum():,}", *cells, formats])
    header = ["domain", "decoded", "shorter side, px", "longer side, px", "formats"]
    return Table(header, lines, "Sides: smallest / median / largest." if lines else "")


def skipped_chapter(skipped: Sequence[Skipped]) -> Chapter:
    """List the files that were passed over."""
    how = f"{counted(len(skipped), 'file')}: {reasons(skipped)}" if skipped else "none"
    lines = [f"{each.name}: {each.reason}" for each in skipped]
    return Chapter("skipped", "Files passed over", [f"Passed over: {how}."], [Listing("", lines)])


def duplicates_chapter(rows: Rows, reading: Reading, classes: Sequence[str]) -> Chapter:
    """List the images of equal content, first those in several splits, domains or classes."""
    groups = census.repeated(reading.hashes, reading.hashed)
    if not groups:
        different = f"{len(rows):,} images, all of different content."
        return Chapter("duplicates", "Duplicates", [different])
    kinds = {"split": rows.key(1), "domain": rows.key(0), "class": rows.labels}
    found, alike = [], groups
    for kind, key in kinds.items():
        known = labelled(key)  # an image without a label may be of any class
        crosses = lambda group, key=key, known=known: len(np.unique(key[group][known[group]])) > 1
        title = f"{sum(map(crosses, groups)):,} in more than one {kind}"
        named = [group[known[group]] for group in groups if known[group].any()]
        found.append((title, census.crossings(named, key)))
        alike = [group for group in alike if not crosses(group)]
    pairs = [(group[0], row) for group in alike for row in group[1:]]
    found.append((f"{len(alike):,} inside one split and class", pairs))
    of_class = lambda label: "no label" if label == NO_LABEL else classes[label]
    place = lambda row: f"{'/'.join(rows.parts[rows.part[row]])}, {of_class(rows.labels[row])}"
    told = lambda row: f"{reading.names[row]} ({place(row)})"
    shared = [
        ["/".join(one), "itself" if one == two else "/".join(two), f"{number:,}"]
        for (one, two), number in census.shared_contents(groups, rows).items()
    ]
    items: list[Table | Listing] = [Table(["part", "shares with", "contents"], shared)]
    for title, pairs in found:
        some = f", the first {MOST_PAIRS:,} pairs" if len(pairs) > MOST_PAIRS else ""
        lines = [f"{told(one)} = {told(two)}" for one, two in pairs[:MOST_PAIRS]]
        items.append(Listing(f"{title}{some}:", lines, head=PAIRS))
    there = f"There {'is' if len(groups) == 1 else 'are'} {counted(len(groups), 'content')}"
    note = f"{there} more than once, as {sum(map(len, groups)):,} images together."
    return Chapter("duplicates", "Duplicates", [note], items)


def cache_chapter(entries: Sequence, folder: str, used: bool) -> Chapter:
    """List the `CacheEntry`s of the feature cache in `folder`; `used`: by the config's run."""
    notes = [] if used else ["This config does not use it (features.cache=False)."]
    held = f"{counted(len(entries), 'entry', 'entries')}, {size(sum(e.bytes for e in entries))}"
    free = "Any may be deleted (rm -r): a run that needs it encodes again."
    notes.append(f"{held}, in {folder}. {free}" if entries else f"Nothing in {folder}.")
    lines = []
    for entry in sorted(entries, key=lambda entry: entry.age_s):
        numbers = [f"{entry.rows:,}", size(entry.bytes), age(entry.age_s)]
        done = "yes" if entry.complete else "no"
        lines.append([f"{entry.domain}/{entry.split}", *numbers, done, entry.path.name])
    header = ["part", "images", "size", "age", "complete", "entry"]
    return Chapter("cache", "Feature cache", notes, [Table(header, lines, head=20)])
