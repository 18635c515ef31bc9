"""Words of icon and emoji names: cleaning, comparing, and the leak filter by name.

Only the standard library: the test of the committed manifest imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Words that say how an icon is drawn, not what it shows; dropped wherever they stand.
STYLE_ANYWHERE = frozenset(
    "outline outlined outlines filled twotone duotone rounded baseline broken linear svgrepo "
    "mirrored unmirrored badged alerted".split()
)
# Style words that are also plain words: dropped only at either end of a name.
STYLE_ENDS = frozenset(
    "fill solid line bold thin sharp round alt variant o remix stroke duo mono monochrome tone "
    "loop transition ltr rtl sm md lg xl simple regular twotone bxs bxl bx ios i mini micro".split()
)
COUNTERS = frozenset("one two three four five six seven eight".split())
# Words without content of their own in emoji names; kept where nothing else would be left.
GLUE = frozenset("with of the a an and on in at for to from".split())
STOP = GLUE | frozenset(
    "face sign symbol button emoji emoticon icon mark facing holding wearing medium small large "
    "big heavy black white".split()
)
PEOPLE = frozenset("person people man men woman women male female boy girl lady guy adult".split())
# Shortcodes too vague to name a thing in a picture.
VAGUE = frozenset("ok no up down left right new on off go yes".split())
COLOURS = frozenset(
    "red green blue yellow orange purple violet brown black white pink grey gray golden gold "
    "silver light dark".split()
)
_IRREGULAR = {
    "mice": "mouse", "geese": "goose", "feet": "foot", "teeth": "tooth", "children": "child",
    "men": "man", "women": "woman", "people": "person", "leaves": "leaf", "knives": "knife",
    "wolves": "wolf", "loaves": "loaf", "halves": "half", "shelves": "shelf", "lives": "life",
    "scarves": "scarf", "calves": "calf", "elves": "elf", "thieves": "thief", "wives": "wife",
    "buses": "bus", "gases": "gas", "lenses": "lens", "oxen": "ox", "dice": "die",
    "shoes": "shoe", "horses": "horse", "houses": "house", "noses": "nose", "roses": "rose",
    "vases": "vase", "cookies": "cookie", "movies": "movie", "zombies": "zombie", "pies": "pie",
    "ties": "tie", "selfies": "selfie", "glasses": "glasses",
}  # fmt: skip


def singular(word: str) -> str:
    """Singular of an English noun by rule; words that are no plurals come back unchanged."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1]


def split_words(name: str) -> list[str]:
    """Lower-case words of a name; digits, punctuation and CamelCase separate words."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    name = name.replace("\u2019", "").replace("'", "")
    return re.findall(r"[^\W\d_]+", name.lower())


def word_set(*names: str) -> frozenset[str]:
    """Singular words of names, with every two neighbouring words also joined.

    Joining makes 'hot-dog' meet 'hotdog' whichever way the two names are spelt.
    """
    words: set[str] = set()
    for name in names:
        parts = split_words(name)
        words.update(parts)
        parts = [singular(word) for word in parts]
        words.update(parts)
        words.update(a + b for a, b in zip(parts, parts[1:], strict=False))
    return frozenset(words)


def clean_caption(name: str, styles: Iterable[str] = ()) -> str:
    """Caption of an icon: its name without style words, digits and counters.

    Args:
        name: the icon's own name ('elephant-outline', 'home-2-24-filled').
        styles: further style words, from the set's own list of suffixes and prefixes; dropped
            only at the ends of the name.

    Returns:
        Words separated by spaces; empty where nothing but style was left.
    """
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
    parts = re.sub(r"(?<![^\W_])\d+(px|x|d|k|g)?(?![^\W_])", "-", parts)  # sizes, '3d', '5g'
    tokens = [word for word in re.findall(r"[^\W\d_]+", parts) if word not in STYLE_ANYWHERE]
    ends = STYLE_ENDS | COUNTERS | frozenset(styles)
    # 'arrow to line', 'one to one': after a preposition even a style word is meant.
    while len(tokens) > 1 and tokens[-1] in ends and tokens[-2] not in ("to", "of", "in"):
        tokens.pop()
    while len(tokens) > 1 and tokens[0] in ends and tokens[0] != "line":
        tokens.pop(0)
    return " ".join(tokens) if any(len(word) > 1 for word in tokens) else ""


def content_words(name: str, glue: frozenset[str]) -> frozenset[str]:
    """Singular words of a name without those in `glue`, where that leaves something."""
    words = frozenset(singular(word) for word in split_words(name))
    rest = words - glue
    return rest if any(len(word) > 1 for word in rest) else words


class AliasMatcher:
    """Finds the held-out aliases whose words all occur among an icon's words.

    Args:
        aliases: one set of words per alias, as `held_out_aliases.csv` lists them.
    """

    def __init__(self, aliases: Iterable[frozenset[str]]):
        self._by_word: dict[str, set[frozenset[str]]] = {}
        for alias in set(aliases):
            # Any fixed word of an alias will do as the key; the longest is the rarest.
            key = max(sorted(alias), key=len)
            self._by_word.setdefault(key, set()).add(alias)

    def find(self, words: frozenset[str]) -> frozenset[str] | None:
        """First alias (in sorted order) contained in `words`, or None."""
        hits = [a for word in words for a in self._by_word.get(word, ()) if a <= words]
        return min(hits, key=sorted) if hits else None
