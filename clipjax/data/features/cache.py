"""Encode each image once; train on arrays.

Features are cached on disk under a key that covers weights, preprocessing, dataset and split, so a
stale cache can never be read: whatever changes the features changes the name of their directory.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import jax
import numpy as np

from clipjax.data.dataset import Skipped, Source
from clipjax.data.features import encode as encoding
from clipjax.data.features.encode import ImageEncoder, Say, Shard, encode_shards
from clipjax.data.features.store import FeatureStore, join, read_manifest, size_on_disk, split
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.loader import BatchLoader, Unreachable
from clipjax.errors import DataError

FORMAT = 4  # raise when the meaning of the stored numbers changes
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Features(NamedTuple):
    """The encoded examples of one source, in its order."""

    features: np.ndarray  # [N, P], normalised; float32 unless another type was asked for
    labels: np.ndarray  # int32 [N]


class EncodedSource(NamedTuple):
    """A source's features, and what it held that could not be read."""

    features: Features  # of the readable examples; memory-mapped where the cache holds them
    rows: np.ndarray  # int64 [N]: which examples of the source these are, ascending
    skipped: tuple[Skipped, ...]  # the others


class CacheEntry(NamedTuple):
    """The features of one source under one key, on disk."""

    path: pathlib.Path
    domain: str
    split: str
    rows: int  # encoded so far
    bytes: int
    age_s: float  # since it was complete, or begun
    complete: bool


def fingerprint(params: Any) -> str:
    """Hash of a parameter tree: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def cache_key(weights: str, preprocess: Preprocess, source: Source, dtype: str = "float32") -> str:
    """The name of a source's features: changes whenever anything that shapes them does.

    Pillow too: its releases differ in how they resize.
    """
    import PIL

    place = f"{source.domain}/{source.split}"
    versions = f"{FORMAT} {PIL.__version__}"
    parts = (versions, weights, repr(preprocess), repr(source), place, dtype)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def encode_source(
    encoder: ImageEncoder, source: Source, *, most_skipped: int | None = None, say: Say = print
) -> EncodedSource:
    """Encode every example; as `cached_features`, without a cache."""
    _check_images(source)
    shards: list[Shard] = []
    for shard in encode_shards(encoder, source, say=say):
        shards.append(shard)
        check_skipped(shards, most_skipped, f"{source.domain}/{source.split}")
    return _readable(join(shards), source)


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
    """Encodes every example once, unless `cache_dir` already holds the result.

    A killed encoding goes on behind the last shard it wrote. Where the disk is full or refuses, the
    features stay in memory and `say` is told. Images that could not be read for a reason that may
    pass (`UnreachableError`) are tried again whenever the cache is read.

    Args:
      encoder: makes the features; its preprocessing and dtype are part of the key.
      source: what to encode.
      weights: what tells this encoder from others: `fingerprint` of its parameters and its config.
      cache_dir: None switches the disk cache off.
      model: a name for humans, kept beside the features.
      most_skipped: images that may be unreadable; with one more it is over. None: all but one.
      say: gets a line about a part that took long, and one about a cache that cannot be written.

    Raises:
      ChangedError: the data changed since the source was opened.
      DataError: a source without images, without any that can be read, or with more than
        `most_skipped` that cannot.
    """
    if cache_dir is None:
        return encode_source(encoder, source, most_skipped=most_skipped, say=say)
    _check_images(source)
    preprocess, place = encoder.preprocess, f"{source.domain}/{source.split}"
    path = pathlib.Path(cache_dir) / cache_key(weights, preprocess, source, encoder.dtype)
    about = {"domain": source.domain, "split": source.split, "model": model}
    about |= {"source": repr(source), "preprocess": repr(preprocess), "weights": weights}
    store = FeatureStore(path, len(source), encoder.kept_dtype, about)
    make = functools.partial(encode_shards, encoder, source, say=say)
    load = BatchLoader(source, preprocess, 1)
    passing = lambda row: isinstance(load.crop(row), Unreachable)
    check = functools.partial(check_skipped, most=most_skipped, place=place)
    return _readable(_load_or_encode(store, make, passing, check, say), source)


def list_cache(cache_dir: str | os.PathLike) -> list[CacheEntry]:
    """The entries of a cache directory, sorted by domain and split; other files are skipped."""
    root, found = pathlib.Path(cache_dir), []
    for path in root.iterdir() if root.is_dir() else ():
        # Entries of other versions say other things, and a run may be removing its own.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, TypeError, ValueError):
            if manifest := read_manifest(path):
                age = time.time() - datetime.fromisoformat(manifest["created"]).timestamp()
                facts = (str(manifest["domain"]), str(manifest["split"]), *size_on_disk(path), age)
                found.append(CacheEntry(path, *facts, bool(manifest["complete"])))
    return sorted(found, key=lambda entry: (entry.domain, entry.split, entry.age_s))


def _readable(whole: Shard, source: Source) -> EncodedSource:
    """Puts labels beside the features of those rows that could be read."""
    skipped = tuple(entry for _, entry in whole.skipped)
    if len(skipped) == len(source):
        raise DataError(
            f"none of the {len(source)} images of {source.domain}/{source.split} can be read; the "
            f"first: {skipped[0].name} {skipped[0].reason}"
        )
    unread = np.array([row for row, _ in whole.skipped], np.int64)
    rows = np.delete(np.arange(len(source), dtype=np.int64), unread)
    labels = np.asarray(source.labels, np.int32)[rows]
    return EncodedSource(Features(whole.features, labels), rows, skipped)


def _check_images(source: Source) -> None:
    if not len(source):
        raise DataError(
            f"split {source.split!r} of domain {source.domain!r} has no images; add some, or give "
            "train, val and test folders."
        )


def _load_or_encode(
    store: FeatureStore,
    make: Callable[..., Iterator[Shard]],
    passing: Callable[[int], bool],
    check: Callable[[Sequence[Shard]], None],
    say: Say,
) -> Shard:
    """Encode what a store lacks, and return all of it.

    A row that could not be read when its shard was made, for a reason that may pass, is tried again
    at every start; where it can be read now, its shard is made anew.

    Args:
      store: may hold all features, some shards or nothing.
      make: (first=number) -> shards from there on.
      passing: whether a row still cannot be read for a reason that may pass.
      check: looks at the shards so far, whenever there is another; may raise.
      say: gets a line about a cache that cannot be written.
    """
    whole = store.load()
    entry = _Entry(store, store.shards() if whole is None else split(whole, store.rows), say)
    check(entry.shards)
    again = [n for n, shard in enumerate(entry.shards) if _better(shard, passing)]
    if whole is not None and not again:
        return whole
    for number in again:
        with contextlib.closing(make(first=number)) as shards:
            entry.put(number, next(shards), write=whole is None)
    check(entry.shards)
    if whole is None:
        for shard in make(first=len(entry.shards)):
            entry.put(len(entry.shards), shard)
            check(entry.shards)
    return entry.finish()


def check_skipped(shards: Sequence[Shard], most: int | None, place: str) -> None:
    """Raises DataError where more than `most` rows were unreadable; None allows any number."""
    skipped = [entry for shard in shards for _, entry in shard.skipped]
    if most is None or len(skipped) <= most:
        return
    seen = len(skipped) + sum(len(shard.features) for shard in shards)
    raise DataError(
        f"{len(skipped)} of the first {seen} images of {place} cannot be read, and {most} may be "
        f"in all: {_listed(skipped)}. Repair or remove them, or raise data.max_unreadable."
    )


def _listed(skipped: Sequence[Skipped], most: int = 5) -> str:
    """The first few with their reasons."""
    found = [f"{entry.name} {entry.reason.rstrip('.')}" for entry in skipped[:most]]
    return "; ".join(found) + ("; ..." if len(skipped) > most else "")


def _better(shard: Shard, passing: Callable[[int], bool]) -> bool:
    """Whether a row of a shard can be read now that could not when the shard was made."""
    return any(isinstance(e, Unreachable) and not passing(row) for row, e in shard.skipped)


class _Entry:
    """Shards, on disk as long as that takes them, and in memory where it does not."""

    def __init__(self, store: FeatureStore, shards: list[Shard], say: Say):
        self._store, self.shards, self._say = store, shards, say
        self._writing, self._fits = True, None

    def put(self, number: int, shard: Shard, write: bool = True) -> None:
        """Takes a shard in, or in place of an older one."""
        if write and self._writing and self._has_room(shard):
            shard = self._tried(self._store.write, number, shard) or shard
        self.shards[number : number + 1] = [shard]

    def finish(self) -> Shard:
        """Join all shards, in one file where the disk takes it."""
        return (self._writing and self._tried(self._store.finish, self.shards)) or join(self.shards)

    def _has_room(self, shard: Shard) -> bool:
        """Whether the disk has room for the rest; looked at once, when the width is known."""
        if self._fits is not None:
            return self._fits
        done, self._fits = min(len(self.shards) * encoding.SHARD_ROWS, self._store.rows), True
        with contextlib.suppress(OSError):  # writing will say what is wrong
            need, free = self._store.room(shard.features.shape[1], done)
            self._fits = self._writing = need < free
            if not self._fits:
                self._give_up(f"it takes {need / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free")
        return self._fits

    def _tried(self, action: Callable, *args) -> Shard | None:
        try:
            return action(*args)
        except OSError as error:
            self._writing = False
            self._give_up(str(error.strerror or error))
            if error.errno in NO_SPACE:
                self._make_room()
            return None

    def _give_up(self, why: str) -> None:
        self._say(
            f"feature cache {self._store.path.parent} cannot be written ({why}); going on without "
            "it."
        )

    def _make_room(self) -> None:
        """Takes the shards into memory and off the disk, which the run itself has to write to."""
        self.shards = [s._replace(features=np.array(s.features)) for s in self.shards]
        with contextlib.suppress(OSError):  # the first error is the one that was told
            self._store.abandon()
