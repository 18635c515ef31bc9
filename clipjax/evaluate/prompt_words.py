"""The table of learned prompts: what words their vectors are nearest to."""

from collections.abc import Mapping
from typing import Any

Cells = tuple[list[str], list[list[str]]]


def cells(results: Mapping[str, Any]) -> Cells:
    """Return the table: a line a method, or a class of its own prompts; its vectors in order."""
    body = [
        [" ".join(filter(None, (name, row["class"]))), _line(row)]
        for name, rows in (results.get("prompts") or {}).items()
        for row in rows
    ]
    return ["learned prompt", "nearest words (distance)"], body


def _line(row: Mapping[str, Any]) -> str:
    pairs = zip(row["words"], row["distances"], strict=True)
    return ", ".join(f"{word} ({far:.2f})" for word, far in pairs)


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the table, without a full stop."""
    found = results.get("prompts") or {}
    if not found:
        return []
    seed = next(iter(found.values()))[0]["seed"]
    return [
        f"learned prompts (seed {seed}): the word whose embedding each vector is nearest to, and "
        "how far it is; a vector means more than its word, a distance of 0 is the word itself, and "
        "word- goes on in another token"
    ]
