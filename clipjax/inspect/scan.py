"""Reads the images of a dataset: a hash, size and format of each, and which are unreadable."""

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
from clipjax.log.bars import Bar

_CHUNK = 32  # images a thread takes at a time: handing them over costs as much as hashing one


def content_hash(image: bytes | np.ndarray) -> bytes:
    """Hash an encoded file, or an array with its shape and dtype, to 16 bytes."""
    kind = b""
    if isinstance(image, np.ndarray):
        kind, image = f"{image.shape}{image.dtype}".encode(), np.ascontiguousarray(image).tobytes()
    return hashlib.blake2b(kind + image, digest_size=16).digest()


def header(image: bytes | np.ndarray) -> tuple[int, int, str]:
    """Return width, height and format ("JPEG", "array", "unknown"), without decoding an image."""
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
    sizes: np.ndarray  # int32 [N, 2] width and height; 0 where unknown
    formats: np.ndarray  # str [N]; "" where unknown
    unreadable: dict[int, str]  # row -> why it could not be opened or decoded
    names: Names  # N of them; "" where nothing could be opened
    scaled: dict[int, Scaling]  # row -> how, of what was decoded and has more than 8 bits

    @property
    def unopened(self) -> np.ndarray:
        """Rows that could not even be opened, int64, ascending."""
        return np.array([r for r in sorted(self.unreadable) if not self.decoded[r]], np.int64)


def unreadable_images(rows: Rows, found: Reading) -> dict[Part, float]:
    """Estimate how many images of each part cannot be read, by the rates among those tried."""
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
    """Hash all images if `hashing`, and decode some of them (`decode`, bool [N]) as a run does."""
    decode = np.asarray(decode, bool)
    wanted = np.arange(len(rows)) if hashing else np.flatnonzero(decode)
    n, packed, ends = len(rows), bytearray(), np.zeros(len(rows) + 1, np.int64)
    found = Reading(
        np.zeros((n, 2), np.uint64), np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool),
        np.zeros((n, 2), np.int32), np.zeros(n, "U12"), {}, Names(b"", ends), {},
    )  # fmt: skip
    chunks = [wanted[i : i + _CHUNK] for i in range(0, len(wanted), _CHUNK)]
    if not chunks:
        return found
    load = lambda chunk: [_look(rows, preprocess, decode, hashing, i) for i in chunk.tolist()]
    options = {"workers": workers, "threads": threads, "prepare": chunks.__getitem__}
    with Bar(len(wanted), "read images", "image", say=print) as bar:
        for looks in load_ahead(load, 0, len(chunks), **options):
            for look in looks:
                row = look.row
                found.hashes[row] = np.frombuffer(look.digest or bytes(16), np.uint64)
                found.hashed[row] = bool(look.digest)
                if look.reason:
                    found.unreadable[row] = look.reason
                if look.scaled:
                    found.scaled[row] = look.scaled
                found.tried[row] = True
                found.decoded[row] = decode[row] and look.opened
                found.sizes[row], found.formats[row] = look.header[:2], look.header[2]
                # Packed, because 600,000 strings take a hundred megabytes; rows ascend.
                packed += os.fsencode(look.name)
                ends[row + 1] = len(packed)
            bar.update(len(looks))
    return found._replace(names=Names(bytes(packed), np.maximum.accumulate(ends)))


class _Look(NamedTuple):
    """The findings on one image."""

    row: int
    name: str = ""
    digest: bytes = b""
    header: tuple[int, int, str] = (0, 0, "")
    reason: str = ""
    opened: bool = True
    scaled: Scaling | None = None


def _look(rows: Rows, preprocess: Preprocess, decode: np.ndarray, hashing: bool, row: int) -> _Look:
    try:
        example = rows[row]
    except DataError as error:
        return _Look(row, reason=str(error), opened=False)
    image, digest = example.image, content_hash(example.image) if hashing else b""
    if not decode[row]:
        return _Look(row, example.name, digest)
    try:
        preprocess.crop(image, example.name)
    except DataError as error:
        return _Look(row, example.name, digest, reason=str(error))
    return _Look(row, example.name, digest, header(image), scaled=scaling(image))
