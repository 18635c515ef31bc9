"""Candidates from the icon sets of @iconify/json: which icons, with which words."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from .names import clean_caption, split_words, word_set
from .packages import Archive
from .render import Drawing

LICENCES = frozenset(
    "MIT Apache-2.0 CC-BY-4.0 CC-BY-3.0 CC0-1.0 OFL-1.1 ISC BSD-3-Clause Unlicense".split()
)
SKIP_CATEGORIES = frozenset(("Logos", "Flags / Maps", "Programming"))
SKIP_SETS = frozenset(
    # Emoji drawings come from their own packages, by identity; the rest are logos or animations.
    "noto noto-v1 twemoji openmoji fxemoji emojione emojione-v1 emojione-monotone "
    "fa-brands fa6-brands fa7-brands academicons svg-spinners".split()
)
BRANDS = frozenset(("brand", "brands", "logo", "logos"))
DULL_CATEGORIES = frozenset(
    "core common action actions essential regular line other others misc general basic ui "
    "interface base default edit content form standard stock all various 24px".split()
)
STYLES_PER_CAPTION = {False: 2, True: 4}  # by: is the set coloured
IMAGES_PER_CAPTION = 40
EXTRA_STYLES = {"lets-icons": ("light",), "stash": ("light",)}


@dataclass
class Candidate:
    """One picture to render, with its words; becomes one row of the manifest."""

    source: str
    name: str
    caption: str
    texts: list[str]
    group: str
    licence: str
    drawing: Drawing
    aliases: list[str] = field(default_factory=list)

    @property
    def words(self) -> frozenset[str]:
        """All words the leak filter compares."""
        return word_set(self.name, self.caption, *self.aliases)


def eligible_sets(collections: dict) -> list[str]:
    """Ids of the icon sets that licence and purpose admit, sorted."""
    return sorted(
        key
        for key, info in collections.items()
        if info["license"].get("spdx") in LICENCES
        and info.get("category") not in SKIP_CATEGORIES
        and "emoji" not in key
        and key not in SKIP_SETS
    )


def _set_styles(key: str, data: dict) -> set[str]:
    """Style words a set declares itself, as suffixes, prefixes or by our own list."""
    declared = {*data.get("suffixes", {}), *data.get("prefixes", {})}
    words = {word for entry in declared for word in split_words(entry)}
    return words | set(EXTRA_STYLES.get(key, ()))


def _category_words(category: str) -> str:
    """'PetAnimals' -> 'pet animals'; empty for categories that say nothing."""
    words = split_words(category)
    return "" if not words or set(words) <= DULL_CATEGORIES else " ".join(words)


def _strip_category(name: str, categories: list[str]) -> str:
    """Name without a leading category ('pet-animals-rabbit-1' -> 'rabbit-1')."""
    for category in categories:
        prefix = "-".join(split_words(category)) + "-"
        if name.startswith(prefix) and len(name) > len(prefix):
            return name[len(prefix) :]
    return name


def _is_line(name: str) -> bool:
    return bool(re.search(r"outline|line|stroke|thin|light|broken|regular|-o$", name))


def _pick_styles(names: list[str], limit: int) -> list[str]:
    """At most `limit` icons of one caption: shortest names first, drawn and filled in turn."""
    ordered = sorted(names, key=lambda name: (len(name), name))
    filled = [name for name in ordered if not _is_line(name)]
    lined = [name for name in ordered if _is_line(name)]
    mixed = []
    while filled or lined:
        mixed += filled[:1] + lined[:1]
        filled, lined = filled[1:], lined[1:]
    return mixed[:limit]


def read_set(key: str, info: dict, data: dict) -> list[Candidate]:
    """Candidates of one icon set, with the styles per caption limited.

    Args:
        key: id of the set.
        info: its entry of collections.json.
        data: its icons file.
    """
    styles = _set_styles(key, data)
    palette = bool(info.get("palette"))
    of_icon: dict[str, list[str]] = defaultdict(list)
    for category, members in data.get("categories", {}).items():
        for name in members:
            of_icon[name].append(category)
    other_names: dict[str, list[str]] = defaultdict(list)
    for alias, entry in data.get("aliases", {}).items():
        other_names[entry["parent"]].append(alias)

    by_caption: dict[str, list[str]] = defaultdict(list)
    for name, icon in data["icons"].items():
        if icon.get("hidden") or "<image" in icon["body"]:
            continue
        if not palette and "<animate" in icon["body"]:  # the still picture is often half empty
            continue
        if set(split_words(name)) & BRANDS or any(c.lower() in BRANDS for c in of_icon[name]):
            continue
        caption = clean_caption(_strip_category(name, of_icon[name]), styles)
        if caption:
            by_caption[caption].append(name)

    found = []
    for caption in sorted(by_caption):
        for name in _pick_styles(by_caption[caption], STYLES_PER_CAPTION[palette]):
            icon = data["icons"][name]
            box = tuple(
                float(icon.get(k, data.get(k, default)))
                for k, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
            )
            others = sorted(other_names[name])
            texts = [clean_caption(other, styles) for other in others]
            texts += [_category_words(category) for category in sorted(of_icon[name])]
            texts = [text for text in dict.fromkeys(texts) if text and text != caption]
            drawing = Drawing(icon["body"], box, False)
            licence = info["license"]["spdx"]
            found.append(Candidate(key, name, caption, texts, "", licence, drawing, others))
    return found


def read_icons(archive: Archive, split: Callable[[str, int], str]) -> list[Candidate]:
    """Candidates of all admitted icon sets of @iconify/json.

    Args:
        archive: the opened package.
        split: splits a joined word ('coffeecup' -> 'coffee cup') into parts that have at least
            so many letters.
    """
    collections = archive.json("collections.json")
    result = []
    for key in eligible_sets(collections):
        result += read_set(key, collections[key], archive.json(f"json/{key}.json"))
    used_by: dict[str, set[str]] = defaultdict(set)
    for candidate in result:
        for word in candidate.caption.split():
            used_by[word].add(candidate.source)
    for candidate in result:
        words = candidate.caption.split()
        # The leak filter always sees the parts, even unlikely ones; the caption only where few
        # sets join the words ('download' is in use as it is).
        candidate.aliases.append(" ".join(split(word, 3) for word in words))
        words = [word if len(used_by[word]) > 2 else split(word, 4) for word in words]
        candidate.caption = " ".join(words)
    return result


def limit_captions(pairs: list[tuple], limit: int = IMAGES_PER_CAPTION) -> list[tuple]:
    """At most `limit` images a caption over all sets: coloured ones, then by a hash of the name.

    Args:
        pairs: (candidate, picture); emoji drawings are always kept.
        limit: images per caption.
    """

    def lot(pair) -> tuple[bool, str]:
        candidate, picture = pair
        name = f"{candidate.source}:{candidate.name}"
        return picture.kind != "rgba", hashlib.sha256(name.encode()).hexdigest()

    by_caption: dict[str, list[tuple]] = defaultdict(list)
    kept = []
    for pair in pairs:
        if pair[0].group:
            kept.append(pair)
        else:
            by_caption[pair[0].caption].append(pair)
    for members in by_caption.values():
        kept += sorted(members, key=lot)[:limit]
    return sorted(kept, key=lambda pair: (pair[0].source, pair[0].name))
