"""Images inside zip archives, read in place."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from clipjax.data.dataset import shown
from clipjax.data.readers.archive_names import directory, match
from clipjax.data.readers.files import Names, check_size
from clipjax.errors import ChangedError, DataError, UnreachableError

_LOCAL = 30  # bytes of a member's own header, before its name
_SIGNATURE = b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclasses.dataclass(frozen=True)
class Members:
    """Members of one zip archive: where each begins, and how long it is.

    The archive's directory is read once; after that a member is read by itself, with a file handle
    of its own, so threads and worker processes share nothing.
    """

    archive: str  # absolute path
    stamp: tuple[int, int]  # size and time of change (ns) of the archive
    names: Names
    offsets: np.ndarray  # int64 [N]
    packed: np.ndarray  # int64 [N], bytes in the archive
    sizes: np.ndarray  # int64 [N], bytes of the image
    checks: np.ndarray  # uint32 [N], CRC-32 of the image
    methods: np.ndarray  # int32 [N], of compression

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Archive and member as the list calls it, for messages."""
        return f"{self.archive}/{self.names[index]}"

    def read(self, index: int) -> bytes:
        """A member's content, its checksum verified."""
        check_size(self.path(index), max(self.sizes[index], self.packed[index]))
        try:
            data = self._unpack(index)
        except OSError as error:
            raise UnreachableError(f"{self.path(index)} cannot be read ({error}).") from None
        except (zlib.error, struct.error) as error:
            raise DataError(f"{self.path(index)} cannot be read ({error}).") from None
        if len(data) != self.sizes[index] or zlib.crc32(data) != self.checks[index]:
            raise DataError(
                f"{self.path(index)} is damaged; download {os.path.basename(self.archive)} again."
            )
        return data

    def _unpack(self, index: int) -> bytes:
        with open(self.archive, "rb") as file:
            found = os.fstat(file.fileno())
            if (found.st_size, found.st_mtime_ns) != self.stamp:
                raise ChangedError(f"{self.archive} changed while it was in use; start again.")
            file.seek(self.offsets[index])
            header = file.read(_LOCAL)
            name, extra = struct.unpack("<HH", header[26:_LOCAL])
            if header[:4] != _SIGNATURE:
                return b""
            file.seek(name + extra, os.SEEK_CUR)
            data = file.read(self.packed[index])
        if self.methods[index] == zipfile.ZIP_STORED:
            return data
        # One byte more than promised, so that a longer member is noticed without unpacking it all.
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, int(self.sizes[index]) + 1)

    def take(self, rows: np.ndarray) -> Members:
        """The members at these indices."""
        columns = (self.offsets, self.packed, self.sizes, self.checks, self.methods)
        return Members(
            self.archive, self.stamp, self.names.take(rows), *(values[rows] for values in columns)
        )

    def fingerprint(self) -> str:
        """Hash of the archive's path, size and time, and of every member's name and checksum."""
        digest = hashlib.sha256(f"{self.archive}|{self.stamp}|".encode("utf-8", "surrogateescape"))
        digest.update(self.names.packed)
        for values in (self.names.ends, self.sizes, self.checks):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def open_archive(
    path: str | os.PathLike, wanted: Sequence[Sequence[str]]
) -> list[tuple[Members, np.ndarray]]:
    """Reads a zip's directory, once for several lists of its members.

    Nothing is unpacked to disk, so no name of a member leads anywhere.

    Args:
      path: the archive.
      wanted: names of members, list by list; `archive_names.match` says how members may differ.

    Returns:
      For each list the members that are there, and bool [N]: which they are.

    Raises:
      DataError: no zip, an incomplete one, one that holds none of the members, or members that are
        encrypted or packed in another way than by deflate.
      UnreachableError: it cannot be read now.
    """
    infos, state = directory(path)
    stamp = (state.st_size, state.st_mtime_ns)
    found = {info.filename: info for info in infos}
    if not all(name in found for names in wanted for name in names):
        found = match(path, infos, (name for names in wanted for name in names))
    return [_choose(path, stamp, found, names) for names in wanted]


def _choose(
    path: str | os.PathLike,
    stamp: tuple[int, int],
    infos: dict[str, zipfile.ZipInfo],
    names: Sequence[str],
) -> tuple[Members, np.ndarray]:
    """The members of a list, called as the list calls them."""
    there = np.array([name in infos for name in names], bool)
    members = [infos[name] for name in names if name in infos]
    for info in members:
        if info.flag_bits & 1 or info.compress_type not in _METHODS:
            fault = "encrypted" if info.flag_bits & 1 else "in a compression other than deflate"
            raise DataError(
                f"{shown(path)} holds {shown(info.filename)} {fault}; unpack it, or pack it again."
            )
    column = lambda key, kind: np.array([getattr(m, key) for m in members], kind)
    found = Members(
        os.path.abspath(path),
        stamp,
        Names.pack(name for name in names if name in infos),
        column("header_offset", np.int64),
        column("compress_size", np.int64),
        column("file_size", np.int64),
        column("CRC", np.uint32),
        column("compress_type", np.int32),
    )
    return found, there
