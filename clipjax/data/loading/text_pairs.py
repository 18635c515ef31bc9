"""Image-text pairs for the contrastive stage, from what `tools/build_icon_corpus.py` writes."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from clipjax.errors import DataError

_FILES = ("masks.npy", "rgba.npy", "manifest.parquet")
_TEACHER = "teacher.npz"  # what `tools/teach_corpus.py` adds


class PairCorpus:
    """A directory of drawings with the texts that describe each."""

    def __init__(self, root: str | pathlib.Path, *, max_texts: int = 16):
        root = pathlib.Path(root)
        missing = [name for name in _FILES if not (root / name).exists()]
        if missing:
            fault = f"{root} is not a pair corpus ({', '.join(missing)} missing)"
            build = f"python tools/build_icon_corpus.py --out={root}"
            raise DataError(f"{fault}; build it with `{build}`.")
        import pyarrow.parquet as pq

        columns = ["caption", "texts", "kind", "row", "group"]
        table = pq.read_table(root / "manifest.parquet", columns=columns).to_pydict()
        self.root = root
        self._masks = np.load(root / "masks.npy", mmap_mode="r")
        self._rgba = np.load(root / "rgba.npy", mmap_mode="r")
        self._is_mask = np.array([kind == "mask" for kind in table["kind"]])
        self._row = np.array(table["row"], np.int64)
        names = np.array(table["group"])
        # Group name -> int64 [n], its images.
        self.groups = {str(g): np.flatnonzero(names == g) for g in sorted(set(table["group"]))}
        numbers: dict[str, int] = {}
        # Texts of each image [N, K], its caption first, padded with -1.
        self.text_ids = np.full((len(names), max_texts), -1, np.int32)
        for i, (caption, more) in enumerate(zip(table["caption"], table["texts"], strict=True)):
            for k, text in enumerate(list(dict.fromkeys([caption, *more]))[:max_texts]):
                self.text_ids[i, k] = numbers.setdefault(text, len(numbers))
        self.texts = list(numbers)  # all distinct ones
        # A teacher's features float32 [M, D], and the row of each image, -1 where it has none.
        self.teacher = self.teacher_row = None
        if (root / _TEACHER).exists():
            with np.load(root / _TEACHER) as file:
                self.teacher = file["features"].astype(np.float32)
                self.teacher_row = file["row"]
            if len(self.teacher_row) != len(self):
                fault = f"{root / _TEACHER} is of {len(self.teacher_row):,} drawings, not of"
                build = f"run `python tools/teach_corpus.py --corpus={root}` again"
                raise DataError(f"{fault} the corpus's {len(self):,}; {build}.")

    def __len__(self) -> int:
        return len(self.text_ids)

    @property
    def image_size(self) -> int:
        """Side of the drawings in pixels."""
        return self._masks.shape[1]

    def images(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return drawings uint8 [B, S, S, 4], and bool [B]: whether they are one-coloured masks."""
        mono = self._is_mask[index]
        out = np.zeros((len(index), self.image_size, self.image_size, 4), np.uint8)
        rows = self._row[index]
        out[mono, ..., 3] = self._masks[rows[mono]]
        out[~mono] = self._rgba[rows[~mono]]
        return out, mono


@dataclasses.dataclass(frozen=True)
class Wording:
    """How a text is chosen for an image, and put into a sentence."""

    caption_share: float  # probability of an image's first text, the caption
    category_share: float  # probability of its second text, the category; else any of the others
    templates: tuple[str, ...]  # sentences with `{}` for the text
    plain_share: float = 0.5  # probability of the bare text instead of a template


def sample_batch(
    corpus: PairCorpus,
    tokenize: Callable[[Sequence[str]], np.ndarray],
    *,
    seed: int,
    step: int,
    batch_size: int,
    mixture: Mapping[str, float],
    wording: Wording,
) -> dict:
    """Draw the batch of (seed, step), as `clipjax.adapt.contrastive.make_loss` takes it.

    `tokenize` maps B texts to int32 [B, T], and `mixture` groups to shares of the batch; within a
    group, images are drawn uniformly.
    """
    rng = np.random.default_rng([seed, step])
    shares = np.array(list(mixture.values()), np.float64)
    drawn = rng.choice(len(shares), size=batch_size, p=shares / shares.sum())
    index = np.empty(batch_size, np.int64)
    for g, name in enumerate(mixture):
        where = drawn == g
        index[where] = rng.choice(corpus.groups[name], size=where.sum())
    text_ids = corpus.text_ids[index]
    others = (text_ids >= 0).sum(axis=1) - 1
    pick = 1 + np.floor(rng.random(batch_size) * others).astype(np.int64)
    choice = rng.random(batch_size)
    pick = np.where(choice < wording.caption_share + wording.category_share, 1, pick)
    pick = np.where((choice < wording.caption_share) | (others == 0), 0, pick)
    text_id = text_ids[np.arange(batch_size), pick]
    plain = rng.random(batch_size) < wording.plain_share
    form = rng.integers(len(wording.templates), size=batch_size)
    texts = [
        corpus.texts[t] if p else wording.templates[f].replace("{}", corpus.texts[t])
        for t, p, f in zip(text_id, plain, form, strict=True)
    ]
    rgba, mono = corpus.images(index)
    batch = {
        "inputs": {"rgba": rgba, "mono": mono},
        "tokens": tokenize(texts),
        "text_id": text_id,
        "text_ids": text_ids,
    }
    if corpus.teacher is not None:
        row = corpus.teacher_row[index]
        batch |= {"teacher": corpus.teacher[row], "taught": row >= 0}
    return batch


def check_mixture(corpus: PairCorpus, mixture: Mapping[str, float]) -> None:
    """Raise DataError unless every group of the mixture has images in the corpus."""
    unknown = [g for g in mixture if not len(corpus.groups.get(g, ()))]
    if unknown or not mixture:
        known = ", ".join(corpus.groups)
        raise DataError(f"data.mixture: {corpus.root} has groups {known}, not {unknown}.")
