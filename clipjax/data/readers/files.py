"""Image files in a few arrays, as many paths are large and slow to send, and a source over them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from clipjax.data.dataset import Example, Skipped, Source, digest
from clipjax.errors import ChangedError, DataError, UnreachableError
from clipjax.io.texts import shown

IMAGE_SUFFIXES = tuple(
    ".jpg .jpeg .jpe .jif .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .jp2 .j2k "
    ".jpx .jpf .jpc .j2c .ppm .pgm .pbm .pnm .pfm".split()
)
# Also pictures, which `clipjax.data.images.decode` does not read.
UNREAD_SUFFIXES = tuple(
    ".heic .heif .hif .jxl .svg .psd .tga .ico .eps .exr .hdr .dng .cr2 .cr3 .nef .arw .dcm".split()
)
NOT_A_FILE = -(2**31)  # in place of a size; other negative sizes are error numbers
MAX_BYTES = 1 << 30  # of one encoded image; a larger file is not one, and would fill the memory
_CHUNK = 4096  # files that a thread looks at in one go


def is_image_name(name: str) -> bool:
    """Return whether the extension is one of an image that can be read."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_picture_name(name: str) -> bool:
    """Return whether the extension is one of an image, readable or not."""
    return name.lower().endswith(IMAGE_SUFFIXES + UNREAD_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Names:
    """A packed list of strings.

    >>> names = Names.pack(["a.png", "b.png", "ä.png"])
    >>> len(names), names[2], list(names.take(np.array([1])))
    (3, 'ä.png', ['b.png'])
    """

    packed: bytes  # one after the other, as the file system spells them
    ends: np.ndarray  # int64 [N + 1]; the first is 0

    @classmethod
    def pack(cls, names: Iterable[str]) -> Names:
        """Pack any strings, including lone surrogates of undecodable file names."""
        return cls._join([os.fsencode(name) for name in names])

    @classmethod
    def _join(cls, parts: Sequence[bytes]) -> Names:
        return cls(b"".join(parts), np.cumsum([0, *map(len, parts)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.fsdecode(self.packed[self.ends[index] : self.ends[index + 1]])

    def take(self, rows: np.ndarray) -> Names:
        """Return the names at these indices."""
        packed, ends = self.packed, self.ends.tolist()
        return self._join([packed[ends[i] : ends[i + 1]] for i in rows.tolist()])

    def fingerprint(self, place: bytes, *columns: np.ndarray) -> str:
        """Hash a place, the names in it, and columns of what is known of them."""
        found = hashlib.sha256(place + self.packed)
        for values in (self.ends, *columns):
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


class Store(Protocol):
    """The images behind a `FileSource`: `Files`, or the members of an archive. Picklable."""

    sizes: np.ndarray  # int64 [N], bytes; below 1 where there is nothing to read

    def path(self, index: int) -> str: ...  # for messages

    def read(self, index: int) -> bytes: ...  # UnreachableError, ChangedError, DataError

    def take(self, rows: np.ndarray) -> Store: ...

    def fingerprint(self) -> str: ...  # of all names, sizes and times


@dataclasses.dataclass(frozen=True)
class Files:
    """Files below one folder, with the sizes and times they had when `look` was called."""

    root: str  # absolute
    folders: tuple[str, ...]  # relative to root
    folder: np.ndarray  # int32 [N], into folders
    names: Names
    sizes: np.ndarray  # int64 [N], bytes; negative: NOT_A_FILE, or an error's number
    mtimes: np.ndarray  # int64 [N], nanoseconds

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.root, self.folders[self.folder[index]], self.names[index])

    def read(self, index: int) -> bytes:
        path = self.path(index)
        with reachable(path), open(path, "rb") as file:
            check_unchanged(path, os.fstat(file.fileno()), self.sizes[index], self.mtimes[index])
            check_size(shown(path), self.sizes[index])
            return file.read()

    def take(self, rows: np.ndarray) -> Files:
        used, folder = np.unique(self.folder[rows], return_inverse=True)
        folders = tuple(self.folders[i] for i in used)
        kept = self.names.take(rows), self.sizes[rows], self.mtimes[rows]
        return Files(self.root, folders, folder.astype(np.int32), *kept)

    def __add__(self, other: Files) -> Files:
        """Return these files, and after them others of the same root."""
        folders = (*self.folders, *other.folders)
        number = np.concatenate([self.folder, other.folder + np.int32(len(self.folders))])
        both = ([getattr(x, key) for x in (self, other)] for key in ("sizes", "mtimes"))
        names = Names.pack([*self.names, *other.names])
        return Files(self.root, folders, number, names, *map(np.concatenate, both))

    def fingerprint(self) -> str:
        """Hash paths, sizes and times; reading all bytes would cost as much as encoding."""
        place = os.fsencode("\n".join((self.root, *self.folders)))
        return self.names.fingerprint(place, self.folder, self.sizes, self.mtimes)


def look(
    root: str | os.PathLike,
    folders: Sequence[str],
    folder: np.ndarray,  # int32 [N], of each file
    names: Names,  # [N]
    *,
    threads: int = 4,
) -> Files:
    """Ask for the present sizes and times of files in `folders` of a root; links are followed."""
    root = os.path.abspath(root)
    starts = [os.path.join(root, f, "") for f in folders]
    numbers = folder.tolist()

    def ask(first: int) -> list[tuple[int, int]]:
        rows = range(first, min(first + _CHUNK, len(names)))
        return [_size_and_time(starts[numbers[i]] + names[i]) for i in rows]

    chunks = range(0, len(names), _CHUNK)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        found = [np.array(pairs, np.int64).reshape(-1, 2) for pairs in pool.map(ask, chunks)]
    sizes, mtimes = np.concatenate([np.zeros((0, 2), np.int64), *found]).T.copy()
    return Files(root, tuple(folders), folder, names, sizes, mtimes)


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        return -(error.errno or 1), 0
    except ValueError:  # a zero byte in the name, from a damaged list
        return NOT_A_FILE, 0
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (NOT_A_FILE, 0)


@contextlib.contextmanager
def reachable(path: str | os.PathLike, how: str = "read") -> Iterator[None]:
    """Turn errors of the file system into an UnreachableError that names the file or folder."""
    try:
        yield
    except OSError as error:
        fault = f"cannot be {how} ({error.strerror or error})"
        raise UnreachableError(f"{shown(path)} {fault}; restore it or its permissions.") from None


@contextlib.contextmanager
def explained(what: str, remedy: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of a library that reads `what` into an UnreachableError or a DataError."""
    try:
        yield
    except (OSError, ValueError, LookupError, *kinds) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        if isinstance(error, OSError) and error.errno:  # pyarrow's own, of damage, have no number
            raise UnreachableError(f"{what} cannot be read now ({reason}); restore it.") from None
        raise DataError(f"{what} is damaged ({reason}); {remedy}.") from None


def glimpse(folder: str | os.PathLike) -> list[str]:
    """List 100 entries of a folder, to see what it holds."""
    with reachable(folder, "listed"), os.scandir(folder) as entries:
        return [entry.name for entry in itertools.islice(entries, 100)]


def subfolders(folder: str | os.PathLike) -> list[pathlib.Path]:
    """List the folders in a folder, sorted, hidden ones aside; quick beside millions of images."""
    is_folder = lambda e: not e.name.startswith(".") and not is_picture_name(e.name) and e.is_dir()
    with reachable(folder, "listed"), os.scandir(folder) as entries:
        return sorted(pathlib.Path(entry.path) for entry in filter(is_folder, entries))


def check_unchanged(
    path: str | os.PathLike, found: os.stat_result, size: int, changed: int
) -> None:
    """Raise ChangedError if a file has no longer this size (bytes) and time of change (ns)."""
    if (found.st_size, found.st_mtime_ns) != (size, changed):
        raise ChangedError(f"{shown(path)} changed while it was in use; start again.")


def check_size(name: str, size: int) -> None:
    """Raise DataError for a file too large to be an image."""
    if size > MAX_BYTES:
        raise DataError(f"{name} has {size:,} bytes, too many for an image; remove it.")


def unusable(images: Store) -> list[Skipped]:
    """List the images with nothing to read, and why."""
    reasons = {0: "empty, 0 bytes", NOT_A_FILE: "not a regular file"}
    why = lambda size: reasons.get(size) or os.strerror(-size)
    rows = np.flatnonzero(images.sizes <= 0)
    return [Skipped(shown(images.path(i)), why(int(images.sizes[i]))) for i in rows]


@dataclasses.dataclass(repr=False, eq=False)
class RowSource(Source):
    """Rows of `Records` or an `ImageColumn`, read when asked for."""

    store: Any
    rows: np.ndarray  # int64 [N], in the store
    labels: np.ndarray  # int32 [N]
    classes: tuple[str, ...]
    domain: str
    split: str

    def __getitem__(self, index: int) -> Example:
        image, name = self.store.read(int(self.rows[index]))
        return Example(image, int(self.labels[index]), name)

    def name_of(self, index: int) -> str:
        return self.store.name(int(self.rows[index]))

    @functools.cached_property
    def _digest(self) -> str:
        # Of names, sizes and times of files: hashing their content would read every image.
        text = "\n".join(self.store.described(self.classes))
        return digest([text, self.rows.tobytes(), self.labels.tobytes()])

    def __repr__(self) -> str:
        return f"{self.store.kind}{self.domain}/{self.split}, n={len(self)}, {self._digest})"


@dataclasses.dataclass(repr=False, eq=False)
class FileSource(Source):
    """Images in files or in an archive, read when asked for."""

    files: Store
    labels: np.ndarray  # int32 [N]
    classes: tuple[str, ...]
    domain: str
    split: str
    groups: np.ndarray | None = None  # int32 [N], below 0 for none
    group_names: tuple[str, ...] = ()

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        return Example(self.files.read(index), int(self.labels[index]), self.name_of(index))

    def name_of(self, index: int) -> str:
        return shown(self.files.path(index))

    @functools.cached_property
    def _digest(self) -> str:
        return digest([self.files.fingerprint(), "\n".join(self.classes), self.labels.tobytes()])

    def __repr__(self) -> str:
        return f"Files({self.domain}/{self.split}, n={len(self)}, {self._digest})"
