"""The interfaces of images with masks, a class for each pixel, and mixtures of several sources."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from clipjax.data.dataset import Skipped, check_domain, digest
from clipjax.data.splits import SPLITS, positions
from clipjax.errors import ConfigError, DataError

NO_MASKS = "no masks"  # why something of a domain is not measured


@dataclasses.dataclass(frozen=True)
class NoMask:
    """In a mask's place where there is none: no array, so that no pixel of it can count."""

    shape: tuple[int, int]  # height and width of answers


class MaskExample(NamedTuple):
    """A picture and what each of its pixels shows."""

    image: np.ndarray  # uint8 [H, W, 3]
    # uint8 [H, W], numbers of classes, 255 (`clipjax.adapt.pixels.IGNORED`).
    mask: np.ndarray | NoMask
    name: str  # for error messages and reports


class SizeFault(DataError):
    """A mask of another size than its image."""


class LabelFault(DataError):
    """A mask with values that its table lacks."""


class MaskSource(Protocol):
    """A picklable sequence of images with masks, of one domain and split, read when asked for.

    `[i]` raises DataError for what cannot be read, SizeFault and LabelFault for a mask of another
    size than its image and for a label beyond the table. The repr is stable over processes and
    changes with the content.
    """

    domain: str
    split: str
    classes: tuple[str, ...]
    missing: tuple[str, ...] = ()  # names of images left out, because they have no mask
    masked: bool = True  # whether examples have masks; else each has a `NoMask`

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> MaskExample: ...

    def name_of(self, index: int) -> str:
        """Return the name of an example, without reading it."""
        ...

    def alone(self) -> "MaskSource":
        """Return all images of the split, those without a mask too, and read no mask of them.

        Sources that read image and mask together return themselves.
        """
        return self


class MaskDataset(Protocol):
    """Several domains of images with masks over one list of classes.

    A split is there only where its publisher gives masks for it, or where it is dealt out. Of
    folders a split is there without masks, too: `MaskSource.masked` says so.
    """

    name: str
    domains: tuple[str, ...]
    classes: tuple[str, ...]  # of all domains, numbered as in masks
    skipped: tuple[Skipped, ...] = ()  # files left out, masks without an image among them

    def splits_of(self, domain: str) -> tuple[str, ...]:
        """Return the splits of this domain."""
        check_domain(self, domain)
        return SPLITS

    def source(self, domain: str, split: str) -> MaskSource: ...


def check_split(dataset: MaskDataset, domain: str, split: str) -> str:
    """Return the name of a domain in NFC; ConfigError for a domain or split that is not there."""
    domain = check_domain(dataset, domain)
    if split not in (there := dataset.splits_of(domain)):
        told = f"domain {domain!r} of {dataset.name} has no {split} split with masks"
        raise ConfigError(f"{told}; it has {', '.join(there) or 'none'}.")
    return domain


class MixedMasks(MaskSource):
    """Examples of several sources, one source after the other.

    Args:
      sources: all with the same classes.
      rows: those of each source that are taken, whole numbers [N]; None for all of all.

    DataError: classes that differ.
    """

    def __init__(self, sources: Sequence[MaskSource], rows: Sequence[np.ndarray] | None = None):
        rows = [np.arange(len(source)) for source in sources] if rows is None else rows
        for source in sources[1:]:
            if source.classes != sources[0].classes:
                told = f"{source.domain!r} has other classes than {sources[0].domain!r}"
                raise DataError(f"{told}; give both one table of labels.")
        self.sources, self.rows = tuple(sources), tuple(np.asarray(x, np.int64) for x in rows)
        self.domain = "+".join(dict.fromkeys(source.domain for source in sources))
        self.split, self.classes = sources[0].split, sources[0].classes
        self.missing = tuple(name for source in sources for name in source.missing)
        self.masked = all(source.masked for source in sources)
        self._ends = np.cumsum([len(x) for x in self.rows])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[MaskSource, int]:
        index = range(len(self))[index]  # IndexError beyond the last
        which = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[which - 1]) if which else 0
        return self.sources[which], int(self.rows[which][index - first])

    def __getitem__(self, index: int) -> MaskExample:
        source, row = self._place(index)
        return source[row]

    def name_of(self, index: int) -> str:
        source, row = self._place(index)
        return source.name_of(row)

    def only(self, kept: np.ndarray) -> "MixedMasks":
        """Return the examples that are kept, bool [N]."""
        parts = np.split(np.asarray(kept, bool), self._ends[:-1])
        return MixedMasks(self.sources, [x[k] for x, k in zip(self.rows, parts, strict=True)])

    def domain_of(self, index: int) -> str:
        """Return the domain of an example."""
        return self._place(index)[0].domain

    def __repr__(self) -> str:
        key = digest(part for s, r in zip(self.sources, self.rows, strict=True)
                     for part in (repr(s), r.tobytes()))  # fmt: skip
        return f"MixedMasks({self.domain}/{self.split}, n={len(self)}, {key})"


class Relabelled(MaskSource):
    """Examples of a source with other masks, uint8 [H, W] for each."""

    def __init__(self, source: MaskSource, masks: Sequence[np.ndarray]):
        self._source, self._masks = source, masks
        self.domain, self.split = source.domain, source.split
        self.classes, self.missing = source.classes, source.missing

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> MaskExample:
        return self._source[index]._replace(mask=self._masks[index])

    def name_of(self, index: int) -> str:
        return self._source.name_of(index)

    def __repr__(self) -> str:
        key = digest(mask.tobytes() for mask in self._masks)
        return f"Relabelled({self._source!r}, {key})"


def mixed(
    sources: Sequence[MaskSource], shares: Sequence[float] = (), total: int = 0, seed: int = 0
) -> MixedMasks:
    """Mix sources by images: a share of the training images for each, as Table 3 of Domino.

    Args:
      sources: one or several.
      shares: of each source, together 1; none: as many as each has.
      total: images of the mixture; 0: as many as the shares allow.
      seed: of which images are taken. Those of a smaller number are among those of a larger one.

    A share is of images, not of batches: with one pass an epoch both are the same. ConfigError:
    shares that are not one for each source or do not add up to 1, or a source with fewer images
    than its share is of.
    """
    sizes = [len(source) for source in sources]
    if not shares:
        most = sum(sizes)
        if total > most:
            told = f"data.train={total} asks for more images than the {most} of"
            raise ConfigError(f"{told} {_named(sources)}; lower it.")
        shares = [size / most for size in sizes]
        total = total or most
    if len(shares) != len(sources) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        told = f"data.shares is {tuple(shares)}"
        raise ConfigError(f"{told}; give each of {_named(sources)} one, together 1.")
    pairs = list(zip(sources, shares, strict=True))
    total = total or min(int(len(s) / share + 1e-9) for s, share in pairs if share)
    ends = np.rint(np.cumsum(shares) * total).astype(int)  # so that they add up to the total
    rows = []
    for (source, share), count in zip(pairs, np.diff(ends, prepend=0), strict=True):
        if count > len(source):
            told = f"{share:g} of {total} training images are {count} of {source.domain!r}"
            raise ConfigError(f"{told}, which has {len(source)}; lower data.train or its share.")
        where = positions(f"{seed}/{source.name_of(i)}" for i in range(len(source)))
        rows.append(np.sort(np.argsort(where, kind="stable")[:count]))
    return MixedMasks(sources, rows)


def _named(sources: Sequence[MaskSource]) -> str:
    return " and ".join(repr(source.domain) for source in sources)
