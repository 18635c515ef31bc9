"""Reads the images of a dataset: a hash of each, its size and format, and what is unreadable."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import Part
from clipjax.data.images.decode import scaling
from clipjax.data.images.depth import Scaling
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.workers import load_ahead
from clipjax.data.readers.files import Names
from clipjax.errors import DataError
from clipjax.inspect.stats import Rows
from clipjax.log import progress

_CHUNK = 32  # images a thread takes at a time: handing them over costs as much as hashing one


def content_hash(image: bytes | np.ndarray) -> bytes:
    """16 bytes that tell an encoded file, or an array, from every other one."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(image, np.ndarray):
        digest.update(f"{image.shape}{image.dtype}".encode())
        image = np.ascontiguousarray(image).tobytes()
    digest.update(image)
    return digest.digest()


def header(image: bytes | np.ndarray) -> tuple[int, int, str]:
    """Width, height and format ("JPEG", "PNG", ...; "array") of an image; nothing is decoded.

    A file that Pillow does not know, though another decoder may, is (0, 0, "unknown").
    """
    from PIL import Image

    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0], "array"
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return *picture.size, picture.format or "unknown"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0, "unknown"


class Reading(NamedTuple):
    """The findings of reading a dataset."""

    hashes: np.ndarray  # uint64 [N, 2], of the content
    hashed: np.ndarray  # bool [N], whether there is a hash
    tried: np.ndarray  # bool [N], where opening was tried
    decoded: np.ndarray  # bool [N], where decoding was tried: of what could be opened
    sizes: np.ndarray  # int32 [N, 2] width and height; 0 where they are not known
    formats: np.ndarray  # str [N]; "" where it is not known
    unreadable: dict[int, str]  # row -> why, of what could not be opened or not be decoded
    names: Names  # N of them; "" where nothing could be opened
    scaled: dict[int, Scaling]  # row -> how, of what was decoded and has more than 8 bits

    @property
    def unopened(self) -> np.ndarray:
        """Rows that could not even be opened, int64, ascending."""
        return np.array([r for r in sorted(self.unreadable) if not self.decoded[r]], np.int64)


def unreadable_images(rows: Rows, found: Reading) -> dict[Part, float]:
    """How many images of each part cannot be read; where a sample was decoded, an estimate.

    What could not be opened was mostly tried for every image, and then is exact; what can be opened
    but not decoded is taken to be as frequent in the rest of a part as among what was decoded
    there, and absent where nothing was.
    """
    counted = lambda flags: np.bincount(rows.part[flags], minlength=len(rows.parts))
    bad = np.zeros(len(rows), bool)
    bad[list(found.unreadable)] = True
    size, tried = np.bincount(rows.part, minlength=len(rows.parts)), counted(found.tried)
    unopened = size * counted(bad & ~found.decoded) / np.maximum(tried, 1)
    rate = counted(bad & found.decoded) / np.maximum(counted(found.decoded), 1)
    estimate = unopened + (size - unopened) * rate
    return dict(zip(rows.parts, estimate.tolist(), strict=True))


def read(
    rows: Rows,
    preprocess: Preprocess,
    *,
    decode: np.ndarray,
    hashing: bool = True,
    workers: int = 0,
    threads: int | None = None,
) -> Reading:
    """Reads images: a hash of the content of all of them, and what decoding some of them says.

    Args:
      rows: what to read.
      preprocess: decodes and crops as a run does.
      decode: bool [N], which are decoded.
      hashing: whether contents are hashed; otherwise only what is decoded is read.
      workers: processes that read; 0 reads in threads.
      threads: of each process; by default as many as cores, in all processes together.
    """
    decode = np.asarray(decode, bool)
    wanted = np.arange(len(rows)) if hashing else np.flatnonzero(decode)
    n, names = len(rows), _NamesSeen(len(rows))
    found = Reading(
        np.zeros((n, 2), np.uint64), np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool),
        np.zeros((n, 2), np.int32), np.zeros(n, "U12"), {}, names.packed(), {},
    )  # fmt: skip
    chunks = -(-len(wanted) // _CHUNK)
    if not chunks:
        return found
    reader = _Reader(rows, preprocess, wanted, decode, hashing)
    threads = threads or max(1, (os.cpu_count() or 2) // max(1, workers))
    loaded = load_ahead(reader, 0, chunks, workers=workers, threads=threads)
    with progress(total=len(wanted), what="read images", unit="image") as bar:
        for looks in loaded:
            for look in looks:
                _note(found, look, bool(decode[look.row]))
                names.add(look.row, look.name)
            bar.update(len(looks))
    return found._replace(names=names.packed())


class _NamesSeen:
    """Names of rows, given in their order; 600,000 strings would take a hundred megabytes."""

    def __init__(self, rows: int):
        self._packed, self._ends = bytearray(), np.zeros(rows + 1, np.int64)

    def add(self, row: int, name: str) -> None:
        self._packed += os.fsencode(name)
        self._ends[row + 1] = len(self._packed)

    def packed(self) -> Names:
        return Names(bytes(self._packed), np.maximum.accumulate(self._ends))


class _Look(NamedTuple):
    """The findings on one image."""

    row: int
    name: str = ""
    digest: bytes = b""
    header: tuple[int, int, str] = (0, 0, "")
    reason: str = ""
    opened: bool = True
    scaled: Scaling | None = None


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Chunk number -> looks at its images. A class, so that worker processes can unpickle it."""

    rows: Rows
    preprocess: Preprocess
    wanted: np.ndarray
    decode: np.ndarray
    hashing: bool

    def __call__(self, chunk: int) -> list[_Look]:
        wanted = self.wanted[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        return [self._look(int(row)) for row in wanted]

    def _look(self, row: int) -> _Look:
        try:
            example = self.rows[row]
        except DataError as error:
            return _Look(row, reason=str(error), opened=False)
        digest = content_hash(example.image) if self.hashing else b""
        if not self.decode[row]:
            return _Look(row, example.name, digest)
        try:
            self.preprocess.crop(example.image, example.name)
        except DataError as error:
            return _Look(row, example.name, digest, reason=str(error))
        found = _Look(row, example.name, digest, header(example.image))
        return found._replace(scaled=scaling(example.image))


def _note(found: Reading, look: _Look, decode: bool) -> None:
    if look.digest:
        found.hashes[look.row] = np.frombuffer(look.digest, np.uint64)
        found.hashed[look.row] = True
    if look.reason:
        found.unreadable[look.row] = look.reason
    if look.scaled:
        found.scaled[look.row] = look.scaled
    found.tried[look.row] = True
    found.decoded[look.row] = decode and look.opened
    found.sizes[look.row] = look.header[:2]
    found.formats[look.row] = look.header[2]
