"""Renders candidates in worker processes and keeps the result of each source on disk.

Rendering is nearly all of the build's time and does not depend on the leak filter, so every
candidate is rendered before the filter; an interrupted or repeated build starts where it was.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import defaultdict
from pathlib import Path

import numpy as np

from clipjax.log.bars import Bar

from . import render
from .icons import Candidate
from .render import Picture

CHUNK = 100  # drawings a worker process takes at a time
_KINDS = ("", "mask", "rgba")  # of a drawing that shows nothing, and of pictures


def _code_digest() -> str:
    """Key of the code that draws; a change of it makes every kept picture void."""
    return hashlib.sha256(Path(render.__file__).read_bytes()).hexdigest()[:12]


def _key(drawing: render.Drawing) -> str:
    """Key of what is drawn."""
    body = drawing.body if isinstance(drawing.body, bytes) else drawing.body.encode()
    digest = hashlib.sha256(body)
    digest.update(f"{drawing.box}{drawing.colour}".encode())
    return digest.hexdigest()[:24]


def _save(path: Path, pictures: dict[str, Picture | None]) -> None:
    """Writes one source's pictures by key; `_load` reads them back."""
    kinds = [0 if p is None else _KINDS.index(p.kind) for p in pictures.values()]
    shown = [p for p in pictures.values() if p is not None]
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary,
        keys=np.array(list(pictures), "S24"),
        kinds=np.array(kinds, np.uint8),
        mask=np.array([p.pixels for p in shown if p.kind == "mask"], np.uint8),
        rgba=np.array([p.pixels for p in shown if p.kind == "rgba"], np.uint8),
    )
    temporary.rename(path)


def _load(path: Path) -> dict[str, Picture | None]:
    if not path.exists():
        return {}
    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    pixels = {name: iter(stored[name]) for name in _KINDS[1:]}
    pictures: dict[str, Picture | None] = {}
    for key, kind in zip(stored["keys"], stored["kinds"], strict=True):
        picture = None
        if kind:
            picture = Picture(_KINDS[kind], next(pixels[_KINDS[kind]]))
        pictures[key.decode()] = picture
    return pictures


def render_all(
    candidates: list[Candidate], cache: Path, processes: int
) -> list[tuple[Candidate, Picture | None]]:
    """Every candidate with its picture (None where nothing is visible), source by source.

    Args:
        candidates: in any order.
        cache: folder for the finished sources.
        processes: worker processes.
    """
    cache.mkdir(parents=True, exist_ok=True)
    by_source: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_source[candidate.source].append(candidate)
    code = _code_digest()
    result = []
    with (
        multiprocessing.get_context("spawn").Pool(processes) as pool,
        Bar(len(candidates), "render", "image", say=print) as bar,
    ):
        for source in sorted(by_source):
            members = by_source[source]
            path = cache / f"{source.replace(':', '-')}-{code}.npz"
            kept = _load(path)
            keys = [_key(member.drawing) for member in members]
            new = {k: m.drawing for k, m in zip(keys, members, strict=True) if k not in kept}
            bar.update(sum(key in kept for key in keys))
            drawings = list(new.values())
            chunks = [drawings[i : i + CHUNK] for i in range(0, len(drawings), CHUNK)]
            pictures = []
            for part in pool.imap(render.draw_many, chunks):
                pictures += part
                bar.update(len(part))
            if new:
                kept.update(zip(new, pictures, strict=True))
                _save(path, kept)
            result += zip(members, (kept[key] for key in keys), strict=True)
    return result
