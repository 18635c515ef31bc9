"""Small fakes of datasets with masks, in the layout of their publishers, and folders of them."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

NAMES = ("ground", "box", "ball")


def scene(seed: int, size: tuple[int, int] = (16, 24), values: Sequence[int] = (0, 1, 2)):
    """An image uint8 [H, W, 3] and its mask uint8 [H, W]: a box and a ball on a ground."""
    rng = np.random.default_rng(seed)
    mask = np.full(size, values[0], np.uint8)
    top, left = (int(rng.integers(1, side // 2)) for side in size)
    mask[top : top + size[0] // 3, left : left + size[1] // 3] = values[1]
    rows, columns = np.indices(size)
    away = (rows - rng.integers(size[0])) ** 2 + (columns - rng.integers(size[1])) ** 2
    mask[away < (size[0] / 4) ** 2] = values[2]
    colours = np.zeros((256, 3), np.uint8)
    colours[list(values[:3])] = [(90, 90, 90), (220, 40, 40), (40, 200, 60)]
    noise = rng.integers(0, 25, (*size, 3), np.uint8)
    return colours[mask] + noise, mask


def save(path: pathlib.Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    """Write an image or a mask; a palette one has colours that say nothing of its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    picture.save(path)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def folders(
    root: pathlib.Path,
    domains: Sequence[str] = ("clear", "fog"),
    counts: Mapping[str, int] | None = None,
    size: tuple[int, int] = (16, 24),
) -> pathlib.Path:
    """Write `root/DOMAIN/{images,masks}/SPLIT`; fog is paler."""
    for number, domain in enumerate(domains):
        for split, count in (counts or {"train": 4, "val": 2, "test": 3}).items():
            for i in range(count):
                image, mask = scene(1000 * number + 100 * len(split) + i, size)
                image = image // 2 + 110 if domain == "fog" else image
                save(root / domain / "images" / split / f"{i}.png", image)
                save(root / domain / "masks" / split / f"{i}.png", mask)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def cityscapes(root: pathlib.Path, kind: str = "labelIds") -> pathlib.Path:
    """Write leftImg8bit and gtFine of two cities a split; of test the masks are void."""
    values = {"labelIds": (7, 26, 4), "labelTrainIds": (0, 13, 255)}[kind]
    for split in ("train", "val", "test"):
        for i, city in enumerate(("aachen", "bonn")):
            image, mask = scene(i + 10 * len(split), values=values)
            stem = f"{split}/{city}/{city}_000000_{i:06d}"
            save(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", image)
            place = root / "gtFine" / f"{stem}_gtFine"
            save(place.with_name(f"{place.name}_{kind}.png"), mask * (split != "test"))
            save(place.with_name(f"{place.name}_color.png"), image)
            save(place.with_name(f"{place.name}_instanceIds.png"), mask.astype(np.uint16) * 1000)
            place.with_name(f"{place.name}_polygons.json").write_text("{}")
    return root


def acdc(root: pathlib.Path, count: int = 2) -> pathlib.Path:
    """Write rgb_anon and gt of four conditions, with reference images, test without masks."""
    for k, condition in enumerate(("fog", "night", "rain", "snow")):
        for split in ("train", "val", "test", "train_ref", "val_ref"):
            for i in range(count):
                image, mask = scene(100 * k + 10 * len(split) + i, values=(0, 13, 255))
                stem = f"{condition}/{split}/GOPR0475/GOPR0475_frame_{i:06d}"
                save(root / "rgb_anon" / f"{stem}_rgb_{'ref_' * ('_' in split)}anon.png", image)
                if split in ("train", "val"):
                    save(root / "gt" / f"{stem}_gt_labelTrainIds.png", mask)
                    save(root / "gt" / f"{stem}_gt_labelColor.png", image)
    return root


def ade20k(root: pathlib.Path) -> pathlib.Path:
    """Write ADEChallengeData2016 with values 0 (ignored), 1 and 150."""
    root = root / "ADEChallengeData2016"
    for part, split in (("training", "train"), ("validation", "val")):
        for i in range(2):
            image, mask = scene(i, values=(0, 1, 150))
            save(root / "images" / part / f"ADE_{split}_{i:08d}.jpg", image)
            save(root / "annotations" / part / f"ADE_{split}_{i:08d}.png", mask)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return root.parent


def voc(root: pathlib.Path) -> pathlib.Path:
    """Write VOCdevkit/VOC2012: five images, of which one has no mask and one is in no list."""
    place = root / "VOCdevkit" / "VOC2012"
    for i in range(5):
        image, mask = scene(i, values=(0, 15, 255))
        save(place / "JPEGImages" / f"2007_{i:06d}.jpg", image)
        if i != 3:
            save(place / "SegmentationClass" / f"2007_{i:06d}.png", mask, palette=True)
    lists = place / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000001\n")
    (lists / "val.txt").write_text("2007_000002\n2007_000003\n2007_000009\n")
    return root


def parquet(
    root: pathlib.Path, column: str = "annotation", domains: Sequence[str] = ("clear", "fog")
) -> pathlib.Path:
    """Write a file for each domain and split, as `datasets` writes two columns of images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, domain in enumerate(domains):
        for split in ("train", "test"):
            pairs = [scene(100 * number + 10 * len(split) + i) for i in range(3)]
            stored = [
                [{"bytes": png(p[k]), "path": f"{i}.png"} for i, p in enumerate(pairs)]
                for k in (0, 1)
            ]
            stored[1][2] = None if split == "train" else stored[1][2]
            place = root / domain / f"{split}-00000-of-00001.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"image": stored[0], column: stored[1]}), place)
    (root / "classes.json").write_text(json.dumps(NAMES))
    return root
