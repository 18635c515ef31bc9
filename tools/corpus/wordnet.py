"""Hypernyms from the plain database files of WordNet 3.0 (no dependency).

Source: the files index.noun, data.noun and noun.exc of Princeton WordNet, as the Debian package
wordnet-base installs them; their format is described in the manual page wndb(5WN).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from .names import singular

# Lexicographer files of visible things: animal, artifact, body, food, object, plant.
THINGS = frozenset((5, 6, 8, 13, 17, 20))
# Synsets too general to say anything about a picture.
UNINFORMATIVE = frozenset(
    "entity|physical entity|abstraction|object|whole|artifact|matter|thing|unit|living thing|"
    "organism|causal agent|psychological feature|attribute|instrumentality|substance|state|"
    "event|act|group|relation|part|substance|process|measure|cognition|content|concept|idea|"
    "communication|physical condition|definite quantity|fundamental quantity|cause|body part|"
    "system|portion|piece|solid|material|way|activity|location|point|region|line|number|"
    "happening|change|property|quality|condition|social group|signal|indication|know-how|"
    "higher cognitive process|collection|arrangement|speech act|message|auditory communication|"
    "written communication|natural object|physical phenomenon|phenomenon|natural phenomenon|"
    "natural process|action|amount|magnitude|position|possession|shape|form".split("|")
)
# Words that modify an icon rather than name it: 'user plus' is a user.
MODIFIERS = frozenset(
    "add plus minus remove delete check checked tick off on x cross close cancel edit lock locked "
    "unlock up down left right alert warning search find settings setting cog gear info question "
    "slash disabled enabled new star heart circle square rectangle box share sync refresh reload "
    "download upload import export out in top bottom start end center middle open closed empty "
    "full high low medium small large big horizontal vertical multiple double single status "
    "important pending done error success fail favorite like dislike pause play stop forward back "
    "heavy light free "
    "next previous first last more less view hide show hidden visible time clock badge".split()
)
# Modifiers that may name a picture where they stand alone.
NOUN_MODIFIERS = frozenset(
    "lock cross tick gear cog search star heart circle square rectangle box clock badge "
    "question check".split()
)


class WordNet:
    """Nouns and their hypernyms.

    Args:
        folder: where index.noun, data.noun and noun.exc are.
    """

    def __init__(self, folder: Path):
        missing = [n for n in ("index.noun", "data.noun", "noun.exc") if not (folder / n).exists()]
        if missing:
            raise FileNotFoundError(
                f"WordNet file {missing[0]} is not in {folder}; install the Debian package "
                "wordnet-base or name the folder with --wordnet DIR."
            )
        self._senses: dict[str, list[int]] = {}
        self._file: dict[int, int] = {}
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith(" "):
                fields = line.split()
                senses = fields[6 + int(fields[3]) :]
                self._senses[fields[0]] = [int(offset) for offset in senses]
        self._exceptions = dict(
            line.split()[:2] for line in (folder / "noun.exc").read_text("utf-8").splitlines()
        )
        self._lemmas: dict[int, list[str]] = {}
        self._children: dict[int, list[int]] = defaultdict(list)
        self._parent: dict[int, int] = {}
        for line in (folder / "data.noun").read_text("utf-8").splitlines():
            if not line.startswith(" "):
                self._read_synset(line.split("|", 1)[0].split())

    def _read_synset(self, fields: list[str]) -> None:
        offset, words = int(fields[0]), int(fields[3], 16)
        self._file[offset] = int(fields[1])
        lemmas = fields[4 : 4 + 2 * words : 2]
        self._lemmas[offset] = [lemma.replace("_", " ").lower() for lemma in lemmas]
        at = 4 + 2 * words
        for i in range(int(fields[at])):
            kind, target = fields[at + 1 + 4 * i], fields[at + 2 + 4 * i]
            if kind in ("@", "@i"):
                self._parent[offset] = int(target)
                if kind == "@":  # '@i' leads to instances: single persons and places
                    self._children[int(target)].append(offset)
                return

    def noun(self, phrase: str) -> str | None:
        """The index form of a noun phrase ('hot dogs' -> 'hot_dog'), or None."""
        key = phrase.replace(" ", "_")
        head, _, last = key.rpartition("_")
        join = f"{head}_" if head else ""
        for form in (key, self._exceptions.get(key, ""), join + singular(last)):
            if form in self._senses:
                return form
        return None

    def head(self, caption: str) -> str | None:
        """The index form of a caption's head noun: its longest right part that is a noun."""
        words = caption.split()
        while len(words) > 1 and words[-1] in MODIFIERS:
            words.pop()
        while words:
            for first in range(len(words)):
                phrase = " ".join(words[first:])
                found = self.noun(phrase)
                if found and len(found) > 2 and phrase not in MODIFIERS - NOUN_MODIFIERS:
                    return found
            words.pop()
        return None

    def sense(self, noun: str) -> int:
        """Offset of the sense a picture most likely shows.

        The first of the two most frequent senses that is a visible thing, else the first:
        'ruler' is a measuring stick, not a king.
        """
        senses = self._senses[noun]
        things = [offset for offset in senses[:2] if self._file[offset] in THINGS]
        return (things or senses)[0]

    def hypernyms(self, caption: str, levels: int = 6) -> list[str]:
        """Up to `levels` hypernyms of a caption's head noun, nearest first, general ones left out.

        One sense is followed, and always the first parent.
        """
        head = self.head(caption)
        result: list[str] = []
        offset = self._parent.get(self.sense(head)) if head else None
        while offset is not None and len(result) < levels:
            lemma = self._lemmas[offset][0]
            if lemma not in UNINFORMATIVE:
                result.append(lemma)
            offset = self._parent.get(offset)
        return result

    def names_of_kinds(self, noun: str, except_for: frozenset[int]) -> list[str]:
        """Synonyms of a noun and the names of its kinds ('airplane': 'plane', 'jet' ...).

        Args:
            noun: index form, as `noun` returns it.
            except_for: senses that are things of their own; neither they nor their kinds count.

        Returns:
            Sorted names, kinds of kinds included; only those that mean this first of all, and no
            plurals ('clocks' is a plant, but a clock is not).
        """
        start = self.sense(noun)
        names, queue = set(), [(start, 0)]
        while queue:
            offset, level = queue.pop()
            if offset in except_for and level:
                continue
            if level < 2:
                queue += [(child, level + 1) for child in self._children[offset]]
            for lemma in self._lemmas[offset]:
                index = lemma.replace(" ", "_")
                if index not in self._senses:
                    continue
                meant = self._senses[index][0] if level else self.sense(index)
                plural = singular(index) != index and singular(index) in self._senses
                if meant == offset and not plural:
                    names.add(lemma)
        return sorted(names)
