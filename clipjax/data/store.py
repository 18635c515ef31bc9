"""The features of one source on disk: shards while they are made, one memory-mapped file after.

A file appears under its name whole or not at all, and what a name stands for never changes. So a
killed encoding goes on behind its last shard, and two processes that encode the same thing at once
replace each other's files by equal ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np

from clipjax.data import encoding
from clipjax.data.encoding import Shard
from clipjax.data.sources import Skipped

ABANDONED = 3600.0  # seconds after which nobody is still writing a scratch file


class FeatureStore:
    """A directory that holds, or is going to hold, the features of one source.

    Layout: `shard-00000.npy`, its unreadable rows in `shard-00000.json`, ...; at the end
    `features.npy` instead, and a manifest that says so. bfloat16, which .npy files cannot name, is
    stored as uint16 of the same bits.

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
        if not (manifest and manifest["complete"]):
            return None
        features = self._map(self.path / "features.npy")
        skipped = _from_json(manifest["skipped"])
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

    def write(self, number: int, shard: Shard) -> Shard:
        """Keeps a shard; returns it memory-mapped.

        Raises:
          OSError: the disk is full, say; nothing half-written has the shard's name.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if read_manifest(self.path) is None:
            self._write_manifest(complete=False)
        text = json.dumps(_to_json(shard.skipped))
        self._replace(self._shard(number, "json"), lambda file: file.write(text.encode()))
        self._replace(self._shard(number, "npy"), lambda file: self._save(file, [shard]))
        return self._read(number) or shard

    def finish(self, shards: Sequence[Shard]) -> Shard:
        """Puts all shards into one file and removes them; returns its content, memory-mapped.

        Raises:
          OSError: as `write`; the shards are still there.
        """
        self._replace(self.path / "features.npy", lambda file: self._save(file, shards))
        self._write_manifest(complete=True, skipped=_to_json(_skipped(shards)))
        for file in self.path.glob("shard-*"):
            if not file.name.endswith(".partial") or _age(file) > ABANDONED:
                file.unlink(missing_ok=True)
        return self.load() or join(shards)

    def _shard(self, number: int, suffix: str) -> pathlib.Path:
        return self.path / f"shard-{number:05d}.{suffix}"

    def _read(self, number: int) -> Shard | None:
        features = self._map(self._shard(number, "npy"))
        count = min(encoding.SHARD_ROWS, self.rows - number * encoding.SHARD_ROWS)
        notes = _json(self._shard(number, "json"))
        if features is None or notes is None:
            return None
        skipped = _from_json(notes)
        return Shard(features, skipped) if len(features) + len(skipped) == count else None

    def _map(self, path: pathlib.Path) -> np.ndarray | None:
        """The features [n, P] of a file; None where there are none of this type."""
        stored = _open(path)
        if stored is None or stored.ndim != 2 or stored.dtype != self._bits:
            return None
        return stored.view(self.dtype)

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
        """Gives `path` its content at once; each writer has a scratch file of its own."""
        scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with scratch.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                scratch.unlink(missing_ok=True)
            raise


def join(shards: Sequence[Shard]) -> Shard:
    """Shards as one, in memory."""
    return Shard(np.concatenate([shard.features for shard in shards]), _skipped(shards))


def read_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """What the directory `path` says of itself; None where it is no cache entry."""
    found = _json(path / "manifest.json")
    return found if isinstance(found, dict) and "complete" in found else None


def size_on_disk(path: pathlib.Path) -> tuple[int, int]:
    """Rows of features in a cache entry, complete or not, and bytes of its files."""
    arrays, size = {}, 0
    for file in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a writer is done with it
            size += file.stat().st_size
        if file.suffix == ".npy" and (array := _open(file)) is not None:
            arrays[file.name] = len(array)
    return arrays.get("features.npy", sum(arrays.values())), size


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


def _to_json(skipped: Sequence[tuple[int, Skipped]]) -> list:
    return [[row, *entry] for row, entry in skipped]


def _from_json(found: Sequence) -> tuple[tuple[int, Skipped], ...]:
    return tuple((row, Skipped(*entry)) for row, *entry in found)
