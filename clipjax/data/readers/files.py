"""Many image files in a few arrays, and the source that reads them.

600,000 paths as Python objects would take some 200 MB and be slow to send to worker processes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from clipjax.data.dataset import Example, shown
from clipjax.errors import ChangedError, DataError, UnreachableError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
# Pictures too, but `clipjax.data.images.decode` reads none.
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".tga", ".ico", ".eps", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".dcm"),
)
NOT_A_FILE = -(2**31)  # in place of a size; other negative sizes are error numbers
MAX_BYTES = 1 << 30  # of one encoded image: what is larger is none, and would fill the memory
_CHUNK = 4096  # files a thread looks at in one go


def is_image_name(name: str) -> bool:
    """Whether the extension, in whatever case, is one of an image that can be read."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_picture_name(name: str) -> bool:
    """Whether the extension, in whatever case, is one of an image, to be read or not."""
    return name.lower().endswith(IMAGE_SUFFIXES + UNREAD_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Names:
    """A list of strings, packed.

    >>> names = Names.pack(["a.png", "b.png", "ä.png"])
    >>> len(names), names[2], list(names.take(np.array([1])))
    (3, 'ä.png', ['b.png'])
    """

    packed: bytes  # one after the other, as the file system spells them
    ends: np.ndarray  # int64 [N + 1]; the first is 0

    @classmethod
    def pack(cls, names: Iterable[str]) -> Names:
        """Any strings, lone surrogates of undecodable file names included."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(b"".join(encoded), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.fsdecode(self.packed[self.ends[index] : self.ends[index + 1]])

    def take(self, rows: np.ndarray) -> Names:
        """The names at these indices."""
        packed, ends = self.packed, self.ends.tolist()
        parts = [packed[ends[i] : ends[i + 1]] for i in rows.tolist()]
        return Names(b"".join(parts), np.cumsum([0, *map(len, parts)], dtype=np.int64))


class Store(Protocol):
    """The images behind a `FileSource`: `Files`, or the members of an archive. Picklable."""

    sizes: np.ndarray  # int64 [N], bytes; below 1 where there is nothing to read

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """The path of an image, for messages."""
        ...

    def read(self, index: int) -> bytes:
        """The encoded image.

        Raises:
          UnreachableError: it cannot be read now.
          ChangedError: it is no longer what `fingerprint` speaks of.
          DataError: there is no image to be read.
        """
        ...

    def take(self, rows: np.ndarray) -> Store: ...

    def fingerprint(self) -> str:
        """Changes when a file is added, removed, moved or written."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """Files below one folder, with the sizes and times they had when `look` was called."""

    root: str  # absolute
    folders: tuple[str, ...]  # relative to root
    folder: np.ndarray  # int32 [N], into folders
    names: Names
    sizes: np.ndarray  # int64 [N], bytes; negative: see `problem`
    mtimes: np.ndarray  # int64 [N], nanoseconds

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """The path of a file."""
        return os.path.join(self.root, self.folders[self.folder[index]], self.names[index])

    def read(self, index: int) -> bytes:
        """A file's content."""
        path = self.path(index)
        try:
            with open(path, "rb") as file:
                self._check(index, os.fstat(file.fileno()))
                return file.read()
        except OSError as error:
            raise UnreachableError(
                f"{shown(path)} cannot be read ({error.strerror}); restore it."
            ) from None

    def _check(self, index: int, found: os.stat_result) -> None:
        """Whether an opened file is the one that was looked at, and of a size to be read."""
        path = shown(self.path(index))
        if (found.st_size, found.st_mtime_ns) != (self.sizes[index], self.mtimes[index]):
            raise ChangedError(f"{path} changed while it was in use; start again.")
        check_size(path, found.st_size)

    def take(self, rows: np.ndarray) -> Files:
        """The files at these indices, and the folders that they are in."""
        used, folder = np.unique(self.folder[rows], return_inverse=True)
        return Files(
            self.root,
            tuple(self.folders[i] for i in used),
            folder.astype(np.int32),
            self.names.take(rows),
            self.sizes[rows],
            self.mtimes[rows],
        )

    def fingerprint(self) -> str:
        """Hash of path, size and time of change; reading all bytes would cost as much as encoding.

        What rewrites a file, keeps its size and sets its time back goes unnoticed.
        """
        digest = hashlib.sha256(os.fsencode("\n".join((self.root, *self.folders))))
        digest.update(self.names.packed)
        for values in (self.names.ends, self.folder, self.sizes, self.mtimes):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def look(
    root: str | os.PathLike,
    folders: Sequence[str],
    folder: np.ndarray,
    names: Names,
    *,
    threads: int = 4,
) -> Files:
    """Files with their present sizes and times; links are followed.

    Args:
      root: made absolute.
      folders: relative to root.
      folder: int32 [N], the folder of each file.
      names: [N].
      threads: that ask; they help where a file system answers late.
    """
    root = os.path.abspath(root)
    starts = [os.path.join(root, f, "") for f in folders]
    numbers = folder.tolist()

    def ask(first: int) -> list[tuple[int, int]]:
        rows = range(first, min(first + _CHUNK, len(names)))
        return [_size_and_time(starts[numbers[i]] + names[i]) for i in rows]

    chunks = range(0, len(names), _CHUNK)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        found = [np.array(pairs, np.int64).reshape(-1, 2) for pairs in pool.map(ask, chunks)]
    table = np.concatenate([np.zeros((0, 2), np.int64), *found])
    sizes, mtimes = np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
    return Files(root, tuple(folders), folder, names, sizes, mtimes)


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        return -(error.errno or 1), 0
    except ValueError:  # a zero byte in the name, from a list that is none
        return NOT_A_FILE, 0
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (NOT_A_FILE, 0)


def check_size(name: str, size: int) -> None:
    """Raises DataError for a file too large to be an image.

    >>> check_size("x.png", 1 << 40)
    Traceback (most recent call last):
    clipjax.errors.DataError: x.png has 1,099,511,627,776 bytes, too many for an image; remove it.
    """
    if size > MAX_BYTES:
        raise DataError(f"{name} has {size:,} bytes, too many for an image; remove it.")


def problem(size: int) -> str:
    """Why a file of this size is not read; "" if it is.

    >>> problem(0), problem(-2), problem(9)
    ('empty, 0 bytes', 'No such file or directory', '')
    """
    if size > 0:
        return ""
    if size == 0:
        return "empty, 0 bytes"
    return "not a regular file" if size == NOT_A_FILE else os.strerror(-size)


class FileSource:
    """Images in files or in an archive, read when asked for. See `clipjax.data.dataset.Source`."""

    def __init__(
        self, files: Store, labels: np.ndarray, *, classes: tuple[str, ...], domain: str, split: str
    ):
        self.files, self.labels = files, np.asarray(labels, np.int32)
        self.classes, self.domain, self.split = classes, domain, split
        self._repr = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        """The encoded image; raises DataError where the file cannot be read any more."""
        index = range(len(self))[index]
        name = shown(self.files.path(index))
        return Example(self.files.read(index), int(self.labels[index]), name)

    def __repr__(self) -> str:
        """Sizes and times are those of when the dataset was opened."""
        if not self._repr:
            digest = hashlib.sha256(self.files.fingerprint().encode())
            digest.update("\n".join(self.classes).encode("utf-8", "surrogateescape"))
            digest.update(self.labels.tobytes())
            place = f"{self.domain}/{self.split}"
            self._repr = f"Files({place}, n={len(self)}, {digest.hexdigest()[:16]})"
        return self._repr
