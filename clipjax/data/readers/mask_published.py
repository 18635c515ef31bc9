"""Images with masks as they are published: Cityscapes, ACDC, ADE20K, PASCAL VOC."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from clipjax.data.dataset import Skipped, check_root
from clipjax.data.masks import MaskDataset, MaskSource, check_split
from clipjax.data.readers.files import subfolders
from clipjax.data.readers.mask_files import MaskFiles, pair, pictures
from clipjax.data.readers.mask_labels import ADE20K, CITYSCAPES, KNOWN, VOC
from clipjax.data.splits import SPLITS
from clipjax.errors import DataError
from clipjax.io.texts import read_text, shown

Parts = Mapping[tuple[str, str], MaskSource]  # (domain, split) -> its images with masks


class PartsDataset(MaskDataset):
    """A dataset whose parts are known when it is opened."""

    def __init__(
        self, name: str, classes: Sequence[str], parts: Parts, skipped: Sequence[Skipped] = ()
    ):
        self.name, self.classes, self.skipped = name, tuple(classes), tuple(skipped)
        self.domains = tuple(dict.fromkeys(domain for domain, _ in parts))
        self._parts = parts

    def splits_of(self, domain: str) -> tuple[str, ...]:
        self.check(domain)
        return tuple(split for split in SPLITS if (domain, split) in self._parts)

    def check(self, domain: str) -> None:
        """Raise ConfigError if there is no such domain."""
        super().splits_of(domain)

    def source(self, domain: str, split: str) -> MaskSource:
        return self._parts[check_split(self, domain, split), split]


def cityscapes(root: str | os.PathLike) -> PartsDataset:
    """Open Cityscapes: `leftImg8bit/{train,val}/CITY/*_leftImg8bit.png`, `gtFine/...` beside it.

    Masks are `*_gtFine_labelIds.png`, as downloaded, read through the official table of 19 classes,
    or `*_gtFine_labelTrainIds.png` where these alone are there. One domain, "cityscapes". The masks
    of test are withheld (the files there label nothing), so it is left out.
    """
    root = check_root(root, "the folder of leftImg8bit and gtFine")
    parts = {}
    for split in ("train", "val"):
        if (folder := root / "leftImg8bit" / split).is_dir():
            images = pictures(folder, "_leftImg8bit.png")
            masks, table = _by_ids(root / "gtFine" / split, "_gtFine")
            found = pair(images, masks, KNOWN[table], root, "cityscapes", split)
            parts["cityscapes", split] = _some(found, folder, root / "gtFine" / split)
    return PartsDataset("cityscapes", CITYSCAPES, _any(parts, root, "leftImg8bit/train"))


def _by_ids(folder: pathlib.Path, middle: str) -> tuple[dict[str, pathlib.Path], str]:
    """Return masks by stem, those of all ids if there are some, and the name of their table."""
    masks = pictures(folder, f"{middle}_labelIds.png")
    if masks:
        return masks, "cityscapes"
    return pictures(folder, f"{middle}_labelTrainIds.png"), "cityscapes_train_ids"


def acdc(root: str | os.PathLike) -> PartsDataset:
    """Open ACDC: `rgb_anon/CONDITION/{train,val}/SEQUENCE/*_rgb_anon.png`, `gt/...` beside it.

    Domains are fog, night, rain and snow, classes those of Cityscapes. The images of the same
    places in clear sight (`train_ref`, ...) are left out, and so is test: its masks are withheld.
    """
    root = check_root(root, "the folder of rgb_anon and gt")
    parts = {}
    for condition in subfolders(root / "rgb_anon"):
        for split in ("train", "val"):
            if not (condition / split).is_dir():
                continue
            place = root / "gt" / condition.name / split
            masks, table = pictures(place, "_gt_labelTrainIds.png"), "cityscapes_train_ids"
            if not masks:
                masks, table = pictures(place, "_gt_labelIds.png"), "cityscapes"
            images = pictures(condition / split, "_rgb_anon.png")
            found = pair(images, masks, KNOWN[table], root, condition.name, split)
            parts[condition.name, split] = _some(found, condition / split, place)
    return PartsDataset("acdc", CITYSCAPES, _any(parts, root, "rgb_anon/fog/val"))


def ade20k(root: str | os.PathLike) -> PartsDataset:
    """Open ADE20K's 150 classes: `images/{training,validation}`, `annotations/...` beside it.

    Value 0 is ignored, k is class k - 1 (`reduce_zero_label`). The root is `ADEChallengeData2016`
    or the folder of it; one domain, "ade20k".
    """
    root = check_root(root, "the folder of images and annotations")
    root = _within(root, ADE_PLACES)
    parts = {}
    for folder, split in (("training", "train"), ("validation", "val")):
        if (root / "images" / folder).is_dir():
            image, mask = (root / kind / folder for kind in ("images", "annotations"))
            found = pair(pictures(image), pictures(mask), KNOWN["ade20k"], root, "ade20k", split)
            parts["ade20k", split] = _some(found, image, mask)
    return PartsDataset("ade20k", ADE20K, _any(parts, root, "images/training"))


def voc(root: str | os.PathLike) -> PartsDataset:
    """Open PASCAL VOC: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/*.txt`.

    Masks are palettes, of which the indices count; 255, the borders of objects, is ignored. The
    root is a year's folder, `VOCdevkit`, or the folder of it; one domain, "voc". Test is left out:
    its masks are withheld.
    """
    root = _within(check_root(root, "the folder of JPEGImages"), VOC_PLACES)
    images, masks = pictures(root / "JPEGImages"), pictures(root / "SegmentationClass")
    parts, skipped = {}, []
    for split in ("train", "val"):
        file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not file.is_file():
            continue
        listed = [line.strip() for line in read_text(file).split("\n") if line.strip()]
        lost = [name for name in listed if name not in images]
        skipped += [Skipped(f"{shown(file)}: {name}", "no image in JPEGImages") for name in lost]
        own = {name: images[name] for name in listed if name in images}
        found = pair(own, masks, KNOWN["voc"], root, "voc", split)
        parts["voc", split] = _some(found, root / "JPEGImages", root / "SegmentationClass")
    parts = _any(parts, root, "ImageSets/Segmentation/train.txt")
    return PartsDataset("voc", VOC, parts, skipped)


ADE_PLACES = ("", "ADEChallengeData2016")
VOC_PLACES = ("", "VOC2012", "VOCdevkit/VOC2012")


def _within(root: pathlib.Path, places: Sequence[str]) -> pathlib.Path:
    """Return the first of these folders of a root that holds a dataset, else the root."""
    holds = lambda p: (p / "JPEGImages").is_dir() or (p / "annotations").is_dir()
    return next((root / place for place in places if holds(root / place)), root)


def published(root: pathlib.Path) -> Iterator[str]:
    """Yield the names of the published datasets whose folders are in a root."""
    if (root / "leftImg8bit").is_dir():
        yield "cityscapes"
    if (root / "rgb_anon").is_dir():
        yield "acdc"
    if any((root / place / "annotations" / "training").is_dir() for place in ADE_PLACES):
        yield "ade20k"
    if any((root / place / "SegmentationClass").is_dir() for place in VOC_PLACES):
        yield "voc"


def _some(found: MaskFiles, images: pathlib.Path, masks: pathlib.Path) -> MaskFiles:
    """Return a part; DataError if it has no image with a mask."""
    if len(found):
        return found
    if found.missing:
        told = f"none of the {len(found.missing)} images in {shown(images)} has a mask in"
        raise DataError(f"{told} {shown(masks)}; unpack the masks there.")
    raise DataError(f"{shown(images)} holds no images; unpack them there, or remove it.")


def _any(parts: Parts, root: pathlib.Path, wanted: str) -> Parts:
    """Return the parts; DataError if there is none."""
    if not parts:
        raise DataError(f"{shown(root)} holds no {wanted}; unpack the dataset there.")
    return parts


OPENERS = {"cityscapes": cityscapes, "acdc": acdc, "ade20k": ade20k, "voc": voc}
