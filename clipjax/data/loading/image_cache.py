"""Images of a source as a model sees them, decoded in threads or worker processes, without JAX."""

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from clipjax.data.dataset import Source
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.workers import load_ahead


class Crops:
    """The cropped images of a source, uint8 [S, S, 3] each, kept once decoded if all of them fit.

    Kept images are decoded in threads of this process. Worker processes decode the others, and both
    parts of a pair if one of them does not fit; they keep nothing.
    """

    def __init__(self, source: Source, preprocess: Preprocess, *, memory_bytes: int = 1 << 30):
        self._source, self._preprocess = source, preprocess
        size = len(source) * preprocess.size**2 * 3
        self.fits = size <= memory_bytes  # whether images are kept
        self.kept_bytes = size if self.fits else 0  # memory reserved for them
        self._kept: dict[int, np.ndarray] = {}
        self.labels = np.asarray(source.labels, np.int32)  # [N]
        self.more: dict[str, np.ndarray] = {}  # arrays [N, ...] beside the images

    def beside(self, **arrays: np.ndarray) -> Self:
        """Return the same images with further arrays [N, ...], whose rows go into batches too."""
        made = copy.copy(self)
        made.more = {**self.more, **arrays}
        return made

    def __getstate__(self) -> dict:
        """Leave out the images: a copy in another process keeps none."""
        return self.__dict__ | {"_kept": {}, "fits": False, "kept_bytes": 0}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return one image; raise DataError, with its name, if it cannot be read."""
        if index in self._kept:
            return self._kept[index]
        example = self._source[index]
        image = self._preprocess.crop(example.image, example.name)
        if self.fits:
            self._kept[index] = image
        return image

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return some images, uint8 [len(indices), S, S, 3]."""
        return np.stack([self[int(i)] for i in indices])

    def part(self, indices: np.ndarray, *, labelled: bool) -> dict[str, np.ndarray]:
        """Return a part of a batch: "inputs", "label" if labelled, and the arrays `beside` them."""
        label = {"label": self.labels[indices]} if labelled else {}
        more = {key: array[indices] for key, array in self.more.items()}
        return {"inputs": self.take(indices), **label, **more}

    def encode(
        self,
        encode: Callable[[np.ndarray], Any],
        batch_size: int,
        *,
        workers: int = 0,
        threads: int | None = None,
        process: tuple[int, int] = (0, 1),
    ) -> np.ndarray:
        """Apply `encode` (uint8 [B, S, S, 3] -> [B, P]) to every image in order, float32 [N, P].

        With `process` = (p, n), to images p, p + n, ... only; there must be at least n.
        """
        rows = np.arange(process[0], len(self), process[1])

        def load(number: int) -> np.ndarray:
            # The last batch repeats the last image: one shape, one compilation.
            places = np.arange(batch_size) + number * batch_size
            return self.take(rows[np.minimum(places, len(rows) - 1)])

        count, workers = -(-len(rows) // batch_size), needed_workers(workers, self)
        batches = load_ahead(load, 0, count, workers=workers, threads=threads)
        found = [np.asarray(encode(images)) for images in batches]
        return np.concatenate(found)[: len(rows)].astype(np.float32)


def needed_workers(workers: int, *parts: Crops | None) -> int:
    """Return `workers`, or 0 if this process keeps all images."""
    return 0 if all(part is None or part.fits for part in parts) else workers
