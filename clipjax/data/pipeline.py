"""Images to batches with grain: decoded in threads, padded and masked, in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipjax.data.preprocess import Preprocess
from clipjax.data.sources import Source


def pad_batch(examples: list[dict], batch_size: int) -> dict[str, np.ndarray]:
    """Stacks examples and pads to `batch_size`; `mask` is False on the padding.

    >>> import numpy as np
    >>> pad_batch([{"x": np.ones(1)}], 2)["mask"].tolist()
    [True, False]
    """
    stacked = {key: np.stack([e[key] for e in examples]) for key in examples[0]}
    short = batch_size - len(examples)
    padded = {
        k: np.concatenate([v, np.zeros((short, *v.shape[1:]), v.dtype)]) for k, v in stacked.items()
    }
    return padded | {"mask": np.arange(batch_size) < len(examples)}


def image_batches(
    source: Source, preprocess: Preprocess, batch_size: int, *, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order: {"image" uint8 [B, S, S, 3], "label" int32 [B], "mask" [B]}."""
    import grain

    def load(index: int) -> dict:
        example = source[int(index)]
        image = preprocess.crop(example.image, example.name)
        return {"image": image, "label": np.int32(example.label)}

    dataset = grain.MapDataset.range(len(source)).map(load)
    dataset = dataset.batch(batch_size, batch_fn=lambda items: pad_batch(list(items), batch_size))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))
