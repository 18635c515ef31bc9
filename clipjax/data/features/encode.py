"""Run an encoder over a source, shard by shard: one batch computes while the next is decoded."""

import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.dataset import Skipped, Source
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.loader import Batch, image_batches
from clipjax.errors import ConfigError, NonFiniteError
from clipjax.log.bars import Bar

SHARD_ROWS = 2048  # of the source; what a kill costs at most, whatever the batch size
TELL_AFTER = 5.0  # seconds of encoding that deserve a line

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class ImageEncoder:
    """How images become features; ConfigError for an unknown dtype or a batch size below 1."""

    # Uint8 images [B, S, S, 3] -> float32 [B, P]; may return early, as under jit.
    encode: Callable[[np.ndarray], jax.Array]
    preprocess: Preprocess
    batch_size: int = 256  # images per call of `encode`; the last batch is padded
    dtype: str = "float32"  # of the stored features: "float32", "float16" or "bfloat16"
    workers: int = 0  # processes that decode; 0 decodes in threads of this one
    threads: int | None = None  # decoding threads per process; see `load_ahead`

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError(f"features.batch_size={self.batch_size}: give at least 1.")
        if self.dtype not in DTYPES:
            raise ConfigError(f"features of dtype {self.dtype!r}; known: {', '.join(DTYPES)}.")

    @property
    def kept_dtype(self) -> np.dtype:
        """`dtype` as NumPy's."""
        return np.dtype(DTYPES[self.dtype])


class Shard(NamedTuple):
    """`SHARD_ROWS` consecutive rows of a source (the last one has fewer), encoded."""

    features: np.ndarray  # [readable rows, P]
    skipped: tuple[tuple[int, Skipped], ...]  # (row of the source, what is wrong with it)


class Throughput:
    """Clock of an encoding: time spent decoding and computing."""

    def __init__(self):
        self.images, self.started = 0, time.perf_counter()
        self._spent: dict[str, float] = {}

    @contextlib.contextmanager
    def spent(self, on: str):
        """Time a block; the first of a kind, which compiles or starts workers, is not counted."""
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        self._spent[on] = self._spent[on] + took if on in self._spent else 0.0

    def bound(self) -> str:
        """Name the limiting part and its share of the time: "decode-bound 83 %"."""
        decode, compute = (self._spent.get(on, 0.0) for on in ("decode", "compute"))
        share = decode / max(decode + compute, 1e-9)
        part, share = ("decode", share) if share > 0.5 else ("compute", 1 - share)
        return f"{part}-bound {100 * share:.0f} %"

    def __str__(self) -> str:
        return f"{self.bound()}, {resident_bytes() / 1e9:.1f} GB"


def resident_bytes() -> int:
    """Return this process's bytes in memory: now, or their peak where only that is known."""
    if (statm := pathlib.Path("/proc/self/statm")).exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def encode_shards(
    encoder: ImageEncoder, source: Source, *, first: int = 0, say: Say = print
) -> Iterator[Shard]:
    """Yield shards `first`, first + 1, ... of a source as they are made; `say` tells long waits."""
    done, name = first * SHARD_ROWS, f"{source.domain}/{source.split}"
    if done >= len(source):
        return
    size, how = encoder.batch_size, {"workers": encoder.workers, "threads": encoder.threads}
    batches = image_batches(source, encoder.preprocess, size, first=done // size, **how)
    clock = Throughput()
    with Bar(len(source), f"encode {name}", "image", done=done, say=say) as bar:
        results = _overlapped(encoder, batches, clock, name)
        told = _counted(results, clock, bar, done)
        yield from _cut(told, first, len(source))
    if (seconds := time.perf_counter() - clock.started) > TELL_AFTER:
        rate = clock.images / seconds
        say(f"encoded {clock.images} images of {name}: {rate:.0f} images/s, {clock} in memory")


def _overlapped(
    encoder: ImageEncoder, batches: Iterator[Batch], clock: Throughput, name: str
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield (batch, features); a result is fetched after the next batch is under way."""
    flying = None
    while True:
        with clock.spent("decode"):
            batch = next(batches, None)
        with clock.spent("compute"):
            result = None if batch is None else encoder.encode(batch["image"])
            landed = flying and (flying[0], np.asarray(flying[1]).astype(encoder.kept_dtype))
        if landed:
            bad = ~np.isfinite(landed[1]).all(axis=1) & landed[0]["mask"]
            if bad.any():
                fault = f"NaN or infinity for {bad.sum()} of {len(bad)} images of {name}"
                why = "overflow, or an image_std of 0 in preprocessor_config.json"
                remedy = "set compute_dtype to float32, or correct the file"
                raise NonFiniteError(f"the image tower gives {fault}, by {why}; {remedy}.")
            yield landed
        if batch is None:
            return
        flying = batch, result


def _counted(results: Iterable, clock: Throughput, bar: Bar, done: int) -> Iterator:
    """Pass results on and show progress; rows before `done` are not counted."""
    for batch, features in results:
        new = int((batch["row"] >= done).sum())
        clock.images += new
        bar.note = str(clock)
        bar.update(new)
        yield batch, features


def _cut(results: Iterable, number: int, rows: int) -> Iterator[Shard]:
    """Cut batches into shards `number`, ... of a source of `rows` rows; drop earlier rows."""
    pieces, skipped = [], []
    for batch, features in results:
        row, mask = batch["row"], batch["mask"]
        problems = list(zip(row[~mask & (row >= 0)].tolist(), batch["problems"], strict=True))
        seen = int(row.max()) + 1
        while number * SHARD_ROWS < seen:
            pieces.append(features[(row // SHARD_ROWS == number) & mask])
            skipped += [entry for entry in problems if entry[0] // SHARD_ROWS == number]
            if seen < min((number + 1) * SHARD_ROWS, rows):
                break
            yield Shard(np.concatenate(pieces), tuple(skipped))
            pieces, skipped, number = [], [], number + 1
