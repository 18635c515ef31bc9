"""Emoji: drawings of the training identities, and what is known of the held-out ones."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from .icons import Candidate
from .names import (
    COLOURS,
    GLUE,
    PEOPLE,
    STOP,
    VAGUE,
    content_words,
    singular,
    split_words,
    word_set,
)
from .packages import PACKAGES, Archive
from .phash import SIDE, framed, luminance
from .render import Drawing
from .synonyms import pictured_as
from .wordnet import WordNet

# Emoji styles in the corpus. Twemoji, the high-contrast set and the font stay out, so that three
# of the dataset's six domains are never seen in pretraining.
STYLES = {
    "render": "@lobehub/fluent-emoji-3d",
    "flat": "@iconify-json/fluent-emoji-flat",
    "gradient": "@iconify-json/fluent-emoji",
    "clipart": "@iconify-json/noto",
    "noto-v1": "@iconify-json/noto-v1",
    "emojione": "@iconify-json/emojione",
}
PRESETS = ("cldr", "emojibase", "emojibase-legacy", "github", "iamcal", "joypixels")
SKIP_GROUPS = frozenset((2, 9))  # components (skin tones, hair) and flags
# Faces and hands look so much alike that those outside the dataset, left out of it as
# near-duplicates, may come close to a held-out one: none of them.
SKIP_SUBGROUPS = frozenset((*range(14), *range(16, 22)))


class Identity(NamedTuple):
    """One row of the dataset's identities.csv."""

    identity: str
    hexcode: str
    name: str
    label: str  # class name
    split: str


class Emoji(NamedTuple):
    """One emoji of emojibase-data, skin tones left out."""

    hexcode: str  # plain form: no FE0F, upper case
    label: str
    tags: list[str]
    group: int
    subgroup: str
    subgroup_id: int
    shortcodes: list[str]  # of all presets
    unicode_name: str


def plain(hexcode: str) -> str:
    """Hexcode without variation selectors, upper case: the form all packages can agree on."""
    parts = re.split(r"[-_ ]", hexcode.upper())
    return "-".join(part for part in parts if part != "FE0F")


def read_identities(path: Path) -> list[Identity]:
    """Rows of identities.csv of the embedded dataset."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; build the dataset with tools/build_emoji.py.")
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Identity(r["identity"], plain(r["hexcode"]), r["name"], r["class"], r["split"])
            for r in csv.DictReader(file)
        ]


def read_emojibase(archive: Archive) -> dict[str, Emoji]:
    """All emoji without skin tones, by plain hexcode."""
    codes: dict[str, set[str]] = defaultdict(set)
    for preset in PRESETS:
        for hexcode, value in archive.json(f"en/shortcodes/{preset}.json").items():
            codes[plain(hexcode)].update([value] if isinstance(value, str) else value)
    unicode_names = {plain(k): v for k, v in archive.json("meta/unicode-names.json").items()}
    subgroups = archive.json("meta/groups.json")["subgroups"]
    result = {}
    for entry in archive.json("en/data.json"):
        if "group" not in entry or "tone" in entry:
            continue
        key = plain(entry["hexcode"])
        result[key] = Emoji(
            key,
            entry["label"],
            entry.get("tags", []),
            entry["group"],
            subgroups[str(entry["subgroup"])],
            entry["subgroup"],
            sorted(codes[key]),
            unicode_names.get(key, ""),
        )
    return result


# ---------------------------------------------------------------------------------- held out


def held_out_aliases(
    identities: list[Identity],
    emoji: dict[str, Emoji],
    wordnet: WordNet,
    vocabulary: frozenset[str],
) -> list[tuple[str, str, str, frozenset[str]]]:
    """Names the held-out identities go by, and the words that give each away.

    Args:
        identities: all identities.
        emoji: emojibase by hexcode.
        wordnet: gives synonyms and kinds ('plane' and 'jet' for the airplane).
        vocabulary: words in use; synonyms and kinds made of other words are left out.

    Returns:
        Sorted (identity, split, alias as written, words); an image whose words include all words
        of an alias leaves the corpus.
    """
    train = {
        content_words(name, GLUE)
        for item in identities
        if item.split == "train"
        for name in (item.name, item.identity)
    }
    senses = {item: _sense(item, wordnet) for item in identities}
    shown = frozenset(
        wordnet.sense(noun) for item, noun in senses.items() if noun and item.split == "train"
    )
    rows = set()
    for item in identities:
        if item.split == "train":
            continue
        known = emoji.get(item.hexcode)
        names = {item.name, item.identity}
        if known:
            names |= {known.label, *known.shortcodes}
            if "-200D" not in item.hexcode:  # 'adult wrench' is no name of a mechanic
                names.add(known.unicode_name.lower())
        for name in names:
            for words in _alias_forms(name, train):
                rows.add((item.identity, item.split, " ".join(split_words(name)), words))
        kinds = wordnet.names_of_kinds(senses[item], shown) if senses[item] else []
        for kind in pictured_as(item.name) + kinds:
            words = content_words(kind, GLUE)
            if words <= vocabulary and words not in train and not words <= PEOPLE | VAGUE:
                rows.add((item.identity, item.split, " ".join(split_words(kind)), words))
    return sorted(rows, key=lambda r: (r[0], r[2], sorted(r[3])))


def _sense(item: Identity, wordnet: WordNet) -> str | None:
    """The noun of WordNet an identity is, or None ('dog face' is 'dog')."""
    bare = " ".join(word for word in split_words(item.name) if word not in STOP | COLOURS)
    for phrase in (" ".join(split_words(item.name)), bare):
        found = wordnet.noun(phrase) if phrase else None
        if found:
            return found
    return None


def _alias_forms(name: str, train: set[frozenset[str]]) -> Iterator[frozenset[str]]:
    """Sets of words that give a name away.

    The name itself and its words joined; then without filler words, without people and without
    colours, unless what is left is the name of a training identity ('face in clouds' is held
    out, 'cloud' is not).
    """
    full = content_words(name, GLUE)
    parts = [singular(word) for word in split_words(name)]
    forms = [full]
    for glue in (STOP, STOP | PEOPLE, STOP | COLOURS, STOP | PEOPLE | COLOURS):
        words = content_words(name, glue)
        if words not in train:
            forms.append(words)
    forms += [frozenset(("".join(part for part in parts if part in form),)) for form in forms]
    vague = STOP | COLOURS | VAGUE
    for form in dict.fromkeys(forms):
        usable = frozenset(word for word in form if len(word) > 1)
        if usable and not usable <= vague and (usable == full or not usable <= PEOPLE):
            yield usable


def held_out_drawings(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Framed luminance of every drawing of every held-out identity, in all domains.

    Args:
        folder: the dataset's folder, with test.parquet and val.parquet.

    Returns:
        uint8 [M, SIDE, SIDE] and a label ('split/domain/identity') for each.
    """
    squares, labels = [], []
    for split in ("test", "val"):
        path = folder / f"{split}.parquet"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing; build the dataset with tools/build_emoji.py."
            )
        table = pq.read_table(path).to_pylist()
        for row in table:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                squares.append(framed(luminance(image), SIDE))
            labels.append(f"{split}/{row['domain']}/{row['identity']}")
    return np.stack(squares), labels


# ---------------------------------------------------------------------------------- drawings


def _slug(name: str) -> str:
    name = name.lower().replace("\u2019", "").replace("'", "").replace("&", " and ")
    return "-".join(re.findall(r"[^\W_]+", name))


def _slugs(emoji: dict[str, Emoji]) -> dict[str, str]:
    """Icon name -> hexcode, for the sets that do not list the characters themselves.

    A label wins over a Unicode name and that over a shortcode; names that two emoji share at
    the same rank are left out, so that no drawing gets another emoji's words.
    """
    result: dict[str, str] = {}
    for names in (
        lambda e: [e.label],
        lambda e: [e.unicode_name],
        lambda e: e.shortcodes,
    ):
        claims: dict[str, set[str]] = defaultdict(set)
        for key, entry in emoji.items():
            for name in names(entry):
                claims[_slug(name)].add(key)
        for slug, keys in claims.items():
            if slug and len(keys) == 1:
                result.setdefault(slug, next(iter(keys)))
            else:
                result.setdefault(slug, "")
    return result


def _drawings(
    style: str, archive: Archive, slugs: dict[str, str]
) -> Iterator[tuple[str, str, Drawing]]:
    """(hexcode, icon name, drawing) of every drawing of one emoji style that can be identified."""
    if style == "render":
        for name in archive.names:
            if name.startswith("assets/") and name.endswith(".webp"):
                stem = name.removeprefix("assets/").removesuffix(".webp")
                yield plain(stem), stem, Drawing(archive.read(name), colour=True)
        return
    data, chars = archive.json("icons.json"), archive.json("chars.json")
    by_name = {name: plain(char) for char, name in sorted(chars.items())}
    for name, icon in sorted(data["icons"].items()):
        key = by_name.get(name) or slugs.get(name)
        if key and not icon.get("hidden"):
            width = float(icon.get("width", data.get("width", 16)))
            height = float(icon.get("height", data.get("height", 16)))
            box = (float(icon.get("left", 0)), float(icon.get("top", 0)), width, height)
            yield key, name, Drawing(icon["body"], box, True)


def read_drawings(
    archives: dict[str, Archive],
    identities: list[Identity],
    emoji: dict[str, Emoji],
    held_out: Callable[[frozenset[str]], frozenset[str] | None],
) -> tuple[list[Candidate], int]:
    """Emoji drawings for the corpus: training identities, and emoji the dataset leaves out.

    Args:
        archives: opened packages by name.
        identities: rows of identities.csv.
        emoji: emojibase by hexcode.
        held_out: the name filter; asked only for emoji outside the dataset, because a training
            identity is known to be none of the held-out ones.

    Returns:
        Candidates, and how many drawings the name filter dropped.
    """
    by_code = {item.hexcode: item for item in identities}
    slugs = _slugs(emoji)
    found, dropped = [], 0
    for style, package in STYLES.items():
        seen = set()
        for key, name, drawing in _drawings(style, archives[package], slugs):
            entry, item = emoji.get(key), by_code.get(key)
            if entry is None or key in seen or (item and item.split != "train"):
                continue
            if item is None:
                if entry.group in SKIP_GROUPS or entry.subgroup_id in SKIP_SUBGROUPS:
                    continue
                if held_out(word_set(entry.label, entry.unicode_name, *entry.shortcodes, name)):
                    dropped += 1
                    continue
            seen.add(key)
            found.append(_candidate(style, package, entry, item, drawing))
    return found, dropped


def _candidate(
    style: str, package: str, entry: Emoji, item: Identity | None, drawing: Drawing
) -> Candidate:
    """One emoji drawing with its words; named by its hexcode, so that a test can look it up."""
    caption = " ".join(split_words(entry.label))
    texts = [code.replace("_", " ").replace("-", " ") for code in entry.shortcodes]
    texts += entry.tags
    texts.append(" ".join(reversed(entry.subgroup.split("-"))))
    texts = [" ".join(split_words(text)) for text in texts]
    if item:
        texts.insert(0, item.label.lower())  # with its comma, as prompts will have it
    texts = [text for text in dict.fromkeys(texts) if len(text) > 1 and text != caption]
    return Candidate(
        f"emoji:{style}", entry.hexcode.lower(), caption, texts, "emoji-train",
        PACKAGES[package].licence, drawing,
    )  # fmt: skip
