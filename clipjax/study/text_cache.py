"""Token ids and class weights, kept beside cached features: later runs open no text tower."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipjax.io import as_path, default_cache_dir, write_atomically
from clipjax.study.parts import Features
from clipjax.train.checkpoint import warn

FORMAT = 1  # raised where prompts become other tokens, or texts other embeddings
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def kept(features: Features, key: Mapping[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array that `make` gives, from the cache where it was made before.

    `key` is JSON of all that it depends on. A damaged file is made again, and one that cannot be
    written is warned of.
    """
    if not features.cache:
        return make()
    folder = as_path(features.cache_dir or default_cache_dir() / "features") / "texts"
    name = hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()[:32]
    file = folder / f"{name}.npz"
    try:
        with np.load(io.BytesIO(file.read_bytes())) as found:
            return found["array"]
    except _DAMAGED:
        array = np.asarray(make())
    content = io.BytesIO()
    np.savez(content, array=array)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.getvalue())
    except OSError as error:
        warn(f"clipjax: the classes' texts cannot be kept in {folder} ({error}).")
    return array


def digest_of(array: np.ndarray) -> str:
    """Hash an array with its shape and dtype."""
    array = np.ascontiguousarray(array)
    about = f"{array.shape} {array.dtype} ".encode()
    return hashlib.sha256(about + array.tobytes()).hexdigest()
