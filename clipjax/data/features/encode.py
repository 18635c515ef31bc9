"""Runs an encoder over a source: one batch in flight while the next is decoded, shard by shard."""

from __future__ import annotations

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
from clipjax.log import is_quiet, progress

SHARD_ROWS = 2048  # of the source; what a kill costs at most, whatever the batch size
TELL_AFTER = 5.0  # seconds of encoding that deserve a line
TELL_EVERY = 60.0  # seconds between two lines where no bar is shown

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}

Encode = Callable[[np.ndarray], jax.Array]
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class ImageEncoder:
    """How images become features.

    Attributes:
      encode: uint8 images [B, S, S, 3] -> float32 [B, P]; may return before it is done, as under
        jit.
      preprocess: crops images.
      batch_size: images per call of `encode`; the last batch is padded.
      dtype: in which features are kept: "float32", "float16" or "bfloat16".
      workers: processes that decode; 0 decodes in threads of this one.
      threads: that decode, per process; see `load_ahead`.

    Raises:
      ConfigError: an unknown dtype, or a batch size below 1.
    """

    encode: Encode
    preprocess: Preprocess
    batch_size: int = 256
    dtype: str = "float32"
    workers: int = 0
    threads: int | None = None

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError(f"features.batch_size={self.batch_size}: give at least 1.")
        if self.dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise ConfigError(f"features of dtype {self.dtype!r}; known: {known}.")

    @property
    def kept_dtype(self) -> np.dtype:
        """`dtype` as NumPy's."""
        return np.dtype(DTYPES[self.dtype])

    def batches(self, source: Source, first: int) -> Iterator[Batch]:
        """The batches of a source from number `first` on."""
        return image_batches(
            source,
            self.preprocess,
            self.batch_size,
            workers=self.workers,
            threads=self.threads,
            first=first,
        )


class Shard(NamedTuple):
    """`SHARD_ROWS` consecutive rows of a source (the last one has fewer), encoded."""

    features: np.ndarray  # [readable rows, P]
    skipped: tuple[tuple[int, Skipped], ...]  # (row of the source, what is wrong with it)


class Throughput:
    """Clock of an encoding: time spent decoding and computing."""

    def __init__(self):
        self.images, self._started = 0, time.perf_counter()
        self._spent: dict[str, float] = {}

    @contextlib.contextmanager
    def spent(self, on: str):
        """Times a block; the first of a kind, which compiles or starts workers, is not counted."""
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        self._spent[on] = self._spent[on] + took if on in self._spent else 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def bound(self) -> str:
        """The limiting part and its share of the time: "decode-bound 83 %"."""
        decode, compute = (self._spent.get(on, 0.0) for on in ("decode", "compute"))
        share = decode / max(decode + compute, 1e-9)
        what, share = ("decode", share) if share > 0.5 else ("compute", 1 - share)
        return f"{what}-bound {100 * share:.0f} %"

    def __str__(self) -> str:
        return f"{self.bound()}, {resident_bytes() / 1e9:.1f} GB"


def resident_bytes() -> int:
    """Bytes of this process in memory: now, or at most so far where only that is told."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def encode_shards(
    encoder: ImageEncoder, source: Source, *, first: int = 0, say: Say = print
) -> Iterator[Shard]:
    """Shards `first`, first + 1, ... of a source, each yielded as soon as it is complete.

    Args:
      encoder: makes the features.
      source: of images.
      first: shards that were made before.
      say: gets one line about an encoding that took long; and one a minute where no bar is shown.
    """
    done, name = first * SHARD_ROWS, f"{source.domain}/{source.split}"
    if done >= len(source):
        return
    batches = encoder.batches(source, done // encoder.batch_size)
    clock = Throughput()
    tell = _Teller(name, len(source) - done, clock, say)
    with progress(total=len(source), what=f"encode {name}", unit="image") as bar:
        bar.n = bar.initial = done
        results = _finite(_overlapped(encoder, batches, clock), name)
        counted = _counted(results, done, clock, bar, tell)
        yield from _cut(counted, first, len(source))
    if clock.seconds > TELL_AFTER:
        rate = clock.images / clock.seconds
        say(f"encoded {clock.images} images of {name}: {rate:.0f} images/s, {clock} in memory")


def _overlapped(
    encoder: ImageEncoder, batches: Iterator[Batch], clock: Throughput
) -> Iterator[tuple[Batch, np.ndarray]]:
    """(batch, features): a result is fetched after the next batch is decoded and under way."""
    flying = None
    while True:
        with clock.spent("decode"):
            batch = next(batches, None)
        with clock.spent("compute"):
            result = None if batch is None else encoder.encode(batch["image"])
            landed = flying and (flying[0], np.asarray(flying[1]).astype(encoder.kept_dtype))
        if landed:
            yield landed
        if batch is None:
            return
        flying = batch, result


def _finite(results: Iterable, name: str) -> Iterator[tuple[Batch, np.ndarray]]:
    """Passes results on; refuses features that are not finite before anything keeps them."""
    for batch, features in results:
        bad = ~np.isfinite(features).all(axis=1) & batch["mask"]
        if bad.any():
            raise NonFiniteError(
                f"the image tower gives NaN or infinity for {int(bad.sum())} of {len(bad)} images "
                f"of {name}: its numbers overflow, or the image_std of preprocessor_config.json is "
                "0; set compute_dtype to float32, or correct the file."
            )
        yield batch, features


class _Teller:
    """Now and then a line about an encoding, for logs, where no bar is shown."""

    def __init__(self, name: str, images: int, clock: Throughput, say: Say):
        self._name, self._images, self._clock, self._say = name, images, clock, say
        self._quiet, self._last = is_quiet(), 0.0

    def __call__(self) -> None:
        clock = self._clock
        seconds = clock.seconds
        if not self._quiet or seconds - self._last < TELL_EVERY or not clock.images:
            return
        self._last, rate = seconds, clock.images / seconds
        minutes = (self._images - clock.images) / rate / 60
        self._say(
            f"encode {self._name}: {clock.images} of {self._images} images, {rate:.0f} images/s, "
            f"{clock.bound()}, {minutes:.0f} min left"
        )


def _counted(
    results: Iterable, done: int, clock: Throughput, bar, tell: Callable[[], None]
) -> Iterator:
    """Passes results on and shows how far they are; rows before `done` are not news."""
    for batch, features in results:
        news = int((batch["row"] >= done).sum())
        clock.images += news
        bar.set_postfix_str(str(clock), refresh=False)
        bar.update(news)
        tell()
        yield batch, features


def _cut(results: Iterable, number: int, rows: int) -> Iterator[Shard]:
    """Batches to shards `number`, ... of a source of `rows` rows; earlier rows are dropped."""
    pieces, skipped = [], []
    for batch, features in results:
        seen = int(batch["row"].max()) + 1
        while number * SHARD_ROWS < seen:
            mine = batch["row"] // SHARD_ROWS == number
            pieces.append(features[mine & batch["mask"]])
            skipped += [(row, why) for row, why in _problems(batch) if row // SHARD_ROWS == number]
            if seen < min((number + 1) * SHARD_ROWS, rows):
                break
            yield Shard(np.concatenate(pieces), tuple(skipped))
            pieces, skipped, number = [], [], number + 1


def _problems(batch: Batch) -> list[tuple[int, Skipped]]:
    unread = batch["row"][~batch["mask"] & (batch["row"] >= 0)]
    return list(zip(unread.tolist(), batch["problems"], strict=True))
