"""Images of a source as a model sees them, decoded in threads or in worker processes.

Nothing here imports JAX: worker processes import this module.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipjax.data.dataset import Source
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.workers import load_ahead

if TYPE_CHECKING:
    import jax


class Crops:
    """The cropped images of a source, uint8 [S, S, 3] each, kept once decoded while they fit.

    Images that are kept are decoded in threads of this process, by whom they are kept; worker
    processes are for those that are not. They decode for both parts of a pair where one of them
    does not fit, and then keep nothing.

    Attributes:
      labels: int32 [N].
      fits: whether images are kept.
      kept_bytes: memory that they may take: all of it once each was decoded by this process, alone
        or beside a part that fits too.
    """

    def __init__(self, source: Source, preprocess: Preprocess, *, memory_bytes: int = 1 << 30):
        self._source, self._preprocess = source, preprocess
        size = len(source) * preprocess.size**2 * 3
        self.fits = size <= memory_bytes
        self.kept_bytes = size if self.fits else 0
        self._kept: dict[int, np.ndarray] = {}
        self.labels = np.asarray(source.labels, np.int32)
        self.more: dict[str, np.ndarray] = {}

    def beside(self, **arrays: np.ndarray) -> Crops:
        """The same images with further arrays [N, ...], whose rows go into batches with theirs."""
        made = copy.copy(self)
        made.more = {**self.more, **arrays}
        return made

    def __getstate__(self) -> dict:
        """Without the images: a process that gets a copy decodes for this one and keeps none."""
        return self.__dict__ | {"_kept": {}, "fits": False, "kept_bytes": 0}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        """One image; DataError, with its name, where it cannot be read."""
        if (found := self._kept.get(index)) is not None:
            return found
        example = self._source[index]
        image = self._preprocess.crop(example.image, example.name)
        if self.fits:
            self._kept[index] = image
        return image

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [len(indices), S, S, 3]."""
        return np.stack([self[int(i)] for i in indices])

    def part(self, indices: np.ndarray, *, labelled: bool) -> dict[str, np.ndarray]:
        """Examples as a part of a batch: "inputs", maybe "label", and what is `beside` them."""
        found = {"inputs": self.take(indices)}
        if labelled:
            found["label"] = self.labels[indices]
        return found | {key: array[indices] for key, array in self.more.items()}

    def encode(
        self,
        encode: Callable[[np.ndarray], jax.Array],
        batch_size: int,
        *,
        workers: int = 0,
        threads: int | None = None,
        process: tuple[int, int] = (0, 1),
    ) -> np.ndarray:
        """`encode` (uint8 [B, S, S, 3] -> [B, P]) of every image in order, float32 [N, P].

        With `process` = (p, n), of images p, p + n, ... alone; there must be as many as processes.
        """
        rows = np.arange(process[0], len(self), process[1])
        batches = load_ahead(
            functools.partial(_full_batch, self, batch_size, rows),
            0,
            -(-len(rows) // batch_size),
            workers=needed_workers(workers, self),
            threads=threads,
        )
        found = [np.asarray(encode(images)) for images in batches]
        return np.concatenate(found)[: len(rows)].astype(np.float32)


def _full_batch(crops: Crops, batch_size: int, rows: np.ndarray, number: int) -> np.ndarray:
    """Some of these rows; the last batch repeats the last image: one shape, one compilation."""
    places = np.arange(batch_size) + number * batch_size
    return crops.take(rows[np.minimum(places, len(rows) - 1)])


def needed_workers(workers: int, *parts: Crops | None) -> int:
    """`workers`, or none where all images are kept by this process.

    Where one part fits and another does not, workers decode both; nothing is kept then, though the
    part that fits has its memory reserved: it may be trained on alone before or after.
    """
    return 0 if all(part is None or part.fits for part in parts) else workers


class PairLoader(NamedTuple):
    """Turns rows into pixels: a plan's batch into the batch, part by part."""

    source: Crops
    target: Crops | None

    def __call__(self, plan: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """The batch, as `clipjax.data.loading.pairing.paired_batches` yields it."""
        batch = {"source": self.source.part(plan["source"], labelled=True)}
        batch["source"]["mask"] = plan["mask"]
        if "support" in plan:
            batch["support"] = self.source.part(plan["support"], labelled=True)
        if self.target is not None:
            batch["target"] = self.target.part(plan["target"], labelled=False)
        return batch
