"""Images that Python code hands over: paths, encoded files, PIL images and arrays, as a source."""

import glob
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.data.dataset import Dataset, Example, Source, check_domain, digest
from clipjax.data.images.decode import pixels_of
from clipjax.data.readers.files import is_image_name, reachable
from clipjax.data.splits import SPLITS
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import nfc, shown, some

Image = Any  # a path, the bytes of a file, a PIL image, uint8 [H, W, 3], or grey [H, W]


class GivenSource(Source):
    """A list of images, each a path, the bytes of a file, a PIL image or an array.

    Paths are read when asked for, and must be there when the source is made (DataError).

    >>> grey = np.zeros((8, 8), np.uint8)
    >>> source = GivenSource([grey, np.zeros((8, 8, 3), np.uint8)])
    >>> len(source), source[1].name, source.labels.tolist()
    (2, 'image 1', [-1, -1])
    """

    def __init__(
        self,
        images: Sequence[Image],
        labels: Sequence[int] | None = None,
        *,
        classes: Sequence[str] = (),
        domain: str = "given",
        split: str = "test",
    ):
        self.domain, self.split, self.classes = nfc(domain), split, tuple(classes)
        self._images = [_kept(image, f"image {i}") for i, image in enumerate(listed(images))]
        none = np.full(len(self._images), NO_LABEL)
        self.labels = np.asarray(none if labels is None else labels, np.int32)
        if len(self.labels) != len(self._images):
            told = f"{len(self._images)} images but {len(self.labels)} labels"
            raise DataError(f"{told}; give one each.")

    def __getitem__(self, index: int) -> Example:
        image, name = self._images[index], self.name_of(index)
        if isinstance(image, pathlib.Path):
            with reachable(image):
                image = image.read_bytes()
        return Example(image, int(self.labels[index]), name)

    def name_of(self, index: int) -> str:
        """Return an image's path, or its number."""
        image = self._images[index]
        return shown(image) if isinstance(image, pathlib.Path) else f"image {index}"

    def __repr__(self) -> str:
        parts = [self.labels.tobytes(), *map(_identity, self._images), "\n".join(self.classes)]
        return f"Given({self.domain}/{self.split}, n={len(self)}, {digest(parts)})"


def _kept(image: Image, name: str) -> pathlib.Path | bytes | np.ndarray:
    """Return an image as a source keeps it: a PIL image as its pixels."""
    if isinstance(image, (bytes, np.ndarray)):
        return image
    if isinstance(image, (str, os.PathLike)):
        path = pathlib.Path(image).expanduser()
        if not path.is_file():
            fault = "is a folder" if path.is_dir() else "does not exist"
            raise DataError(f"{shown(path)} {fault}; give the path of an image.")
        return path
    if hasattr(image, "getbands"):  # PIL's
        return pixels_of(image, name)
    if hasattr(image, "__array__"):
        return np.asarray(image)
    kind = type(image).__name__
    raise DataError(f"{name} is of type {kind}; give a path, bytes, a PIL image or an array.")


def _identity(image: pathlib.Path | bytes | np.ndarray) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        return f"{image.shape}{image.dtype}".encode() + image.tobytes()
    found = image.stat()
    return os.fsencode(image.absolute()) + f" {found.st_size} {found.st_mtime_ns}".encode()


def listed(images: Sequence[Image] | np.ndarray | str | os.PathLike) -> Sequence[Image]:
    """Return images as a list: those given, or the files of a folder or of a pattern with `*`.

    DataError: a single image, or a folder or pattern without images.
    """
    if isinstance(images, (str, os.PathLike)):
        place = os.path.expanduser(images)
        files = glob.glob(place, recursive=True)
        if os.path.isdir(place):
            files = glob.glob(os.path.join(glob.escape(place), "**", "*"), recursive=True)
        if files == [place]:
            raise DataError(f"{place!r} is one image; write [{place!r}].")
        if not (found := sorted(filter(is_image_name, files))):
            raise DataError(f"{place!r} is no folder or pattern of image files; give one.")
        return found
    one = isinstance(images, np.ndarray) and images.ndim < 3 + (images.shape[-1] in (1, 3))
    if isinstance(images, bytes) or hasattr(images, "getbands") or one:
        raise DataError("a single image is given; write [image], a list of it.")
    return images


class Extended(Dataset):
    """A dataset with one more domain of images without labels, the same ones in every split.

    No label is there to leak: what adapts to these images may look at all of them.
    """

    def __init__(self, dataset: Dataset, domain: str, images: Sequence[Image]):
        self._dataset, self._domain, self._images = dataset, nfc(domain), list(listed(images))
        if self._domain in dataset.domains:
            fault = f"domain {domain!r} is one of {some(dataset.domains)}"
            raise ConfigError(f"{fault}; call the new images something else.")
        if not self._images:
            raise DataError(f"there are no images in {domain!r}; give some.")
        self.name, self.classes, self.skipped = dataset.name, dataset.classes, dataset.skipped
        self.domains = (*dataset.domains, self._domain)

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """Return the classes that a domain declares; the new images may be of any."""
        mine = check_domain(self, domain) == self._domain
        return self.classes if mine else self._dataset.classes_of(domain)

    def unlabelled(self, domain: str) -> bool:
        mine = check_domain(self, domain) == self._domain
        return mine or self._dataset.unlabelled(domain)

    def splits_of(self, domain: str) -> tuple[str, ...]:
        return SPLITS if domain == self._domain else self._dataset.splits_of(domain)

    def source(self, domain: str, split: str) -> Source:
        if check_domain(self, domain) != self._domain:
            return self._dataset.source(domain, split)
        about = {"classes": self.classes, "domain": self._domain, "split": split}
        return GivenSource(self._images, **about)
