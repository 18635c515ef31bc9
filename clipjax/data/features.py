"""Encode each image once; train on arrays.

Features are cached on disk under a key that covers weights, preprocessing, dataset and split, so a
stale cache can never be read: whatever changes the features changes the name of the file.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from clipjax.data.pipeline import image_batches
from clipjax.data.preprocess import Preprocess
from clipjax.data.sources import Source
from clipjax.errors import DataError
from clipjax.log import progress

FORMAT = 1  # raise when the meaning of the stored numbers changes


class Features(NamedTuple):
    """The encoded examples of one source, in its order."""

    features: np.ndarray  # float32 [N, P], normalised
    labels: np.ndarray  # int32 [N]


def default_cache_dir() -> pathlib.Path:
    """$CLIPJAX_CACHE, or clipjax in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if chosen := os.environ.get("CLIPJAX_CACHE"):
        return pathlib.Path(chosen)
    return (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "clipjax"
    )


def fingerprint(params: Any) -> str:
    """Hash of a parameter tree: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def cache_key(weights: str, preprocess: Preprocess, source: Source) -> str:
    """The name of a source's features: changes whenever anything that shapes them does."""
    parts = (str(FORMAT), weights, repr(preprocess), repr(source))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def encode_source(
    encode: Callable[[np.ndarray], jax.Array],
    source: Source,
    preprocess: Preprocess,
    batch_size: int,
) -> Features:
    """Runs `encode` (uint8 images [B, S, S, 3] -> [B, P]) over every example once."""
    if not len(source):
        raise DataError(
            f"split {source.split!r} of domain {source.domain!r} has no images; add some, or give "
            "train, val and test folders."
        )
    rows, total = [], -(-len(source) // batch_size)
    batches = image_batches(source, preprocess, batch_size)
    for batch in progress(
        batches, total=total, what=f"encode {source.domain}/{source.split}", unit="batch"
    ):
        rows.append(np.asarray(encode(batch["image"]))[batch["mask"]])
    return Features(np.concatenate(rows).astype(np.float32), np.asarray(source.labels))


def cached_features(
    encode: Callable[[np.ndarray], jax.Array],
    source: Source,
    preprocess: Preprocess,
    *,
    weights: str,
    batch_size: int = 256,
    cache_dir: str | os.PathLike | None = None,
) -> Features:
    """`encode_source`, unless a file under `cache_dir` already holds the result.

    Args:
      encode: uint8 images [B, S, S, 3] -> float32 [B, P].
      source: what to encode.
      preprocess: crops images; part of the key.
      weights: what tells this encoder from others: `fingerprint` of its parameters and its config.
      batch_size: images per call of `encode`; the last batch is padded.
      cache_dir: None switches the disk cache off.
    """
    if cache_dir is None:
        return encode_source(encode, source, preprocess, batch_size)
    path = pathlib.Path(cache_dir) / f"{cache_key(weights, preprocess, source)}.npy"
    if path.exists():
        features = np.load(path)
        if len(features) == len(source):
            return Features(features, np.asarray(source.labels))
    result = encode_source(encode, source, preprocess, batch_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with scratch.open("wb") as file:
        np.save(file, result.features)
    os.replace(scratch, path)
    return result
