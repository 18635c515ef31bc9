"""The features of one source on disk: shards while they are made, one memory-mapped file after.

A file appears under its name whole or not at all, and what a name stands for never changes: the
unreadable rows, which may differ from run to run, are part of it. So a killed encoding goes on
behind its last shard, and two processes that encode the same thing at once replace each other's
files by equal ones, or refer to files of their own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np

from clipjax.data.dataset import Skipped
from clipjax.data.features import encode as encoding
from clipjax.data.features.encode import Shard
from clipjax.data.loading.loader import Unreachable
from clipjax.io import replaced
from clipjax.io.finite import is_finite

ABANDONED = 3600.0  # seconds after which nobody is still writing a scratch file


class FeatureStore:
    """A directory that holds, or is going to hold, the features of one source.

    Layout: `shard-00000.npy`, its unreadable rows in `shard-00000.json`, ...; at the end
    `features.npy` instead, and a manifest that says so. Where rows are unreadable, the .npy file's
    name has a checksum of their numbers: `features-1a2b3c4d.npy`. bfloat16, which .npy files cannot
    name, is stored as uint16 of the same bits.

    Args:
      path: the directory; made when something is written.
      rows: of the source.
      dtype: of the features.
      about: facts for humans, kept in the manifest.
    """

    def __init__(self, path: pathlib.Path, rows: int, dtype: np.dtype, about: dict[str, Any]):
        self.path, self.rows, self.dtype = path, rows, np.dtype(dtype)
        self._about = {**about, "images": rows, "dtype": self.dtype.name}
        self._bits = np.dtype(np.uint16) if self.dtype.name == "bfloat16" else self.dtype

    def load(self) -> Shard | None:
        """All features, memory-mapped, and all unreadable rows; None unless complete."""
        manifest = read_manifest(self.path)
        skipped = _from_json(manifest.get("skipped")) if manifest else None
        if skipped is None or not manifest["complete"]:
            return None
        self._clean()
        features = self._map(self.path / _named("features", skipped))
        if features is None or len(features) + len(skipped) != self.rows:
            return None
        return Shard(features, skipped)

    def shards(self) -> list[Shard]:
        """The shards from the first to the last before one is missing or damaged."""
        found: list[Shard] = []
        while (shard := self._read(len(found))) is not None:
            if found and shard.features.shape[1] != found[0].features.shape[1]:
                break
            found.append(shard)
        return found

    def room(self, width: int, done: int) -> tuple[int, int]:
        """Bytes that the rest of an encoding takes on disk at most, and those that are free there.

        Shards and the one file are there together for a moment.

        Args:
          width: of the features.
          done: rows whose shards are there.

        Raises:
          OSError: no such disk.
        """
        place = self.path.absolute()
        while not place.exists():
            place = place.parent
        need = (2 * self.rows - done) * width * self.dtype.itemsize
        return need, shutil.disk_usage(place).free

    def write(self, number: int, shard: Shard) -> Shard:
        """Keeps a shard; returns it memory-mapped.

        Raises:
          OSError: the disk is full, say; nothing half-written has the shard's name.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if read_manifest(self.path) is None:
            self._write_manifest(complete=False)
        text, name = json.dumps(_to_json(shard.skipped)), _named(_shard(number), shard.skipped)
        self._replace(self._notes(number), lambda file: file.write(text.encode()))
        self._replace(self.path / name, lambda file: self._save(file, [shard]))
        return self._read(number) or shard

    def finish(self, shards: Sequence[Shard]) -> Shard:
        """Puts all shards into one file and removes them; returns its content, memory-mapped.

        Raises:
          OSError: as `write`; the shards are still there.
        """
        skipped = _skipped(shards)
        name = _named("features", skipped)
        self._replace(self.path / name, lambda file: self._save(file, shards))
        self._write_manifest(complete=True, skipped=_to_json(skipped))
        self._remove(keep=(name, "manifest.json"))
        return self.load() or join(shards)

    def abandon(self) -> None:
        """Removes what there is of an entry that is not complete; what is mapped lives on."""
        if self.path.is_dir() and self.load() is None:
            self._remove(keep=())
            with contextlib.suppress(OSError):  # somebody else writes there
                self.path.rmdir()

    def _remove(self, keep: tuple[str, ...]) -> None:
        """Remove an entry's files, all but `keep` and those that are being written."""
        for file in [*self.path.glob("*.npy"), *self.path.glob("*.json")]:
            if file.name not in keep:
                file.unlink(missing_ok=True)
        self._clean()

    def _clean(self) -> None:
        """Removes what killed writers left."""
        for file in self.path.glob("*.partial"):
            if _age(file) > ABANDONED:
                with contextlib.suppress(OSError):  # not ours to remove: it harms nobody
                    file.unlink(missing_ok=True)

    def _notes(self, number: int) -> pathlib.Path:
        return self.path / f"{_shard(number)}.json"

    def _read(self, number: int) -> Shard | None:
        skipped = _from_json(_json(self._notes(number)))
        if skipped is None:
            return None
        features = self._map(self.path / _named(_shard(number), skipped))
        count = min(encoding.SHARD_ROWS, self.rows - number * encoding.SHARD_ROWS)
        if features is None or len(features) + len(skipped) != count:
            return None
        return Shard(features, skipped)

    def _map(self, path: pathlib.Path) -> np.ndarray | None:
        """The features [n, P] of a file; None where there are none of this type, or damaged."""
        stored = _open(path)
        if stored is None or stored.ndim != 2 or stored.dtype != self._bits:
            return None
        found = stored.view(self.dtype)
        pieces = range(0, len(found), encoding.SHARD_ROWS)  # a file may be larger than memory
        sound = all(is_finite(found[at : at + encoding.SHARD_ROWS]) for at in pieces)
        return found if sound else None

    def _save(self, file: BinaryIO, shards: Sequence[Shard]) -> None:
        """Shards as one .npy, in the memory of one."""
        count, width = sum(len(s.features) for s in shards), shards[0].features.shape[1]
        header = {"descr": self._bits.str, "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for shard in shards:
            file.write(np.ascontiguousarray(shard.features, self.dtype).view(np.uint8).data)

    def _write_manifest(self, **more: Any) -> None:
        facts = {**self._about, "created": datetime.now(UTC).isoformat(timespec="seconds")}
        text = json.dumps({**facts, **more}, indent=2) + "\n"
        self._replace(self.path / "manifest.json", lambda file: file.write(text.encode()))

    def _replace(self, path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
        """Gives `path` its content at once."""
        with replaced(path, shared=True) as scratch, scratch.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())


def split(whole: Shard, rows: int) -> list[Shard]:
    """The shards of which a whole of `rows` rows was made; the other way round than `join`."""
    size, found, start = encoding.SHARD_ROWS, [], 0
    for number in range(math.ceil(rows / size)):
        mine = tuple(entry for entry in whole.skipped if entry[0] // size == number)
        end = start + min(size, rows - number * size) - len(mine)
        found.append(Shard(whole.features[start:end], mine))
        start = end
    return found


def join(shards: Sequence[Shard]) -> Shard:
    """Shards as one, in memory."""
    return Shard(np.concatenate([shard.features for shard in shards]), _skipped(shards))


def read_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """The manifest of the directory `path`; None where it is no cache entry."""
    found = _json(path / "manifest.json")
    known = isinstance(found, dict) and {"complete", "created", "domain", "split"} <= set(found)
    return found if known else None


def size_on_disk(path: pathlib.Path) -> tuple[int, int]:
    """Rows of features in a cache entry, complete or not, and bytes of its files."""
    arrays, size = {}, 0
    for file in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a writer is done with it
            size += file.stat().st_size
        if file.suffix == ".npy" and (array := _open(file)) is not None:
            arrays[file.name] = len(array)
    whole = [count for name, count in arrays.items() if name.startswith("features")]
    return max(whole, default=sum(arrays.values())), size


def _open(path: pathlib.Path) -> np.ndarray | None:
    """The array of a file, memory-mapped; None where there is none, or not a whole one."""
    try:
        return np.load(path, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError, EOFError):
        return None  # as after a power cut: the caller encodes anew


def _json(path: pathlib.Path) -> Any:
    """The content of a file; None where there is none, or not a whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # as for arrays


def _skipped(shards: Sequence[Shard]) -> tuple[tuple[int, Skipped], ...]:
    return tuple(entry for shard in shards for entry in shard.skipped)


def _age(path: pathlib.Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # its writer was done with it
        return 0.0


def _shard(number: int) -> str:
    return f"shard-{number:05d}"


def _named(name: str, skipped: Sequence[tuple[int, Skipped]]) -> str:
    """The file of features without these rows."""
    rows = ",".join(str(row) for row, _ in skipped)
    return f"{name}-{zlib.crc32(rows.encode()):08x}.npy" if rows else f"{name}.npy"


def _to_json(skipped: Sequence[tuple[int, Skipped]]) -> list:
    return [[row, *entry, isinstance(entry, Unreachable)] for row, entry in skipped]


def _from_json(found: Any) -> tuple[tuple[int, Skipped], ...] | None:
    """Unreadable rows as `_to_json` noted them; None for anything else."""
    try:
        return tuple(
            (int(row), (Unreachable if passing else Skipped)(str(name), str(reason)))
            for row, name, reason, passing in found
        )
    except (TypeError, ValueError):
        return None
