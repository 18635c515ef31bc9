"""The embedded task of segmentation: scenes of drawings, clear or in weather, made when asked for.

A scene is a pure function of seed, split and number, so that nothing but masks is shipped. Objects
are drawings of the embedded dataset; those of val and test scenes are never seen in training.
"""

import functools
import hashlib
import io
import lzma
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipjax.data.dataset import check_domain
from clipjax.data.masks import MaskDataset, MaskExample, MaskSource, check_split
from clipjax.data.splits import SPLITS
from clipjax.data.weather import CONDITIONS, smooth_noise
from clipjax.errors import ConfigError
from clipjax.io import ASSETS

STYLES = ("render", "flat", "clipart", "cartoon")  # of masks.xz, in its order
SIZE, DRAWN = 96, 64  # pixels of a scene, of a drawing
SOURCE = "clear"
TINTED = "tinted"
TARGETS = ("fog", "night", "rain", "snow")
# Class -> the embedded dataset's classes that it holds.
GROUPS = {
    "background": (),
    "person": ("facial expression", "hand gesture", "person", "person in action"),
    "animal": ("mammal", "bird", "sea animal", "insect"),
    "plant or food": (
        "flower", "tree or leaf", "fruit", "vegetable", "dish of food", "sweet dessert", "drink",
    ),
    "place or vehicle": (
        "building", "landscape", "train", "road vehicle", "aircraft or boat",
        "moon, sun or weather", "road or warning sign",
    ),
    "thing": (
        "sports equipment", "clothing", "musical instrument", "electronic device",
        "book, paper or mail", "tool or weapon",
    ),
}  # fmt: skip
CLASSES = tuple(GROUPS)


class _Objects(NamedTuple):
    """The drawings of a style and split."""

    images: np.ndarray  # uint8 [N, 64, 64, 3]
    masks: np.ndarray  # bool [N, 64, 64]
    classes: np.ndarray  # uint8 [N], of `CLASSES`


class Scenes(MaskSource):
    """Scenes of one split, condition and style: images uint8 [96, 96, 3] with masks [96, 96].

    Args:
      split: "train", "val" or "test".
      count: how many.
      condition: "clear", "fog", "night", "rain", "snow", or "tinted": colours changed at random.
      style: of the drawings: "render", "flat", "clipart" or "cartoon".
      seed: of objects, places, grounds and weather. The same scene in two conditions differs in its
        weather alone.

    ConfigError: a split, condition or style that is not there, or no scene.

    >>> scenes = Scenes("val", 2, "fog")
    >>> len(scenes), scenes[1].image.shape, scenes[1].name
    (2, (96, 96, 3), 'val/fog/render/1')
    """

    def __init__(
        self, split: str, count: int, condition: str = SOURCE, style: str = "render", seed: int = 0
    ):
        for what, value, known in (
            ("split", split, SPLITS), ("condition", condition, CONDITIONS), ("style", style, STYLES)
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"there is no {what} {value!r}; known: {', '.join(known)}.")
        if count < 1:
            raise ConfigError(f"{count} scenes are none; give at least 1.")
        self.split, self.count, self.condition, self.style = split, count, condition, style
        self.seed, self.classes, self.domain = seed, CLASSES, condition

    def __len__(self) -> int:
        return self.count

    def name_of(self, number: int) -> str:
        return f"{self.split}/{self.condition}/{self.style}/{number}"

    def __getitem__(self, number: int) -> MaskExample:
        """Make a scene; IndexError beyond the last."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        rng = _generator(self.seed, self.split, number, "scene")
        picture, mask, depth = _compose(_objects(self.style, self.split), rng)
        weather = _generator(self.seed, self.split, number, self.condition)
        seen = CONDITIONS[self.condition](picture, depth, weather)
        image = np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8)
        return MaskExample(image, mask, self.name_of(number))

    def __repr__(self) -> str:
        """Change where the content does."""
        what = f"{self.split!r}, {self.count}, {self.condition!r}, {self.style!r}, {self.seed}"
        return f"Scenes({what})"


class SceneDataset(MaskDataset):
    """Scenes as a dataset: a clear source, four weathers, and clipart with colours changed.

    The last, "tinted", is there to be mixed into training: it has no other split.

    >>> scenes = SceneDataset()
    >>> scenes.domains, scenes.splits_of("tinted"), len(scenes.source("fog", "test"))
    (('clear', 'fog', 'night', 'rain', 'snow', 'tinted'), ('train',), 200)
    """

    name, classes = "scenes", CLASSES
    domains = (SOURCE, *TARGETS, TINTED)

    def __init__(self, train: int = 600, val: int = 100, test: int = 200, seed: int = 0):
        self.counts, self.seed = dict(zip(SPLITS, (train, val, test), strict=True)), seed

    def splits_of(self, domain: str) -> tuple[str, ...]:
        return SPLITS[:1] if check_domain(self, domain) == TINTED else SPLITS

    def source(self, domain: str, split: str) -> Scenes:
        check_split(self, domain, split)
        style = "clipart" if domain == TINTED else "render"
        return Scenes(split, self.counts[split], domain, style, self.seed)


def _generator(*words) -> np.random.Generator:
    """Return a generator that depends on the words alone."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _compose(objects: _Objects, rng: np.random.Generator):
    """Return picture float32 [S, S, 3], mask uint8 [S, S] and depth float32 [S, S]."""
    colours = rng.uniform(0.15, 0.9, (2, 3)).astype(np.float32)
    horizon = int(SIZE * rng.uniform(0.5, 0.75))
    rows = np.arange(SIZE)
    noise = np.stack([smooth_noise(rng, (SIZE, SIZE), 12) for _ in range(3)], axis=2)
    ground = (rows >= horizon)[:, None, None]
    picture = np.where(ground, colours[1], colours[0]) + 0.3 * (noise - 0.5)
    # The sky is far; the ground comes nearer to the lower edge.
    near = np.clip((rows - horizon) / (SIZE - horizon), 0, 1).astype(np.float32)
    depth = np.repeat((1 - 0.8 * near)[:, None], SIZE, axis=1)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    count = rng.integers(2, 4)
    sides = np.sort(rng.integers(34, 69, count))  # what lies near is larger, and in front
    for side in sides:
        which = rng.integers(len(objects.images))
        left = rng.integers(-side // 6, SIZE - side + side // 6 + 1)
        base = horizon + (SIZE - horizon) * (side - 34) / 40
        top = int(min(base, SIZE + side // 8)) - side
        image = Image.fromarray(objects.images[which]).resize((side, side), Image.BILINEAR)
        cut = Image.fromarray(objects.masks[which]).resize((side, side), Image.NEAREST)
        where = slice(max(top, 0), top + side), slice(max(left, 0), min(left + side, SIZE))
        part = (
            slice(where[0].start - top, SIZE - top),
            slice(where[1].start - left, where[1].stop - left),
        )
        covered = np.asarray(cut)[part]
        place = slice(where[0].start, where[0].start + len(covered)), where[1]
        pixels = np.asarray(image, np.float32)[part] / 255
        picture[place] = np.where(covered[..., None], pixels, picture[place])
        mask[place] = np.where(covered, objects.classes[which], mask[place])
        depth[place] = np.where(covered, np.float32(1.0 - 0.8 * (side - 34) / 34), depth[place])
    return np.clip(picture, 0, 1).astype(np.float32), mask, depth


@functools.lru_cache(maxsize=len(STYLES) * len(SPLITS))
def _objects(style: str, split: str) -> _Objects:
    """Read the drawings of a style and split, once."""
    import csv

    import pyarrow.parquet as pq

    folder = ASSETS / "emoji"
    with open(folder / "identities.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(
        folder / f"{split}.parquet", filters=[("domain", "=", style)], columns=["image", "identity"]
    )
    stored = dict(zip(table["identity"].to_pylist(), table["image"].to_pylist(), strict=True))
    group = {name: i for i, names in enumerate(GROUPS.values()) for name in names}
    mine = [i for i, row in enumerate(rows) if row["split"] == split]
    decode = lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return _Objects(
        np.stack([decode(stored[rows[i]["identity"]]["bytes"]) for i in mine]),
        _masks(len(rows))[STYLES.index(style), mine],
        np.array([group[rows[i]["class"]] for i in mine], np.uint8),
    )


@functools.lru_cache(maxsize=1)
def _masks(identities: int) -> np.ndarray:
    """Read the masks of all drawings, bool [styles, identities, 64, 64], as tools/emoji writes."""
    packed = lzma.decompress((ASSETS / "emoji_masks" / "masks.xz").read_bytes())
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    changed = bits.reshape(len(STYLES), identities, DRAWN, DRAWN)
    return np.bitwise_xor.accumulate(changed, axis=2).astype(bool)
