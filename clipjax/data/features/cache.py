"""Encode each image once: features are cached under a hash of all they depend on, never stale."""

import contextlib
import errno
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL

from clipjax.data.dataset import Skipped, Source, digest
from clipjax.data.features import encode as encoding
from clipjax.data.features.encode import ImageEncoder, Say, Shard, encode_shards
from clipjax.data.features.store import FeatureStore, join, read_manifest, size_on_disk, split
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.loader import BatchLoader, Unreachable
from clipjax.errors import DataError

FORMAT = 4  # raise when the meaning of the stored numbers changes


class Features(NamedTuple):
    """The encoded examples of one source, in its order."""

    features: np.ndarray  # [N, P], normalised; float32 unless another dtype was requested
    labels: np.ndarray  # int32 [N]


class EncodedSource(NamedTuple):
    """A source's features, and its unreadable examples."""

    features: Features  # of the readable examples; memory-mapped if cached
    rows: np.ndarray  # int64 [N]: their rows in the source, ascending
    skipped: tuple[Skipped, ...]  # the others


class CacheEntry(NamedTuple):
    """The features of one source under one key, on disk."""

    path: pathlib.Path
    domain: str
    split: str
    rows: int  # encoded so far
    bytes: int
    age_s: float  # since it was completed, or begun
    complete: bool


def fingerprint(params: Any) -> str:
    """Hash a parameter tree: names, shapes, dtypes and bytes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        value = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)}{value.shape}{value.dtype}".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def cache_key(weights: str, preprocess: Preprocess, source: Source, dtype: str = "float32") -> str:
    """Hash everything that shapes a source's features; Pillow's releases differ in resizing."""
    versions, place = f"{FORMAT} {PIL.__version__}", f"{source.domain}/{source.split}"
    parts = (versions, weights, repr(preprocess), repr(source), place, dtype)
    return digest(["\n".join(parts)], 32)


def encode_source(
    encoder: ImageEncoder, source: Source, *, most_skipped: int | None = None, say: Say = print
) -> EncodedSource:
    """Encode every example; as `cached_features`, without a cache."""
    return cached_features(encoder, source, weights="", most_skipped=most_skipped, say=say)


def cached_features(
    encoder: ImageEncoder,
    source: Source,
    *,
    weights: str,
    cache_dir: str | os.PathLike | None = None,
    model: str = "",
    most_skipped: int | None = None,
    say: Say = print,
) -> EncodedSource:
    """Encode every example once, unless `cache_dir` already holds the result.

    A killed encoding resumes after its last shard. If the disk cannot be written, features stay in
    memory. Images that were unreachable (`UnreachableError`) are tried again at every call.

    Args:
      weights: identifies the encoder: `fingerprint` of its parameters and its config.
      cache_dir: None switches the disk cache off.
      model: a name for humans, stored beside the features.
      most_skipped: images that may be unreadable; None: all but one.
      say: gets lines about a long encoding, and a cache that cannot be written.

    DataError for no images, no readable ones, or more than `most_skipped` unreadable ones;
    ChangedError if the data changed since the source was opened.
    """
    if not len(source):
        place = f"split {source.split!r} of domain {source.domain!r}"
        raise DataError(f"{place} has no images; add some to it.")
    store = None
    if cache_dir is not None:
        key = cache_key(weights, encoder.preprocess, source, encoder.dtype)
        about = {"domain": source.domain, "split": source.split, "model": model}
        about |= {"source": repr(source), "preprocess": repr(encoder.preprocess)}
        about["weights"] = weights
        path = pathlib.Path(cache_dir) / key
        store = FeatureStore(path, len(source), encoder.kept_dtype, about)
    whole = _load_or_encode(store, encoder, source, most_skipped, say)
    skipped = tuple(entry for _, entry in whole.skipped)
    if len(skipped) == len(source):
        fault = f"none of the {len(source)} images of {source.domain}/{source.split} can be read"
        raise DataError(f"{fault}; the first: {skipped[0].name} {skipped[0].reason}")
    unread = np.array([row for row, _ in whole.skipped], np.int64)
    rows = np.delete(np.arange(len(source), dtype=np.int64), unread)
    labels = np.asarray(source.labels, np.int32)[rows]
    return EncodedSource(Features(whole.features, labels), rows, skipped)


def list_cache(cache_dir: str | os.PathLike) -> list[CacheEntry]:
    """List the entries of a cache directory by domain and split; other files are passed over."""
    root, found = pathlib.Path(cache_dir), []
    for path in root.iterdir() if root.is_dir() else ():
        # Entries of other versions hold other fields, and a run may be removing its own.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, TypeError, ValueError):
            if manifest := read_manifest(path):
                age = time.time() - datetime.fromisoformat(manifest["created"]).timestamp()
                facts = (str(manifest["domain"]), str(manifest["split"]), *size_on_disk(path), age)
                found.append(CacheEntry(path, *facts, bool(manifest["complete"])))
    return sorted(found, key=lambda entry: (entry.domain, entry.split, entry.age_s))


def _check_skipped(shards: Sequence[Shard], most: int | None, source: Source) -> None:
    """Raise DataError if more than `most` rows were unreadable; None allows any number."""
    skipped = [entry for shard in shards for _, entry in shard.skipped]
    if most is None or len(skipped) <= most:
        return
    seen = len(skipped) + sum(len(shard.features) for shard in shards)
    listed = "; ".join(f"{entry.name} {entry.reason.rstrip('.')}" for entry in skipped[:5])
    place, more = f"{source.domain}/{source.split}", "; ..." * (len(skipped) > 5)
    fault = (
        f"{len(skipped)} of the first {seen} images of {place} cannot be read, and {most} may be"
    )
    remedy = "Repair or remove them, or raise data.max_unreadable."
    raise DataError(f"{fault}: {listed}{more}. {remedy}")


def _load_or_encode(
    store: FeatureStore | None, encoder: ImageEncoder, source: Source, most: int | None, say: Say
) -> Shard:
    """Return all features, after encoding missing shards and those with rows readable again."""
    whole = store and store.load()
    shards = split(whole, len(source)) if whole else store.shards() if store else []
    entry = _Entry(store, shards, say)
    check = lambda: _check_skipped(entry.shards, most, source)
    check()
    load = BatchLoader(source, encoder.preprocess, 1)
    readable = lambda row, why: (
        isinstance(why, Unreachable) and not isinstance(load.crop(row), Unreachable)
    )
    again = [n for n, s in enumerate(entry.shards) if any(readable(*each) for each in s.skipped)]
    if whole and not again:
        return whole
    for number in again:
        with contextlib.closing(encode_shards(encoder, source, first=number, say=say)) as made:
            entry.put(number, next(made), write=not whole)
    check()
    if not whole:
        for shard in encode_shards(encoder, source, first=len(entry.shards), say=say):
            entry.put(len(entry.shards), shard)
            check()
    return entry.finish()


class _Entry:
    """Shards, on disk as long as there is one and it takes them, else in memory."""

    def __init__(self, store: FeatureStore | None, shards: list[Shard], say: Say):
        self._store, self.shards, self._say = store, shards, say
        self._writing, self._measured = store is not None, False

    def put(self, number: int, shard: Shard, write: bool = True) -> None:
        """Add a shard, or replace one."""
        if write and self._has_room(shard.features.shape[1]):
            shard = self._try(self._store.write, number, shard) or shard
        self.shards[number : number + 1] = [shard]

    def finish(self) -> Shard:
        """Join all shards, in one file if the disk takes it."""
        whole = self._try(self._store.finish, self.shards) if self._writing else None
        return whole or join(self.shards)

    def _has_room(self, width: int) -> bool:
        if self._measured or not self._writing:
            return self._writing
        self._measured = True
        done = min(len(self.shards) * encoding.SHARD_ROWS, self._store.rows)
        with contextlib.suppress(OSError):  # writing will say what is wrong
            need, free = self._store.room(width, done)
            if need >= free:
                self._give_up(f"it takes {need / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free")
        return self._writing

    def _try(self, action: Callable[..., Shard], *args) -> Shard | None:
        try:
            return action(*args)
        except OSError as error:
            self._give_up(str(error.strerror or error))
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # leave the rest of it to the run
                self.shards = [s._replace(features=np.array(s.features)) for s in self.shards]
                with contextlib.suppress(OSError):  # the first error is the one that was told
                    self._store.abandon()
            return None

    def _give_up(self, why: str) -> None:
        self._writing = False
        cache = self._store.path.parent
        self._say(f"feature cache {cache} cannot be written ({why}); going on without it.")
