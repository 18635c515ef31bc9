"""Every image of a source once, in order, in batches of one shape: for encoding and evaluation."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from clipjax.data.dataset import Skipped, Source
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.workers import load_ahead
from clipjax.errors import ChangedError, DataError, UnreachableError

Batch = dict[str, Any]


class Unreachable(Skipped):
    """An image that could not be read now, but may be readable another time."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class BatchLoader:
    """Number of a batch -> the batch of `image_batches`; picklable, and free of jax for workers."""

    source: Source
    preprocess: Preprocess
    batch_size: int
    process: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1.")
        if not 0 <= self.process[0] < self.process[1]:
            raise ValueError(f"process is {self.process}; expected (p, n) with 0 <= p < n.")

    def __len__(self) -> int:
        # As many on every process: collectives wait for all of them.
        return -(-len(self.source) // (self.process[1] * self.batch_size))

    def __call__(self, number: int) -> Batch:
        count, size = self.batch_size, self.preprocess.size
        rows = (number * count + np.arange(count)) * self.process[1] + self.process[0]
        rows = rows[rows < len(self.source)]
        batch = {
            "image": np.zeros((count, size, size, 3), np.uint8),
            "label": np.zeros(count, np.int32),
            "mask": np.zeros(count, bool),
            "row": np.full(count, -1, np.int32),
        }
        batch["row"][: len(rows)] = rows
        batch["label"][: len(rows)] = np.asarray(self.source.labels)[rows]
        problems = []
        for place, row in enumerate(rows.tolist()):
            found = self.crop(row)
            if isinstance(found, Skipped):
                problems.append(found)
            else:
                batch["image"][place], batch["mask"][place] = found, True
        return batch | {"problems": tuple(problems)}

    def crop(self, row: int) -> np.ndarray | Skipped:
        """Load one image, uint8 [S, S, 3]; what cannot be read is returned as `Skipped`."""
        name = f"{self.source.domain}/{self.source.split}[{row}]"
        try:
            example = self.source[row]
            name = example.name
            return self.preprocess.crop(example.image, name)
        except ChangedError:  # labels and cache key are those of other data
            raise
        except DataError as error:
            kind = Unreachable if isinstance(error, UnreachableError) else Skipped
            return kind(name, str(error).removeprefix(name).strip())


def image_batches(
    source: Source,
    preprocess: Preprocess,
    batch_size: int,
    *,
    workers: int = 0,
    threads: int | None = None,
    first: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Yield every example once, in order, from batch `first` on; the last batch is padded.

    Process p of n, `process` = (p, n), takes rows p, p + n, p + 2 n, ...; all have equally many
    batches, the last of which may be padding alone. `workers` and `threads`: see `load_ahead`.

    Returns:
      Iterator of {"image" uint8 [B, S, S, 3], "label" int32 [B], "mask" bool [B], False on
      unreadable rows and padding, "row" int32 [B] in the source, -1 on padding, "problems": a
      `Skipped` for each unreadable row, `Unreachable` if it may be readable another time}.

    ChangedError if the data changed since the source was opened.

    >>> from clipjax.data.dataset import ArraySource
    >>> images = [np.full((4, 4, 3), 7, np.uint8), b"no image", np.zeros((4, 4, 3), np.uint8)]
    >>> source = ArraySource(images, [0, 1, 1], classes=("a", "b"), domain="d")
    >>> for batch in image_batches(source, Preprocess(size=4), 2):
    ...     print(batch["mask"], batch["row"], [skipped.name for skipped in batch["problems"]])
    [ True False] [0 1] ['d/train/1']
    [ True False] [ 2 -1] []
    """
    load = BatchLoader(source, preprocess, batch_size, process)
    return load_ahead(load, min(first, len(load)), len(load), workers=workers, threads=threads)
