"""Masks in files: their decoding, and a source over pairs of image and mask files."""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipjax.data.dataset import digest
from clipjax.data.images.decode import (
    SIDEWAYS,
    check_pixels,
    decode_turned,
    orientation_of,
    upright,
)
from clipjax.data.masks import MaskExample, MaskSource, NoMask, SizeFault
from clipjax.data.readers.files import Files, Names, is_image_name, look
from clipjax.data.readers.mask_labels import LabelTable
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown

_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")  # those that lose nothing, or may not
_SCALED = {"L;2": 85, "L;4": 17}  # Pillow makes 0 to 255 of grey of 2 and 4 bits
_UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError, LookupError)


def decode_mask(data: bytes, name: str = "mask") -> np.ndarray:
    """Decode a mask to the values that its file holds, whole numbers [H, W], upright as its EXIF.

    Palettes give their indices, grey its values of any depth. DataError, with the `name`: damaged
    bytes, JPEG and lossy WebP, which change labels, or colours, of which nobody knows the classes.
    """
    return _decoded(data, name)[0]


def _decoded(data: bytes, name: str) -> tuple[np.ndarray, bool]:
    """Return a mask's values, and whether its file says how it is turned."""
    try:
        with Image.open(io.BytesIO(data), formats=(*_FORMATS, "JPEG")) as picture:
            check_pixels(*picture.size)
            kind, mode = picture.format, picture.mode
            lossy = _lossy(kind, data, picture.info)
            how = picture.tile[0][3] if picture.tile else ""
            how = how[0] if isinstance(how, tuple) and how else how
            first = orientation_of(picture) if kind == "TIFF" else 1  # PIL turns it as it loads
            values = np.asarray(picture)
            turn = 1 if kind == "TIFF" else orientation_of(picture)
    except UnidentifiedImageError:
        raise DataError(f"{name} cannot be read as a mask (no image); write PNG.") from None
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} cannot be read as a mask ({reason}); replace it.") from None
    if lossy:
        raise DataError(f"{name} is {lossy}, which changes the values of a mask; write PNG.")
    if values.ndim == 3:
        colours = values[..., :3] if mode in ("RGB", "RGBA") else values[..., :1]
        if (colours != colours[..., :1]).any():
            told = f"{name} is a picture in colours"
            raise DataError(f"{told}; write the values of classes as grey or palette PNG.")
        values = colours[..., 0]
    if values.dtype.kind == "f":
        raise DataError(f"{name} holds fractions; write the values of classes as grey PNG.")
    values = values.astype(np.uint8) if values.dtype == bool else values
    values = values // _SCALED.get(how, 1) if kind == "PNG" else values
    return upright(values, turn), (first, turn) != (1, 1)


def _lossy(kind: str, data: bytes, about: Mapping[str, Any]) -> str:
    """Say how an image is stored that is not as it was written; "" if it is."""
    if kind == "WEBP":
        return "" if b"VP8L" in data else "a lossy WebP"
    if kind == "TIFF":
        return "a TIFF compressed as JPEG" if "jpeg" in about.get("compression", "") else ""
    return "a JPEG" if kind == "JPEG" else ""


def masked(
    image: bytes | np.ndarray, mask: bytes, table: LabelTable, name: str, mask_name: str
) -> MaskExample:
    """Decode an image and its mask, both upright; SizeFault or LabelFault if they do not fit.

    Of an image that EXIF turns the mask is turned alike if its size is that of the image as it is
    stored. DataError where the size says nothing, as of half a turn: the mask's file has to.
    """
    pixels, turn = decode_turned(image, name)
    values, told = _decoded(mask, mask_name)
    if turn != 1 and not told:
        stored = pixels.shape[1::-1] if turn in SIDEWAYS else pixels.shape[:2]
        if values.shape == stored == pixels.shape[:2]:
            said = f"{name} is turned by its EXIF orientation {turn}, and whether its mask is, too,"
            raise DataError(f"{said} its size does not say; store both upright.")
        values = upright(values, turn) if values.shape == stored else values
    if values.shape != pixels.shape[:2]:
        sizes = ("{} x {}".format(*x.shape[:2]) for x in (values, pixels))
        told = "the mask of {} is {}, and the image {} pixels (height x width)".format(name, *sizes)
        raise SizeFault(f"{told}; make them of one size, the mask by nearest neighbours.")
    return MaskExample(pixels, table.encode(values, name), name)


@dataclasses.dataclass(repr=False, eq=False)
class StoredMasks(MaskSource):
    """A source of stored masks, whose values a table names; its `_digest` is of the content."""

    table: LabelTable
    domain: str
    split: str
    missing: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.table.classes

    def __repr__(self) -> str:
        told = f"{self.domain}/{self.split}, n={len(self)}, {self._digest}"
        return f"{type(self).__name__}({told})"


@dataclasses.dataclass(repr=False, eq=False, kw_only=True)
class MaskFiles(StoredMasks):
    """Images and masks in files, of one length and order; images alone where `masks` is None.

    `bare` are images of the split beside them that have no mask.
    """

    images: Files
    masks: Files | None
    bare: Files | None = None

    @property
    def masked(self) -> bool:
        return self.masks is not None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> MaskExample:
        index = range(len(self))[index]
        image, name = self.images.read(index), self.name_of(index)
        if self.masks is None:
            pixels = decode_turned(image, name)[0]
            return MaskExample(pixels, NoMask(pixels.shape[:2]), name)
        where = shown(self.masks.path(index))
        return masked(image, self.masks.read(index), self.table, name, where)

    def alone(self) -> "MaskFiles":
        images = self.images if self.bare is None else self.images + self.bare
        return MaskFiles(self.table, self.domain, self.split, images=images, masks=None)

    def name_of(self, index: int) -> str:
        return shown(self.images.path(index))

    @functools.cached_property
    def _digest(self) -> str:
        table = (*self.classes, str(sorted(self.table.numbers.items())))
        masks = self.masks.fingerprint() if self.masks is not None else ""
        return digest([self.images.fingerprint(), masks, "\n".join(table)])


def pictures(folder: pathlib.Path, suffix: str = "") -> dict[str, pathlib.Path]:
    """Return stem below a folder -> image file, at any depth; `suffix` ends the names and is cut.

    DataError for two files of one stem.
    """
    found: dict[str, pathlib.Path] = {}
    for path in walk(folder):
        name = path.name
        if not is_image_name(name) or not name.endswith(suffix):
            continue
        stem = name.removesuffix(suffix) if suffix else path.stem
        key = nfc((path.parent / stem).relative_to(folder).as_posix())
        if (other := found.setdefault(key, path)) != path:
            told = f"{shown(other)} and {shown(path)} have one name"
            raise DataError(f"{told}; keep one of them.")
    return found


def walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the files below a folder in order, hidden ones aside; links are followed."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (pathlib.Path(place, name) for name in sorted(names) if name[0] != ".")


def pair(
    images: Mapping[str, pathlib.Path],
    masks: Mapping[str, pathlib.Path],
    table: LabelTable,
    root: pathlib.Path,
    domain: str,
    split: str,
) -> MaskFiles:
    """Return the images that have a mask; the others are in `missing` and `bare`."""
    both = [key for key in images if key in masks]
    others = [path for key, path in images.items() if key not in masks]
    stored = [_looked(root, [found[key] for key in both]) for found in (images, masks)]
    kept = {"images": stored[0], "masks": stored[1], "bare": _looked(root, others)}
    return MaskFiles(table, domain, split, tuple(map(shown, others)), **kept)


def _looked(root: pathlib.Path, paths: Sequence[pathlib.Path]) -> Files:
    """Ask for sizes and times of files below a root."""
    below = [os.path.split(os.path.relpath(path, root)) for path in paths]
    folders = list(dict.fromkeys(folder for folder, _ in below))
    place = {folder: k for k, folder in enumerate(folders)}
    numbers = np.array([place[folder] for folder, _ in below], np.int32)
    return look(root, folders, numbers, Names.pack(name for _, name in below))
