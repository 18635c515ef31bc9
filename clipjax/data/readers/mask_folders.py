"""Folders of images and masks: `root/domain/images/...`, `root/domain/masks/...`."""

import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Skipped, check_root
from clipjax.data.masks import MaskDataset, check_split
from clipjax.data.readers.files import is_image_name, subfolders
from clipjax.data.readers.mask_files import MaskFiles, pair, pictures, walk
from clipjax.data.readers.mask_labels import has_table, read_table
from clipjax.data.splits import SPLITS, WHOLE, split_of
from clipjax.errors import DataError
from clipjax.io.texts import nfc, shown

IMAGES, MASKS = "images", "masks"
BESIDE = "beside the folders of splits"


class MaskFolders(MaskDataset):
    """`root/DOMAIN/{images,masks}/stem.*`, or with splits as in docs/your-data.md.

    Masks of a part, or of a domain, may lack altogether: it is there with images alone.

    Splits are folders in `images` and `masks`, or around them: `DOMAIN/images/train/a.jpg` with
    `DOMAIN/masks/train/a.png`, or `DOMAIN/train/images/a.jpg` with `DOMAIN/train/masks/a.png`. An
    image's mask has its name up to the extension. Splits that are missing are dealt out of train by
    a hash of the names. A root with `images` and `masks` itself is one domain. The classes stand in
    `classes.txt` or `classes.json` (`clipjax.data.readers.mask_labels.read_table`).

    Of images some of which have masks, those without one are in their source's `missing`; masks
    without an image, and images beside folders of splits, are in `skipped`. DataError for no table
    or several, a domain without images, two folders of one domain or split, or files in a folder of
    masks that are of none of the images.
    """

    def __init__(self, root: str | os.PathLike, fractions: Sequence[float] = splits.FRACTIONS):
        self.root = check_root(root, "the folder of domains")
        self.fractions = splits.check_fractions(fractions)
        self.name = shown(self.root.absolute().name)
        places = domain_folders(self.root)
        if not places:
            told = f"{shown(self.root)} holds no folder with {IMAGES} and {MASKS}"
            raise DataError(f"{told}; put them into domain/{IMAGES} and domain/{MASKS}.")
        self.table = read_table(self.root, *places.values())
        self.classes, self.domains, skipped = self.table.classes, tuple(places), []
        self._parts: dict[tuple[str, str], MaskFiles] = {}
        for domain, place in places.items():
            for split, (image, mask) in _given(place).items():
                images, masks = pictures(image), pictures(mask)
                found = pair(images, masks, self.table, self.root, domain, split)
                if not images:
                    raise DataError(f"{shown(image)} holds no image; fill it, or remove it.")
                if masks and not len(found):
                    told = f"{shown(image)} holds no image with a mask in {shown(mask)}"
                    raise DataError(f"{told}; give a mask the name of its image.")
                if not masks:
                    _check_bare(place, image, mask)
                self._parts[domain, split] = found if masks else found.alone()
                lost = (path for key, path in masks.items() if key not in images)
                skipped += [Skipped(shown(path), "a mask without an image") for path in lost]
            skipped += [Skipped(shown(path), BESIDE) for path in _beside(place)]
        self.skipped = tuple(skipped)

    def _splits(self, domain: str) -> tuple[str, ...]:
        return tuple(split for d, split in self._parts if d == domain)

    def source(self, domain: str, split: str) -> MaskFiles:
        domain = check_split(self, domain, split)
        given = self._splits(domain)
        part, _ = splits.origin(split, given)
        found = self._parts[domain, part]
        names = [found.images.path(i) for i in range(len(found))]
        where = lambda: splits.positions(os.path.basename(name) for name in names)
        alike = np.zeros(len(found), np.int32)  # dealt as if all were of one class
        rows = splits.deal(split, given, where, alike, self.fractions)
        # What has no mask is told once, with the first split that is dealt out of its part.
        tells = found.masked and split == (part or SPLITS[0])
        missing, bare = (found.missing, found.bare) if tells else ((), None)
        masks = found.masks.take(rows) if found.masked else None
        kept = {"images": found.images.take(rows), "masks": masks, "bare": bare}
        return MaskFiles(self.table, domain, split, missing, **kept)


def domain_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return domain -> folder with images, in it or in its folders of splits, masks beside them."""
    if _given(root):
        return {nfc(shown(root.absolute().name)): root}
    found: dict[str, pathlib.Path] = {}
    for folder in filter(_given, subfolders(root)):
        if (other := found.setdefault(nfc(shown(folder.name)), folder)) != folder:
            both = f"{shown(other.name)!a} and {shown(folder.name)!a}"
            told = f"{shown(root)} holds two folders of one name, {both}, in two Unicode forms"
            raise DataError(f"{told}; put their images into one.")
    return found


def is_told(root: pathlib.Path) -> bool:
    """Return whether folders of images have masks, or names of classes beside them."""
    places = domain_folders(root).values()
    masks = (mask for place in places for _, mask in _given(place).values())
    return any(mask.is_dir() for mask in masks) or has_table(root, *places)


def _given(place: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Return split -> its folders of images and masks, which need not be there."""
    image, mask = place / IMAGES, place / MASKS
    if image.is_dir():
        pairs = [(folder, mask / folder.name) for folder in subfolders(image)]
    else:
        pairs = [(folder / IMAGES, folder / MASKS) for folder in subfolders(place)]
        pairs = [(folder, masks) for folder, masks in pairs if folder.is_dir()]
    found = {}
    for folder, masks in pairs:
        name = (folder if image.is_dir() else folder.parent).name
        if (split := split_of(name)) in found:
            told = f"{shown(found[split][0])} and {shown(folder)} are both of {split}"
            raise DataError(f"{told}; put their images into one, and their masks.")
        if split:
            found[split] = folder, masks
    return found or ({WHOLE: (image, mask)} if image.is_dir() else {})


def _beside(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the images of a domain that lie in none of its folders of splits, if it has these."""
    if WHOLE in (given := _given(place)):
        return
    for path in walk(place / IMAGES if (place / IMAGES).is_dir() else place):
        inside = any(path.is_relative_to(folder) for pair in given.values() for folder in pair)
        if is_image_name(path.name) and not inside:
            yield path


def _check_bare(place: pathlib.Path, image: pathlib.Path, mask: pathlib.Path) -> None:
    """Raise DataError if images of a domain seem to have no masks, and files may be these."""
    others = [folder for _, folder in _given(place).values() if folder != mask]
    near = dict.fromkeys((mask, place / MASKS))
    files = (path for folder in near for path in walk(folder))
    strays = [path for path in files if not any(path.is_relative_to(x) for x in others)]
    if strays:
        told = f"{shown(image)} has no mask in {shown(mask)}, and {shown(strays[0])} is none"
        raise DataError(f"{told}; write PNG there with the names of the images, or move it away.")
