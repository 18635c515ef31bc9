"""The features of one source on disk: shards while they are made, one memory-mapped file after.

Files appear whole or not at all, and a name, which covers unreadable rows, means one content: a
killed encoding resumes after its last shard, and several processes may encode the same at once.
"""

import contextlib
import itertools
import json
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

ABANDONED = 3600.0  # seconds after which a scratch file belongs to a killed writer


class FeatureStore:
    """The directory `path` for features of a source with `rows` rows; `about` is for humans.

    Layout: `shard-00000.npy`, its unreadable rows in `shard-00000.json`, ...; at the end
    `features.npy` instead, and a complete manifest. If rows are unreadable, the .npy file's name
    has a checksum of their numbers: `features-1a2b3c4d.npy`. bfloat16, which .npy files cannot
    name, is stored as uint16 of the same bits.
    """

    def __init__(self, path: pathlib.Path, rows: int, dtype: np.dtype, about: dict[str, Any]):
        self.path, self.rows, self.dtype = path, rows, np.dtype(dtype)
        self._about = {**about, "images": rows, "dtype": self.dtype.name}
        self._bits = np.dtype(np.uint16) if self.dtype.name == "bfloat16" else self.dtype

    def load(self) -> Shard | None:
        """Return all features, memory-mapped, and all unreadable rows; None unless complete."""
        if not (manifest := read_manifest(self.path)) or not manifest["complete"]:
            return None
        self._clean()
        return self._shard("features", manifest.get("skipped"), self.rows)

    def shards(self) -> list[Shard]:
        """Return the shards before the first that is missing or damaged."""
        found: list[Shard] = []
        while (shard := self._read(len(found))) is not None:
            if found and shard.features.shape[1] != found[0].features.shape[1]:
                break
            found.append(shard)
        return found

    def room(self, width: int, done: int) -> tuple[int, int]:
        """Return the bytes needed for rows after `done`, and those free on disk, or OSError."""
        path = self.path.absolute()
        place = next(each for each in (path, *path.parents) if each.exists())
        # Shards and the one file exist together for a moment.
        need = (2 * self.rows - done) * width * self.dtype.itemsize
        return need, shutil.disk_usage(place).free

    def write(self, number: int, shard: Shard) -> Shard:
        """Write a shard, whole or not at all (OSError); return it memory-mapped."""
        self.path.mkdir(parents=True, exist_ok=True)
        if read_manifest(self.path) is None:
            self._write_manifest(complete=False)
        name = f"shard-{number:05d}"
        text = json.dumps(_to_json(shard.skipped))
        self._replace(self.path / f"{name}.json", lambda file: file.write(text.encode()))
        self._save(_file_name(name, shard.skipped), [shard])
        return self._read(number) or shard

    def finish(self, shards: Sequence[Shard]) -> Shard:
        """Move all shards into one file; return it memory-mapped. An OSError leaves them there."""
        skipped = tuple(itertools.chain.from_iterable(shard.skipped for shard in shards))
        name = _file_name("features", skipped)
        self._save(name, shards)
        self._write_manifest(complete=True, skipped=_to_json(skipped))
        self._remove(keep=(name, "manifest.json"))
        return self.load() or join(shards)

    def abandon(self) -> None:
        """Remove an incomplete entry; what is mapped stays readable."""
        if self.path.is_dir() and self.load() is None:
            self._remove(keep=())
            with contextlib.suppress(OSError):  # somebody else writes there
                self.path.rmdir()

    def _remove(self, keep: tuple[str, ...]) -> None:
        for file in [*self.path.glob("*.npy"), *self.path.glob("*.json")]:
            if file.name not in keep:
                file.unlink(missing_ok=True)
        self._clean()

    def _clean(self) -> None:
        """Remove what killed writers left."""
        for file in self.path.glob("*.partial"):
            with contextlib.suppress(OSError):  # its writer was done, or it is not ours to remove
                if time.time() - file.stat().st_mtime > ABANDONED:
                    file.unlink(missing_ok=True)

    def _read(self, number: int) -> Shard | None:
        name, size = f"shard-{number:05d}", encoding.SHARD_ROWS
        rows = min(size, self.rows - number * size)
        return self._shard(name, _json(self.path / f"{name}.json"), rows)

    def _shard(self, name: str, skipped: Any, rows: int) -> Shard | None:
        """Return the features of a file, memory-mapped; None if it is missing or damaged."""
        try:
            skipped = tuple(
                (int(row), (Unreachable if passing else Skipped)(str(image), str(reason)))
                for row, image, reason, passing in skipped
            )
        except (TypeError, ValueError):
            return None
        stored = _open(self.path / _file_name(name, skipped))
        if stored is None or stored.ndim != 2 or stored.dtype != self._bits:
            return None
        found, size = stored.view(self.dtype), encoding.SHARD_ROWS
        pieces = (found[at : at + size] for at in range(0, len(found), size))  # not all in memory
        if len(found) + len(skipped) != rows or not all(map(is_finite, pieces)):
            return None
        return Shard(found, skipped)

    def _save(self, name: str, shards: Sequence[Shard]) -> None:
        """Write shards as one .npy, in the memory of one."""
        count, width = sum(len(s.features) for s in shards), shards[0].features.shape[1]
        header = {"descr": self._bits.str, "fortran_order": False, "shape": (count, width)}

        def write(file: BinaryIO):
            np.lib.format.write_array_header_1_0(file, header)
            for shard in shards:
                file.write(np.ascontiguousarray(shard.features, self.dtype).view(np.uint8).data)

        self._replace(self.path / name, write)

    def _write_manifest(self, **more: Any) -> None:
        facts = {**self._about, "created": datetime.now(UTC).isoformat(timespec="seconds")}
        text = json.dumps({**facts, **more}, indent=2) + "\n"
        self._replace(self.path / "manifest.json", lambda file: file.write(text.encode()))

    def _replace(self, path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
        """Write a file atomically."""
        with replaced(path, shared=True) as scratch, scratch.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())


def split(whole: Shard, rows: int) -> list[Shard]:
    """Split a source of `rows` rows into its shards, the inverse of `join`."""
    size, found, start = encoding.SHARD_ROWS, [], 0
    for first in range(0, rows, size):
        mine = tuple(entry for entry in whole.skipped if first <= entry[0] < first + size)
        end = start + min(size, rows - first) - len(mine)
        found.append(Shard(whole.features[start:end], mine))
        start = end
    return found


def join(shards: Sequence[Shard]) -> Shard:
    """Join shards in memory."""
    features, skipped = zip(*shards, strict=True)
    return Shard(np.concatenate(features), tuple(itertools.chain.from_iterable(skipped)))


def read_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """Read the manifest of a directory; None if it is no cache entry."""
    found = _json(path / "manifest.json")
    known = isinstance(found, dict) and {"complete", "created", "domain", "split"} <= set(found)
    return found if known else None


def size_on_disk(path: pathlib.Path) -> tuple[int, int]:
    """Count rows of features in a cache entry, complete or not, and bytes of its files."""
    arrays, size = {}, 0
    for file in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a writer is done with it
            size += file.stat().st_size
        if file.suffix == ".npy" and (array := _open(file)) is not None:
            arrays[file.name] = len(array)
    whole = [count for name, count in arrays.items() if name.startswith("features")]
    return max(whole, default=sum(arrays.values())), size


def _open(path: pathlib.Path) -> np.ndarray | None:
    """Memory-map the array of a file; None if it is missing or damaged, as after a power cut."""
    try:
        return np.load(path, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError, EOFError):
        return None


def _json(path: pathlib.Path) -> Any:
    """Read a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _file_name(name: str, skipped: Sequence[tuple[int, Skipped]]) -> str:
    """Name the file of features without these rows."""
    rows = ",".join(str(row) for row, _ in skipped)
    return f"{name}-{zlib.crc32(rows.encode()):08x}.npy" if rows else f"{name}.npy"


def _to_json(skipped: Sequence[tuple[int, Skipped]]) -> list:
    return [[row, *entry, isinstance(entry, Unreachable)] for row, entry in skipped]
