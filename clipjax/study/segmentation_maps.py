"""Images of a segmentation run as decoders see them: maps made once, or images for each step."""

import dataclasses
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.masks import MixedMasks
from clipjax.errors import ConfigError
from clipjax.study.segmentation_data import class_shares
from clipjax.study.segmentation_plan import Plan

BATCH = 50  # images encoded, or answered, at a time


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Images with masks; their maps, where these are kept, and CLIP's embeddings."""

    source: MixedMasks
    maps: np.ndarray | None  # float16 [N, numbers of all levels]; None: computed in every step
    masks: np.ndarray | None  # uint8 [N, H, W]; None as for maps
    embedding: np.ndarray  # float32 [N, P]
    condition: np.ndarray  # int32 [N], place among the descriptions; -1 without one

    def __len__(self) -> int:
        return len(self.embedding)

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Return the rows of a `clipjax.adapt.segment.Segmenter` of some images, with labels."""
        about = {"embedding": self.embedding[index], "condition": self.condition[index]}
        if self.maps is not None:
            return {"inputs": self.maps[index], "label": self.masks[index], **about}
        examples = [self.source[int(i)] for i in index]
        stacked = lambda key: np.stack([getattr(example, key) for example in examples])
        return {"inputs": stacked("image"), "label": stacked("mask"), **about}

    def batches(self) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Yield (rows of `BATCH` images, how many of them are not padding)."""
        for first in range(0, len(self), BATCH):
            size = min(BATCH, len(self) - first)
            yield self.rows(np.arange(first, first + BATCH) % len(self)), size

    def taken(self, index: np.ndarray, source: MixedMasks) -> "Encoded":
        """Return some images, which `source` has in the order of `index`."""
        part = lambda x: None if x is None else x[index]
        kept = part(self.maps), part(self.masks), part(self.embedding), part(self.condition)
        return Encoded(source, *kept)

    def background(self, classes: int) -> float:
        """Return the mIoU of answering class 0 everywhere."""
        if self.masks is None:
            shares = class_shares(self.source)
        else:
            counts = np.bincount(self.masks.ravel(), minlength=256)[:classes]
            shares = counts / max(counts.sum(), 1)
        return float(shares[0] / (np.count_nonzero(shares[1:]) + 1))


def are_cached(plan: Plan, images: int) -> tuple[bool, str]:
    """Return whether maps of so many images are kept, and the sentence that says so."""
    need = 2 * images * plan.dense.width
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    asked = plan.config.maps
    cached = asked == "cached" or (asked == "auto" and need <= memory // 2)
    how = "are computed once" if cached else "are computed in every step"
    why = "" if asked == "auto" else f", as maps={asked} says"
    size = f"{need / 1e6:.0f} MB" if need < 1e9 else f"{need / 1e9:.1f} GB"
    told = f"maps of {images} images, {size} of this machine's {memory / 1e9:.0f} GB"
    return cached, f"{told}, {how}{why}"


class Encoder:
    """Makes `Encoded` of images: CLIP's embeddings, and maps where these are `cached`."""

    def __init__(self, plan: Plan, cached: bool):
        self.plan, self.cached = plan, cached

        def flat(params, pixels):
            maps = plan.dense.maps(params, pixels)
            return jnp.concatenate([x.reshape(len(x), -1) for x in maps], axis=1)

        # Compiled once for all sources.
        self._maps = jax.jit(lambda *given: flat(*given).astype(jnp.float16))
        self._embed = jax.jit(plan.reader.embed)

    def __call__(self, source: MixedMasks) -> Encoded:
        """Encode every image; ConfigError for maps that 16 bits do not hold."""
        dense, reader = self.plan.dense, self.plan.reader
        maps, embedded, masks = [], [], []
        for first in range(0, len(source), BATCH):
            part = [source[i] for i in range(first, min(first + BATCH, len(source)))]
            filled = part + part[:1] * (BATCH - len(part))  # one shape
            whole = np.stack([reader.preprocess.crop(e.image, e.name) for e in filled])
            embedded.append(np.asarray(self._embed(reader.params, whole))[: len(part)])
            if self.cached:
                pixels = np.stack([example.image for example in filled])
                maps.append(np.asarray(self._maps(dense.params, pixels))[: len(part)])
                masks.append(np.stack([example.mask for example in part]))
                if not np.isfinite(maps[-1]).all():
                    told = f"maps of model={self.plan.config.model} overflow half precision"
                    raise ConfigError(f"{told}, in which they are kept; take maps=live.")
        names = list(self.plan.config.descriptions)
        domains = (source.domain_of(i) for i in range(len(source)))
        places = [names.index(domain) if domain in names else -1 for domain in domains]
        join = lambda parts: np.concatenate(parts) if self.cached else None
        embedding = np.concatenate(embedded)
        return Encoded(source, join(maps), join(masks), embedding, np.array(places, np.int32))
