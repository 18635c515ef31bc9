"""Paths that lists name, as the disk spells them: their Unicode form may differ."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

from clipjax.io.texts import nfc


def respelled(root: str | os.PathLike, paths: Sequence[str]) -> list[str]:
    """Paths as the disk has them where it differs in Unicode form only; the others as given.

    A form that is there as given counts first; of several others none.

    Args:
      root: folder that paths are relative to, unless they are absolute.
      paths: with `/` between folders.
    """
    listings: dict[str, dict[str, str]] = {}
    folders = {"": ""}

    def place(path: str) -> str:
        if path.isascii():
            return path
        head, slash, name = path.rpartition("/")
        if head not in folders:
            folders[head] = place(head)
        start = folders[head] + slash
        folder = os.path.join(root, start)
        if os.path.lexists(os.path.join(folder, name)):
            return start + name
        if folder not in listings:
            listings[folder] = _listing(folder)
        return start + listings[folder].get(nfc(name), name)

    return [place(path) for path in paths]


def _listing(folder: str) -> dict[str, str]:
    """NFC -> name, of all entries whose NFC is theirs alone."""
    try:
        names = os.listdir(folder)
    except OSError:  # not there: what was looked for is missing, and told by who looks for it
        return {}
    forms = [nfc(name) for name in names]
    counts = collections.Counter(forms)
    return {form: name for form, name in zip(forms, names, strict=True) if counts[form] == 1}
