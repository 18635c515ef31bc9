"""Remembers the names that a walk over many files found, until a directory changes; sizes and times
change without it, so they are asked for at every start."""

import hashlib
import io
import json
import os
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from clipjax.data.readers.files import Names
from clipjax.data.readers.folder_walk import Found, State, state, walk
from clipjax.io import default_cache_dir, replaced

FORMAT = 3  # raise when what is stored, or what a walk looks for, changes
LEAST = 5000  # fewer files are found again as fast as they are read
_DIGEST = 32  # bytes of SHA-256, in front of an index
_SETTLED = 2_000_000_000  # ns; a file system may stamp changes of so long with the same time
_HEADER = ("domains", "folders", "skipped", "directories", "repeatable", "time")


def index_path(root: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """Return the path of a root's index; default: in `index` of clipjax's cache folder."""
    key = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:32]
    return pathlib.Path(cache_dir or default_cache_dir() / "index") / f"{key}.npz"


def find_files(
    root: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    *,
    least: int | None = None,
    walk: Callable[[str | os.PathLike], Found] = walk,
) -> Found:
    """Return the findings of `walk(root)`, from the index if no directory has changed since.

    `least` is the smallest number of files that is worth an index; default: LEAST.
    """
    path = index_path(root, cache_dir)
    found = load_index(path)
    if found is not None and is_current(found, root):
        return found
    found = walk(root)
    if len(found.names) >= (LEAST if least is None else least) and is_settled(found):
        try:
            save_index(path, found)
        except OSError as error:  # a full disk costs the next start some seconds, not this run
            warnings.warn(f"no file index is kept: {path}: {error.strerror}.", stacklevel=2)
    return found


def is_current(found: Found, root: str | os.PathLike) -> bool:
    """Return whether every directory is unchanged; its device may be another one now."""
    root = os.path.abspath(root)
    try:
        return all(state(os.path.join(root, d))[:3] == s[:3] for d, s in found.directories.items())
    except OSError:  # one is gone
        return False


def is_settled(found: Found) -> bool:
    """Return whether a later change of any directory is sure to show in its time."""
    latest = max(state.changed for state in found.directories.values())
    return found.repeatable and latest < found.time - _SETTLED


def save_index(path: pathlib.Path, found: Found) -> None:
    """Write an index; a reader sees the old one or this one, never a part."""
    header = {"format": FORMAT} | {name: getattr(found, name) for name in _HEADER}
    arrays = {name: getattr(found, name) for name in ("folder", "positions")}
    texts = {"header": json.dumps(header).encode(), "names": found.names.packed}
    arrays |= {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
    content = io.BytesIO()
    np.savez(content, ends=found.names.ends, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, shared=True) as scratch, scratch.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def load_index(path: pathlib.Path) -> Found | None:
    """Read what `save_index` wrote; None if there is nothing whole of this format."""
    try:
        data = path.read_bytes()
    except OSError:  # none yet, or not ours to read: the walk finds the same
        return None
    digest, content = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    header = json.loads(arrays["header"].tobytes())
    if header.pop("format") != FORMAT:
        return None
    lists = {name: tuple(map(tuple, header.pop(name))) for name in ("folders", "skipped")}
    return Found(
        domains=tuple(header.pop("domains")),
        directories={path: State(*state) for path, state in header.pop("directories").items()},
        names=Names(arrays["names"].tobytes(), arrays["ends"]),
        folder=arrays["folder"],
        positions=arrays["positions"],
        **lists,
        **header,
    )
