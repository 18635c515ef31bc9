"""Images of a segmentation run as decoders see them: maps made once, or images for each step."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.images.mask_crops import Crops, crop_together
from clipjax.data.masks import MixedMasks, NoMask, Relabelled
from clipjax.errors import ConfigError
from clipjax.study.segmentation_data import Masked
from clipjax.study.segmentation_plan import Plan

BATCH, PIXELS = 50, 1 << 22  # the most images, or pixels, encoded or answered at a time


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Images with masks; their maps, where these are kept, and CLIP's embeddings."""

    source: MixedMasks
    maps: np.ndarray | None  # float16 [N, numbers of all levels]; None: computed in every step
    # uint8 [N, H, W], or of sizes of their own, or `NoMask`; None as maps.
    masks: Sequence[np.ndarray | NoMask] | None
    embedding: np.ndarray  # float32 [N, P]
    condition: np.ndarray  # int32 [N], place among the descriptions; -1 without one
    crops: Crops = Crops()  # how images that are trained on are changed in every step
    most: int = BATCH  # images or windows that are answered at a time

    def __len__(self) -> int:
        return len(self.embedding)

    def about(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the rows of some images say of their domains, and "other", of the next ones.

        The next image's W is what `shuffled` gives to an image that is alone in its batch.
        """
        return {key: value[index] for key, value in self.told.items()}

    @functools.cached_property
    def told(self) -> dict[str, np.ndarray]:
        """Return what `about` returns, of all images."""
        other = np.roll(self.embedding, -1, axis=0)
        return {"embedding": self.embedding, "other": other, "condition": self.condition}

    def drawn(self, index: np.ndarray, seed: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return rows to train on, with labels: crops of some images, a function of `seed`."""
        pairs = []
        for place, i in enumerate(index.tolist()):
            example = self.source[i]
            pairs.append(crop_together(example.image, example.mask, self.crops, (*seed, place)))
        images, masks = (np.stack([pair[k] for pair in pairs]) for k in (0, 1))
        return {"inputs": images, "label": masks, **self.about(index)}

    def batches(self) -> Iterator[tuple[dict[str, np.ndarray], Sequence[np.ndarray]]]:
        """Yield rows of whole images, and the masks of those that are not padding."""
        batch = min(self.most, batch_of(self.source[0].image.shape[:2]))
        for first in range(0, len(self), batch):
            index = np.arange(first, first + batch) % len(self)
            size = min(batch, len(self) - first)
            if self.maps is not None:
                inputs, masks = self.maps[index], self.masks[first : first + size]
            else:
                read = [self.source[int(i)] for i in index[:size]]
                inputs = np.stack([read[i % size].image for i in range(batch)])
                masks = [example.mask for example in read]
            yield {"inputs": inputs, **self.about(index)}, masks

    def taken(self, index: np.ndarray, source: MixedMasks) -> "Encoded":
        """Return some images, which `source` has in the order of `index`."""
        part = lambda x: None if x is None else x[index]
        kept = part(self.maps), part(self.masks), part(self.embedding), part(self.condition)
        return Encoded(source, *kept, self.crops, self.most)

    def relabelled(self, masks: Sequence[np.ndarray]) -> "Encoded":
        """Return the same images to train on, with other masks."""
        kept = None if self.masks is None else np.stack(masks)  # of one size, as maps are
        return dataclasses.replace(self, source=Relabelled(self.source, masks), masks=kept)

    def shares(self, data: Masked) -> np.ndarray:
        """Return the share of each class among the labelled pixels, float64 [K].

        ValueError: images without masks.
        """
        if self.masks is None or not self.source.masked:
            return data.shares(self.source)
        classes = len(data.classes)
        counts = sum(np.bincount(mask.ravel(), minlength=256)[:classes] for mask in self.masks)
        return counts / max(counts.sum(), 1)

    def constant(self, number: int, data: Masked) -> float:
        """Return the mIoU of answering one class everywhere."""
        shares = self.shares(data)
        return float(shares[number] / (np.count_nonzero(shares) + (shares[number] == 0)))


def batch_of(size: tuple[int, int]) -> int:
    """Return how many images of a size are encoded at a time: two or more, to exchange W.

    >>> batch_of((96, 96)), batch_of((512, 512)), batch_of((4096, 4096))
    (50, 16, 2)
    """
    return max(2, min(BATCH, PIXELS // (size[0] * size[1])))


def are_cached(plan: Plan, images: int) -> tuple[bool, str]:
    """Return whether maps of so many images are kept, and the sentence that says so."""
    if plan.data.crops.changes or plan.config.data.window:
        what = "windows" if plan.config.data.window else "crops"
        what = what if plan.config.data.crop or what == "windows" else "images that change"
        if plan.config.maps == "cached":
            told = f"maps=cached keeps maps of whole images, and the run reads {what}"
            raise ConfigError(f"{told}; leave maps out.")
        return False, f"maps of {what} are computed in every step"
    need = 2 * images * plan.dense.width
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    asked = plan.config.maps
    if plan.dense.begin is not None:
        return False, "maps are computed in every step, as a part of what makes them trains"
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

        # Compiled once for all sources of one size.
        self._maps = jax.jit(lambda *given: flat(*given).astype(jnp.float16))
        self._embed = jax.jit(plan.reader.embed)

    def __call__(self, source: MixedMasks) -> Encoded:
        """Encode every image; ConfigError for maps that 16 bits do not hold."""
        dense, reader = self.plan.dense, self.plan.reader
        maps, embedded, masks = [], [], []
        batch = batch_of(source[0].image.shape[:2])
        for first in range(0, len(source), batch):
            part = [source[i] for i in range(first, min(first + batch, len(source)))]
            filled = part + part[:1] * (batch - len(part))  # one shape
            whole = np.stack([reader.preprocess.crop(e.image, e.name) for e in filled])
            embedded.append(np.asarray(self._embed(reader.params, whole))[: len(part)])
            if self.cached:
                pixels = np.stack([example.image for example in filled])
                maps.append(np.asarray(self._maps(dense.params, pixels))[: len(part)])
                masks += [example.mask for example in part]
                if not np.isfinite(maps[-1]).all():
                    told = f"maps of model={self.plan.config.model} overflow half precision"
                    raise ConfigError(f"{told}, in which they are kept; take maps=live.")
        names = list(self.plan.config.descriptions)
        domains = (source.domain_of(i) for i in range(len(source)))
        places = [names.index(domain) if domain in names else -1 for domain in domains]
        one_size = len({mask.shape for mask in masks}) == 1  # tested ones may differ
        if self.cached and source.masked and one_size:
            masks = np.stack(masks)
        kept = (np.concatenate(maps), masks) if self.cached else (None, None)
        about = np.concatenate(embedded), np.array(places, np.int32)
        # What a step has memory for, tests have, too; two images are needed to exchange W.
        config = self.plan.config
        step = max(2, config.batch_size // config.accumulate)
        most = BATCH if dense.begin is None else step
        return Encoded(source, *kept, *about, self.plan.data.crops, most)
