"""The data card of the embedded dataset, its tables counted from the built files."""

from collections import Counter
from importlib.metadata import version

from .classes import CLASS_NAMES
from .grouping import MAX_PER_GROUP, MAX_PER_GROUP_IN, SPLITS, THRESHOLDS
from .sources import DOMAIN_PACKAGES, DOMAINS, EMOJIBASE, NOTO_FONT, Archive

_LOOK = {
    "render": "glossy 3D renders",
    "flat": "flat colour",
    "clipart": "shaded drawings",
    "cartoon": "flat cartoon",
    "stencil": "black shapes",
    "sketch": "thin line art",
}
# Domain -> artist, licence, licence file. The packages declare the licence in package.json and
# info.json; only the font package carries licence texts, which are copied.
_RIGHTS = {
    "render": ("Microsoft (Fluent Emoji), packaged by LobeHub", "MIT", "MIT-fluent-emoji.txt"),
    "flat": ("Microsoft (Fluent Emoji)", "MIT", "MIT-fluent-emoji.txt"),
    "clipart": ("Google (Noto Emoji)", "Apache-2.0", "Apache-2.0.txt"),
    "cartoon": ("Twitter, Inc and other contributors (Twemoji)", "CC-BY-4.0", "CC-BY-4.0.txt"),
    "stencil": (
        "Microsoft (Fluent Emoji High Contrast)", "MIT", "MIT-fluent-emoji.txt",
    ),
    "sketch": ("Google (Noto Emoji font, Light)", "OFL-1.1", "OFL-1.1-noto-emoji.txt"),
}  # fmt: skip

_TEXT = """# Emoji in six styles

{identities} objects, each drawn by six houses: a small, real benchmark for domain adaptation of
image classifiers. {classes} classes, {images} images of 64 x 64 pixels. This file is written by
`tools/build_emoji.py`.

## What is here
- `train.parquet`, `val.parquet`, `test.parquet`: columns `image` (bytes of a WebP file, path),
  `label`, `class`, `domain`, `identity`, `hexcode`; rows by domain, class, identity. They carry
  Hugging Face metadata: `datasets.load_dataset("parquet", data_files=...)` decodes the images.
- `identities.csv`: identity, code points, name, class, near-duplicate group, split.
- `classes.txt`: the class names in the order of the labels.
- `LICENSES/`: the licences below.

## Where it comes from
{sources}
Names and subgroups: `{base} {base_version}` (MIT, Miles Johnson). All licences allow copying and
changing with credit. The drawings were changed: framed, put on white, scaled, stored as WebP.

The licence of the artwork is the one that each package declares in its metadata. Only the font
package and emojibase-data carry licence texts, copied here; the Iconify packages and
`@lobehub/fluent-emoji-3d` hold none, so theirs are the standard texts with the artists' names.
The font package is MIT (Expo, its code) and OFL-1.1 (Google, the font). The OFL governs copies
and changes of the font itself; here are only pictures of its glyphs.

## Counts
Images per split and domain:

{split_table}
Identities per class (each is in all six domains, so images are six times as many):

{class_table}
## How it was made
- **Classes** are sets of Unicode subgroups with exceptions (`tools/emoji/classes.py`). An emoji
  is taken when all six domains draw it: {candidates} candidates. No flags, no skin tones.
- **Framing**: the visible part of every drawing is centred on white and its longer side fills
  90 % of the canvas, because the font draws to its bounding box and the others keep margins.
- **Near-duplicates**: two drawings of one domain are close when the distance of their 16 x 16
  versions (root of the summed squared difference of ink, i.e. 1 - colour, over the geometric
  mean of both inks' norms; mirror images count as equal) is below a threshold:
{threshold_table}
  Close pairs in *any* domain, and pairs alike by name (man, woman and person in one role; moon
  phases; books of another colour), are linked; connected identities form a group: {groups}
  groups among the candidates. At most {limit} of a group and class are kept, {person_limit} in
  the two person classes; {identities} identities in {kept_groups} groups remain. So no test
  image is closer than the threshold to a train or validation image of its domain; the closest
  pairs that remain:

{nearest_table}
- **Split**: by group, within each class, in the order of hashes of the groups' names: about
  57 % train, 10 % validation, 33 % test. It does not change from build to build, and what is
  drawn in the test split is drawn in no other split in any domain.

## Known limits
- The test split has {test} identities: one accuracy on one domain has a standard error of about
  three points. Compare over seeds and domains, and read the spread.
- `render`, `flat` and `stencil` are by one designer; `render` and `flat` are nearly the same
  drawings, so that this pair has the smallest gap.
- Identities that differ in colour only look the same in `stencil` and `sketch`.
- Classes follow Unicode's order: `insect` is its "bug" subgroup (spider, scorpion, snail and
  worm included), `fruit` includes tomato and olive, `sea animal` includes whales and coral.
- Classes are unequal: the largest has {largest} identities, the smallest {smallest}.
- Emoji are icons, not photographs: the dataset shows how a method behaves, not how well it
  works on photographs.

## Build
```
pip install -e ".[tools]"
python tools/build_emoji.py           # needs npm; packages are pinned by version and SHA-256
python tools/build_emoji.py --check   # rebuilds and compares the bytes
```
Built with {versions};
other versions may give other bytes.
"""


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _nearest(nearest: dict[str, tuple[float, str, str]]) -> str:
    rows = [[d, f"{distance:.3f}", *names] for d, (distance, *names) in nearest.items()]
    return table(["domain", "distance", "test", "train or val"], rows)


def _sources() -> str:
    rows = []
    for domain, package in DOMAIN_PACKAGES.items():
        artist, licence, file = _RIGHTS[domain]
        spec = f"`{package.name} {package.version}`"
        rows.append([domain, _LOOK[domain], spec, artist, f"[{licence}](LICENSES/{file})"])
    return table(["domain", "look", "npm package", "artwork by", "licence"], rows)


def _card(rows: list[dict], images: dict, facts: dict) -> str:
    counts = Counter((row["class"], row["split"]) for row in rows)
    totals = Counter(row["split"] for row in rows)
    per_class = Counter(row["class"] for row in rows)
    per_domain = Counter((domain, row["split"]) for domain in DOMAINS for row in rows)
    bytes_per_domain = Counter()
    for (domain, _), data in images.items():
        bytes_per_domain[domain] += len(data)
    split_rows = [
        [d, *(per_domain[d, s] for s in SPLITS), f"{bytes_per_domain[d]:,}"] for d in DOMAINS
    ]
    class_rows = [
        [i, name, *(counts[name, s] for s in SPLITS), per_class[name]]
        for i, name in enumerate(CLASS_NAMES)
    ]
    class_rows.append(["", "all", *(totals[s] for s in SPLITS), len(rows)])
    thresholds = table(
        ["domain", "threshold", "close pairs among the candidates"],
        [[d, f"{THRESHOLDS[d]:.2f}", facts["pairs"][d]] for d in DOMAINS],
    )
    tools = ("pillow", "pyarrow", "resvg-py", "fonttools", "numpy")
    return _TEXT.format(
        identities=len(rows),
        classes=len(CLASS_NAMES),
        images=len(images),
        sources=_sources(),
        base=EMOJIBASE.name,
        base_version=EMOJIBASE.version,
        split_table=table(["domain", *SPLITS, "bytes of WebP"], split_rows),
        class_table=table(["label", "class", *SPLITS, "all"], class_rows),
        candidates=facts["candidates"],
        threshold_table="\n" + _indent(thresholds),
        groups=facts["groups"],
        kept_groups=len({row["group"] for row in rows}),
        nearest_table=_indent(_nearest(facts["nearest"])),
        limit={2: "two"}.get(MAX_PER_GROUP, MAX_PER_GROUP),
        person_limit={1: "one"}.get(MAX_PER_GROUP_IN["person"], MAX_PER_GROUP_IN["person"]),
        test=totals["test"],
        largest=max(per_class.values()),
        smallest=min(per_class.values()),
        versions=", ".join(f"{tool} {version(tool)}" for tool in tools),
    )


def card_files(
    rows: list[dict], images: dict, facts: dict, archives: dict[str, Archive]
) -> dict[str, bytes]:
    """The data card and the licence texts that the packages carry."""
    font, base = archives[NOTO_FONT.name], archives[EMOJIBASE.name]
    return {
        "README.md": _card(rows, images, facts).encode(),
        "LICENSES/OFL-1.1-noto-emoji.txt": font.read("LICENSE_FONT"),
        "LICENSES/MIT-expo-google-fonts.txt": font.read("LICENSE"),
        "LICENSES/MIT-emojibase.txt": base.read("LICENSE"),
    }
