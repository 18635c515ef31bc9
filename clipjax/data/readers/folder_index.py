"""Finds the images below a root of domains, and keeps the list until a directory changes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import itertools
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from clipjax.data.readers.files import Names, is_image_name, is_picture_name, reachable
from clipjax.data.splits import SPLITS, WHOLE, file_key, positions, split_of
from clipjax.errors import DataError
from clipjax.io import default_cache_dir, replaced
from clipjax.io.texts import shown

FORMAT = 4  # raise when what is stored, or what a walk looks for, changes
LEAST = 5000  # fewer files are found again as fast as they are read
_DIGEST = 32  # bytes of SHA-256, in front of an index
_SETTLED = 2_000_000_000  # ns; a file system may stamp changes of so long with the same time
_HEADER = ("domains", "folders", "skipped", "directories", "repeatable", "time")
# Ignored, as hidden files are.
_SYSTEM = ("thumbs.db", "desktop.ini", "__macosx", "lost+found", "@eadir", "#recycle")
_SYSTEM += ("$recycle.bin", "system volume information")
_UNLABELLED = ("unlabeled", "unlabelled")


class State(NamedTuple):
    """The times and identity of a directory; the times change once entries come or go."""

    changed: int  # ns
    status_changed: int  # ns; unlike `changed`, nothing sets it back
    inode: int
    device: int  # the same folder may have another one in the next container


class Found(NamedTuple):
    """The findings of a walk, which do not depend on the content of the files."""

    domains: tuple[str, ...]
    # (domain, split, class), as the folders are called; split "" where none is given, class "" of
    # images that lie in no folder of a class
    folders: tuple[tuple[str, str, str], ...]
    folder: np.ndarray  # int32 [N], of each image
    names: Names  # [N]
    positions: np.ndarray  # float64 [N], for splits by hash
    skipped: tuple[tuple[str, str], ...]  # (path, reason)
    directories: dict[str, State]  # path relative to root -> its `state`
    repeatable: bool  # whether unchanged directories mean unchanged findings
    time: int  # ns, when the walk began


class _Listing(NamedTuple):
    """One directory; names are sorted."""

    folders: list[str]
    files: list[str]
    broken: list[str]  # links to nothing


def is_unlabelled(folder: str) -> bool:
    """Return whether a folder in the place of a class holds images without labels.

    >>> [is_unlabelled(name) for name in ("", "Unlabeled", "unlabelled", "cat")]
    [True, True, True, False]
    """
    return not folder or folder.lower() in _UNLABELLED


def state(path: str) -> State:
    """Ask for the present state of a directory."""
    found = os.stat(path)
    return State(found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


class _Walk:
    """Collects findings; every method reads one level."""

    def __init__(self, root: str):
        self.root = root
        self.directories: dict[str, State] = {}
        self.skipped: list[tuple[str, str]] = []
        self.repeatable = True

    def list(self, *parts: str) -> _Listing:
        """List a directory, links followed, without hidden and system files; note its state."""
        relative = os.path.join("", *filter(None, parts))
        path, found = os.path.join(self.root, relative), _Listing([], [], [])
        with reachable(path, "listed"):
            self.directories[relative] = state(path)  # before its entries: a change is noticed
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
                        continue
                    if entry.is_symlink() and not os.path.exists(entry.path):  # or a circle
                        found.broken.append(entry.name)
                    else:
                        (found.folders if entry.is_dir() else found.files).append(entry.name)
        return found

    def enter(self, *parts: str) -> _Listing:
        """List a directory above classes, and note links that are lost there."""
        found = self.list(*parts)
        for name in found.broken:
            self.repeatable = False  # its target may appear
            self.skip("a link to nothing", *parts, name)
        return found._replace(folders=[f for f in found.folders if not self.loops(*parts, f)])

    def loops(self, *parts: str) -> bool:
        """Return whether a directory is a link to one above it, and note it."""
        path = os.path.join(self.root, *parts)
        above = (self.directories[os.path.join("", *parts[:i])] for i in range(len(parts)))
        found = os.path.islink(path) and state(path)[2:] in {place[2:] for place in above}
        if found:
            self.skip("a link back to a folder above it", *parts)
        return found

    def skip(self, reason: str, *parts: str) -> None:
        """Note what is not read."""
        self.skipped.append((shown(os.path.join(self.root, *parts)), shown(reason)))

    def inside(self, found: _Listing, *parts: str) -> Iterator[str]:
        """Return the class folders of a directory, or "" for its own images if it has none."""
        pictures = list(filter(is_picture_name, found.files))
        yield from found.folders or [""] * bool(pictures)
        for name in pictures if found.folders else ():
            self.skip("outside of any class folder", *parts, name)

    def classes(self, domain: str) -> Iterator[tuple[str, str, str]]:
        """Find the class folders of a domain, with the folders of splits that they lie in.

        Folders called `unlabeled` count as such, and a folder of plain images is one of class "".
        """
        top = self.enter(domain)
        loose = list(filter(is_unlabelled, top.folders))
        given = {name: split for name in top.folders if (split := split_of(name))}
        # A folder `train` that holds images is a class (DomainNet has that one), not a split.
        inside = [self.list(domain, name) for name in given]
        parted = any(f.folders and not any(map(is_image_name, f.files)) for f in inside)
        if not given or (not parted and set(given) < set(top.folders).difference(loose)):
            yield from ((domain, WHOLE, name) for name in self.inside(top, domain))
            return
        for split in SPLITS:
            if len(same := [name for name in given if given[name] == split]) > 1:
                both = f"both {same[0]} and {same[1]}, two folders for {split}"
                place = shown(os.path.join(self.root, domain))
                raise DataError(f"{place} holds {both}; put their images into one.")
        for name in filter(is_picture_name, top.files):
            self.skip("outside of any class folder", domain, name)
        for name in (name for name in top.folders if name not in [*given, *loose]):
            self.skip(f"beside the split folders {', '.join(given)}", domain, name)
        for part in sorted(given, key=lambda name: SPLITS.index(given[name])):
            found = self.enter(domain, part)
            yield from ((domain, part, name) for name in self.inside(found, domain, part))
        yield from ((domain, WHOLE, name) for name in loose)

    def images(self, folder: tuple[str, str, str], found: _Listing) -> list[str]:
        """Return the images of a class folder, and note all else; `enter` has its broken links."""
        place = os.path.join(*filter(None, folder))
        for name in found.folders:
            self.skip("a folder inside a class folder", place, name)
        broken = found.broken if folder[2] else []  # `look` finds out about these
        files = sorted(found.files + broken)
        for name in itertools.filterfalse(is_image_name, files):
            unread = is_picture_name(name)
            why = "images of this kind are not read" if unread else "not an image by its name"
            self.skip(f"{why} ({os.path.splitext(name)[1] or 'no extension'})", place, name)
        return list(filter(is_image_name, files))


def walk(root: str | os.PathLike, *, threads: int = 4) -> Found:
    """Find every image below a folder of domains; threads help where a file system is slow."""
    began, at = time.time_ns(), _Walk(os.path.abspath(root))
    top = at.enter()
    domains = tuple(top.folders)
    for name in filter(is_picture_name, top.files):
        at.skip("outside of any class folder", name)
    folders = tuple(f for domain in domains for f in at.classes(domain))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        listings = pool.map(lambda f: at.list(*f), folders)
        images = [at.images(folder, found) for folder, found in zip(folders, listings, strict=True)]
    keys = (file_key(f[2], n) for f, names in zip(folders, images, strict=True) for n in names)
    return Found(
        domains,
        folders,
        np.repeat(np.arange(len(folders), dtype=np.int32), [len(names) for names in images]),
        Names.pack(name for names in images for name in names),
        positions(keys),
        tuple(at.skipped),
        at.directories,
        at.repeatable,
        began,
    )


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
    """Return `walk(root)`, from the index (of at least `least` files) if no directory changed."""
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
    """Write an index atomically."""
    header = {"format": FORMAT} | {name: getattr(found, name) for name in _HEADER}
    arrays = {name: getattr(found, name) for name in ("folder", "positions")}
    texts = {"header": json.dumps(header).encode(), "names": found.names.packed}
    arrays |= {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
    content = io.BytesIO()
    np.savez(content, ends=found.names.ends, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, shared=True) as scratch:
        scratch.write_bytes(hashlib.sha256(content.getbuffer()).digest() + content.getbuffer())


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
