"""Remembers what a walk over many files found, until a directory changes.

An index holds names only. It is used while no directory below the root has changed, which files
coming, going or being renamed does. A file that is rewritten in place leaves its directory as it
was: therefore sizes and times are never taken from here but asked for at every start.
"""

from __future__ import annotations

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


def default_index_dir() -> pathlib.Path:
    """`index` in clipjax's cache folder."""
    return default_cache_dir() / "index"


def index_path(root: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """The path of a root's index: one file per root, replaced when it is out of date."""
    key = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:32]
    return pathlib.Path(cache_dir or default_index_dir()) / f"{key}.npz"


def find_files(
    root: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    *,
    least: int | None = None,
    walk: Callable[[str | os.PathLike], Found] = walk,
) -> Found:
    """The findings of `walk(root)`, from the index where that is still true.

    Args:
      root: a folder of domains.
      cache_dir: of the indices; default: `default_index_dir`.
      least: smallest number of files that is worth an index; default: LEAST.
      walk: finds the files.
    """
    path = index_path(root, cache_dir)
    found = load_index(path)
    if found is not None and is_current(found, root):
        return found
    found = walk(root)
    worth = len(found.names) >= (LEAST if least is None else least)
    if worth and is_settled(found):
        try:
            save_index(path, found)
        except OSError as error:  # a full disk costs the next start some seconds, not this run
            warnings.warn(f"no file index is kept: {path}: {error.strerror}.", stacklevel=2)
    return found


def is_current(found: Found, root: str | os.PathLike) -> bool:
    """Whether every directory is the one it was, unchanged."""
    root = os.path.abspath(root)
    try:
        return all(state(os.path.join(root, d)).is_same(s) for d, s in found.directories.items())
    except OSError:  # one is gone
        return False


def is_settled(found: Found) -> bool:
    """Whether a later change of any directory is sure to show in its time."""
    latest = max(state.changed for state in found.directories.values())
    return found.repeatable and latest < found.time - _SETTLED


def save_index(path: pathlib.Path, found: Found) -> None:
    """Writes an index; a reader sees the old one or this one, never a part."""
    header = {
        "format": FORMAT,
        "domains": found.domains,
        "folders": found.folders,
        "skipped": found.skipped,
        "directories": found.directories,
        "repeatable": found.repeatable,
        "time": found.time,
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "names": np.frombuffer(found.names.packed, np.uint8),
        "ends": found.names.ends,
        "folder": found.folder,
        "positions": found.positions,
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, shared=True) as scratch, scratch.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def load_index(path: pathlib.Path) -> Found | None:
    """Read what `save_index` wrote; None where there is nothing whole of this format."""
    try:
        data = path.read_bytes()
    except OSError:
        return None  # none yet, or not ours to read: the walk finds the same
    digest, content = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    header = json.loads(arrays["header"].tobytes())
    if header["format"] != FORMAT:
        return None
    return Found(
        tuple(header["domains"]),
        tuple(map(tuple, header["folders"])),
        arrays["folder"],
        Names(arrays["names"].tobytes(), arrays["ends"]),
        arrays["positions"],
        tuple(map(tuple, header["skipped"])),
        {path: State(*state) for path, state in header["directories"].items()},
        header["repeatable"],
        header["time"],
    )
