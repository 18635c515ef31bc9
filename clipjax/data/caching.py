"""Fills a feature store: what it lacks is encoded, and kept as far as the disk allows."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from clipjax.data.dataset import Skipped
from clipjax.data.features import encode as encoding
from clipjax.data.features.encode import Shard
from clipjax.data.features.store import FeatureStore, join, split
from clipjax.data.loading.loader import Unreachable
from clipjax.errors import DataError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Make = Callable[..., Iterator[Shard]]  # (first=number) -> shards from there on


def load_or_encode(
    store: FeatureStore,
    make: Make,
    passing: Callable[[int], bool],
    check: Callable[[Sequence[Shard]], None],
    say: Callable[[str], None],
) -> Shard:
    """What a store holds, completed.

    A row that could not be read when its shard was made, for a reason that may pass, is tried again
    at every start; where it can be read now, its shard is made anew.

    Args:
      store: may hold all features, some shards or nothing.
      make: encodes.
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
        f"in all: {listed(skipped)}. Repair or remove them, or raise data.max_unreadable."
    )


def listed(skipped: Sequence[Skipped], most: int = 5) -> str:
    """The first few with their reasons."""
    found = [f"{entry.name} {entry.reason.rstrip('.')}" for entry in skipped[:most]]
    return "; ".join(found) + ("; ..." if len(skipped) > most else "")


def _better(shard: Shard, passing: Callable[[int], bool]) -> bool:
    """Whether a row of a shard can be read now that could not when the shard was made."""
    return any(isinstance(e, Unreachable) and not passing(row) for row, e in shard.skipped)


class _Entry:
    """Shards, on disk as long as that takes them, and in memory where it does not."""

    def __init__(self, store: FeatureStore, shards: list[Shard], say: Callable[[str], None]):
        self._store, self.shards, self._say = store, shards, say
        self._writing, self._fits = True, None

    def put(self, number: int, shard: Shard, write: bool = True) -> None:
        """Takes a shard in, or in place of an older one."""
        if write and self._writing and self._has_room(shard):
            shard = self._tried(self._store.write, number, shard) or shard
        self.shards[number : number + 1] = [shard]

    def finish(self) -> Shard:
        """All shards as one."""
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
