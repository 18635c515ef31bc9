"""Images inside zip archives, read in place."""

from __future__ import annotations

import dataclasses
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from clipjax.data.readers.archive_names import directory, match
from clipjax.data.readers.files import Names, check_size, check_unchanged
from clipjax.errors import DataError, UnreachableError
from clipjax.io.texts import shown

_HEADER = 30  # bytes of a member's own header, before its name
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PLACES = ("header_offset", "compress_size", "file_size")
_INFO = np.dtype([*((name, "i8") for name in _PLACES), ("CRC", "u4"), ("compress_type", "i4")])


@dataclasses.dataclass(frozen=True)
class Members:
    """Members of one zip archive; every read opens it anew, so threads share nothing."""

    archive: str  # absolute path
    stamp: tuple[int, int]  # size and time of change (ns) of the archive
    names: Names
    infos: np.ndarray  # _INFO [N], fields of ZipInfo

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        return self.infos["file_size"]

    def path(self, index: int) -> str:
        return f"{self.archive}/{self.names[index]}"

    def read(self, index: int) -> bytes:
        path, info = self.path(index), self.infos[index]
        check_size(path, max(info["file_size"], info["compress_size"]))
        try:
            data = self._unpack(info)
        except (OSError, zlib.error, struct.error) as error:
            kind = UnreachableError if isinstance(error, OSError) else DataError
            raise kind(f"{path} cannot be read ({error}).") from None
        if len(data) != info["file_size"] or zlib.crc32(data) != info["CRC"]:
            raise DataError(f"{path} is damaged; download {os.path.basename(self.archive)} again.")
        return data

    def _unpack(self, info: np.void) -> bytes:
        with open(self.archive, "rb") as file:
            check_unchanged(self.archive, os.fstat(file.fileno()), *self.stamp)
            file.seek(info["header_offset"])
            header = file.read(_HEADER)
            name, extra = struct.unpack("<HH", header[26:])
            if not header.startswith(b"PK\x03\x04"):
                return b""
            file.seek(name + extra, os.SEEK_CUR)
            data = file.read(info["compress_size"])
        if info["compress_type"] == zipfile.ZIP_STORED:
            return data
        # One byte more than promised, so that a longer member is noticed without unpacking it all.
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, int(info["file_size"]) + 1)

    def take(self, rows: np.ndarray) -> Members:
        return Members(self.archive, self.stamp, self.names.take(rows), self.infos[rows])

    def fingerprint(self) -> str:
        """Hash the archive's path, size and time, and every member's name and checksum."""
        place = f"{self.archive}|{self.stamp}|".encode("utf-8", "surrogateescape")
        return self.names.fingerprint(place, self.sizes, self.infos["CRC"])


def open_archive(
    path: str | os.PathLike, wanted: Sequence[Sequence[str]]
) -> list[tuple[Members, np.ndarray]]:
    """Read a zip's directory, once for several lists of names of members (see `match`).

    Return for each list the members that are there, and bool [N]: which they are. Damaged zips,
    encrypted members and those packed otherwise than by deflate are refused.
    """
    infos, state = directory(path)
    found = {info.filename: info for info in infos}
    if not all(name in found for names in wanted for name in names):
        found = match(path, infos, (name for names in wanted for name in names))
    for info in (found[name] for names in wanted for name in names if name in found):
        if info.flag_bits & 1 or info.compress_type not in _METHODS:
            fault = "encrypted" if info.flag_bits & 1 else "in a compression other than deflate"
            held = f"{shown(path)} holds {shown(info.filename)} {fault}"
            raise DataError(f"{held}; unpack it, or pack it again.")
    opened = []
    for names in wanted:
        kept = [name for name in names if name in found]
        rows = [tuple(getattr(found[name], field) for field in _INFO.names) for name in kept]
        stamp = state.st_size, state.st_mtime_ns
        members = Members(os.path.abspath(path), stamp, Names.pack(kept), np.array(rows, _INFO))
        opened.append((members, np.array([name in found for name in names], bool)))
    return opened
