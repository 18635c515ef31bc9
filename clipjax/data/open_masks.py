"""Opens images with masks by name and root, and recognises what lies there."""

import os
import pathlib
from collections.abc import Sequence

from clipjax.data.dataset import check_root
from clipjax.data.masks import MaskDataset
from clipjax.data.readers.files import subfolders
from clipjax.data.readers.mask_folders import MaskFolders, domain_folders, is_told
from clipjax.data.readers.mask_parquet import MaskParquet
from clipjax.data.readers.mask_published import OPENERS, PartsDataset, published
from clipjax.data.readers.parquet_io import begins_parquet
from clipjax.data.recognise import Kind
from clipjax.data.scenes import SceneDataset
from clipjax.data.splits import FRACTIONS
from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import shown, some

JOINED = "joined"  # several, each in a folder of the root
KNOWN = ("auto", "scenes", "folder", "parquet", *OPENERS, JOINED)
_CALLED = {
    "folder": "folders of images and masks",
    "parquet": "Parquet with a column of masks",
    "cityscapes": "Cityscapes",
    "acdc": "ACDC",
    "ade20k": "ADE20K",
    "voc": "PASCAL VOC",
}
READABLE = (
    "domain/images with domain/masks, Cityscapes (leftImg8bit, gtFine), ACDC (rgb_anon, gt), "
    "ADE20K (images/training, annotations/training), VOC (JPEGImages, SegmentationClass), Parquet "
    "with a column of masks, or folders of several of these"
)


def recognise_masks(root: str | os.PathLike) -> Kind:
    """Say how images with masks at a root are read; looks at names alone.

    DataError for a root that is no folder, that fits several readers, or none.
    """
    folder = check_root(root, "the folder of images and masks")
    found = _kinds(folder)
    if len(found) > 1:
        names = " or ".join(f"data.name={name}" for name in found)
        raise DataError(f"{shown(folder)} holds {' and '.join(found)}; say which: {names}.")
    if found:
        return Kind(found[0], f"the root is read as {_CALLED[found[0]]}")
    inner = {path.name: kinds for path in subfolders(folder) if (kinds := _kinds(path))}
    if inner:
        named = some((f"{name}/: {' or '.join(kinds)}" for name, kinds in inner.items()), 5)
        return Kind(JOINED, f"the root is read as several datasets ({named})")
    if domain_folders(folder):  # of images alone, without names of classes: opening says so
        return Kind("folder", f"the root is read as {_CALLED['folder']}")
    raise DataError(f"{shown(folder)} holds no images with masks; what is read: {READABLE}.")


def _kinds(folder: pathlib.Path) -> list[str]:
    found = list(published(folder))
    if not found and begins_parquet(folder):
        found.append("parquet")
    inner = any(any(published(path)) for path in subfolders(folder))
    if not found and not inner and is_told(folder):
        found.append("folder")
    return found


def open_masks(
    name: str = "auto", root: str = "", *, fractions: Sequence[float] = FRACTIONS
) -> MaskDataset:
    """Open images with masks.

    Args:
      name: "auto": what lies at the root, without one scenes; "scenes", "folder", "parquet",
        "cityscapes", "acdc", "ade20k", "voc"; "joined": datasets of the same classes, each in a
        folder of the root, as Cityscapes and ACDC.
      root: folder of the dataset.
      fractions: shares of train, val and test where the data comes without splits.

    ConfigError for an unknown name, one that needs a root, or scenes with one; DataError for
    nothing readable there.
    """
    if name not in KNOWN:
        raise ConfigError(f"unknown data.name {name!r}; known: {', '.join(KNOWN)}.")
    if not root and name in ("auto", "scenes"):
        return SceneDataset()
    if name == "scenes":
        raise ConfigError(f"data.name=scenes has no files, and data.root={root}; leave one out.")
    if not root:
        raise ConfigError(f"data.name={name!r} needs --config.data.root=/path.")
    kind = recognise_masks(root).name if name == "auto" else name
    if kind in OPENERS:
        return OPENERS[kind](root)
    if kind == JOINED:
        return _joined(check_root(root, "the folder of datasets"), fractions)
    return (MaskParquet if kind == "parquet" else MaskFolders)(root, fractions)


def _joined(root: pathlib.Path, fractions: Sequence[float]) -> PartsDataset:
    """Open the datasets in the folders of a root as one; DataError if they do not go together."""
    found = [open_masks("auto", str(p), fractions=fractions) for p in subfolders(root) if _kinds(p)]
    if not found:
        raise DataError(f"{shown(root)} holds no folder of a dataset; what is read: {READABLE}.")
    parts, skipped = {}, []
    for dataset in found:
        if dataset.classes != found[0].classes:
            told = f"{dataset.name} and {found[0].name} in {shown(root)} have different classes"
            raise DataError(f"{told}; give both one table of labels.")
        for domain in dataset.domains:
            if any(domain == known for known, _ in parts):
                told = f"{shown(root)} holds two domains {domain!r}"
                raise DataError(f"{told}; rename one, or move it away.")
            parts |= {(domain, s): dataset.source(domain, s) for s in dataset.splits_of(domain)}
        skipped += dataset.skipped
    return PartsDataset(shown(root.absolute().name), found[0].classes, parts, skipped)
