"""Encode each image once; train on arrays.

Features are cached on disk under a key that covers weights, preprocessing, dataset and split, so a
stale cache can never be read: whatever changes the features changes the name of their directory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.caching import check_skipped, load_or_encode
from clipjax.data.dataset import Skipped, Source
from clipjax.data.features.encode import Encode, Shard, encode_shards
from clipjax.data.features.store import FeatureStore, join, read_manifest, size_on_disk
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.loader import BatchLoader, Unreachable
from clipjax.errors import ConfigError, DataError

FORMAT = 4  # raise when the meaning of the stored numbers changes
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}


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
    encode: Encode,
    source: Source,
    preprocess: Preprocess,
    batch_size: int,
    *,
    dtype: str = "float32",
    workers: int = 0,
    threads: int | None = None,
    most_skipped: int | None = None,
    say: Callable[[str], None] = print,
) -> EncodedSource:
    """`cached_features` without a cache."""
    options = {"dtype": _dtype(dtype), "workers": workers, "threads": threads, "say": say}
    _check(source, batch_size)
    shards: list[Shard] = []
    for shard in encode_shards(encode, source, preprocess, batch_size, **options):
        shards.append(shard)
        check_skipped(shards, most_skipped, f"{source.domain}/{source.split}")
    return _readable(join(shards), source)


def cached_features(
    encode: Encode,
    source: Source,
    preprocess: Preprocess,
    *,
    weights: str,
    batch_size: int = 256,
    cache_dir: str | os.PathLike | None = None,
    dtype: str = "float32",
    model: str = "",
    workers: int = 0,
    threads: int | None = None,
    most_skipped: int | None = None,
    say: Callable[[str], None] = print,
) -> EncodedSource:
    """Runs `encode` over every example once, unless `cache_dir` already holds the result.

    A killed encoding goes on behind the last shard it wrote. Where the disk is full or refuses, the
    features stay in memory and `say` is told. Images that could not be read for a reason that may
    pass (`UnreachableError`) are tried again whenever the cache is read.

    Args:
      encode: uint8 images [B, S, S, 3] -> float32 [B, P].
      source: what to encode.
      preprocess: crops images; part of the key.
      weights: what tells this encoder from others: `fingerprint` of its parameters and its config.
      batch_size: images per call of `encode`; the last batch is padded.
      cache_dir: None switches the disk cache off.
      dtype: in which features are kept: "float32", "float16" or "bfloat16".
      model: a name for humans, kept beside the features.
      workers: processes that decode; 0 decodes in threads of this one.
      threads: that decode, per process; see `load_ahead`.
      most_skipped: images that may be unreadable; with one more it is over. None: all but one.
      say: gets a line about a part that took long, and one about a cache that cannot be written.

    Raises:
      ConfigError: an unknown dtype, or a batch size below 1.
      ChangedError: the data changed since the source was opened.
      DataError: a source without images, without any that can be read, or with more than
        `most_skipped` that cannot.
    """
    options = {"workers": workers, "threads": threads, "say": say}
    if cache_dir is None:
        options |= {"dtype": dtype, "most_skipped": most_skipped}
        return encode_source(encode, source, preprocess, batch_size, **options)
    _check(source, batch_size)
    options["dtype"] = _dtype(dtype)
    path = pathlib.Path(cache_dir) / cache_key(weights, preprocess, source, dtype)
    about = {"domain": source.domain, "split": source.split, "model": model}
    about |= {"source": repr(source), "preprocess": repr(preprocess), "weights": weights}
    store = FeatureStore(path, len(source), options["dtype"], about)
    make = functools.partial(encode_shards, encode, source, preprocess, batch_size, **options)
    load = BatchLoader(source, preprocess, 1)
    passing = lambda row: isinstance(load.crop(row), Unreachable)
    place = f"{source.domain}/{source.split}"
    check = functools.partial(check_skipped, most=most_skipped, place=place)
    return _readable(load_or_encode(store, make, passing, check, say), source)


def list_cache(cache_dir: str | os.PathLike) -> list[CacheEntry]:
    """What a cache directory holds, sorted by domain and split; other files are passed over."""
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


def _dtype(name: str) -> np.dtype:
    if name not in DTYPES:
        raise ConfigError(f"features of dtype {name!r}; known: {', '.join(DTYPES)}.")
    return np.dtype(DTYPES[name])


def _check(source: Source, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"features.batch_size={batch_size}: give at least 1.")
    if not len(source):
        raise DataError(
            f"split {source.split!r} of domain {source.domain!r} has no images; add some, or give "
            "train, val and test folders."
        )
