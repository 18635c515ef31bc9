"""Images to batches with grain: decoded in threads, padded and masked, in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from clipjax.data.order import epoch_key, epoch_plan, steps_per_epoch
from clipjax.data.preprocess import Preprocess
from clipjax.data.sources import Source


class Crops:
    """The cropped images of a source, uint8 [S, S, 3] each, kept once decoded while they fit."""

    def __init__(self, source: Source, preprocess: Preprocess, *, memory_bytes: int = 1 << 30):
        self._source, self._preprocess = source, preprocess
        size = len(source) * preprocess.size**2 * 3
        self._fits = size <= memory_bytes
        self.kept_bytes = size if self._fits else 0  # once all are decoded
        self._kept: dict[int, np.ndarray] = {}
        self.labels = np.asarray(source.labels, np.int32)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        if (found := self._kept.get(index)) is not None:
            return found
        example = self._source[index]
        image = self._preprocess.crop(example.image, example.name)
        if self._fits:
            self._kept[index] = image
        return image

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [len(indices), S, S, 3]."""
        return np.stack([self[int(i)] for i in indices])

    def encode(
        self, encode: Callable[[np.ndarray], jax.Array], batch_size: int, *, threads: int = 2
    ) -> np.ndarray:
        """`encode` (uint8 [B, S, S, 3] -> [B, P]) of every image in order, float32 [N, P]."""
        import grain

        count = len(self)
        # The last batch repeats the last image: one shape, one compilation.
        load = lambda b: self.take(np.minimum(np.arange(batch_size) + b * batch_size, count - 1))  # noqa: E731
        batches = grain.MapDataset.range(-(-count // batch_size)).map(load)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        rows = [np.asarray(encode(images)) for images in batches.to_iter_dataset(options)]
        return np.concatenate(rows)[:count].astype(np.float32)


def paired_batches(
    source: Crops,
    target: Crops | None,
    *,
    seed: int,
    batch_size: int,
    first: int,
    last: int,
    threads: int = 2,
) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """The batches of steps first .. last - 1, in the order that cached features are trained in.

    A batch is a function of (seed, step), so a resumed run goes on with the same ones.

    Args:
      source: labelled images.
      target: unlabelled images; None where the loss needs none.
      seed: shuffles.
      batch_size: images per domain and step.
      first: step of the first batch.
      last: one past the last step.
      threads: that decode, some batches ahead.

    Returns:
      Iterator of {"source": {"inputs" uint8 [B, S, S, 3], "label" int32 [B], "mask" bool [B]},
      "target": {"inputs"}}.
    """
    import grain

    per_epoch = steps_per_epoch(len(source), batch_size)
    plan_of = _epoch_plans(seed, len(source), len(target) if target else 0, batch_size)

    def load(offset: int) -> dict:
        epoch, position = divmod(first + int(offset), per_epoch)
        plan = {key: value[position] for key, value in plan_of(epoch).items()}
        rows = plan["source"]
        inputs = source.take(rows)
        batch = {"source": {"inputs": inputs, "label": source.labels[rows], "mask": plan["mask"]}}
        if target:
            batch["target"] = {"inputs": target.take(plan["target"])}
        return batch

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.range(last - first).map(load).to_iter_dataset(options))


def _epoch_plans(seed: int, num_source: int, num_target: int, batch_size: int) -> Callable:
    """epoch -> its plan as numpy arrays; the last few are remembered."""
    make = jax.jit(lambda key: epoch_plan(key, num_source, num_target, batch_size))

    @functools.lru_cache(maxsize=4)
    def plan_of(epoch: int) -> dict[str, np.ndarray]:
        return jax.tree.map(np.asarray, make(epoch_key(np.uint32(seed), epoch)))

    return plan_of
