"""CoOp's few-shot datasets as its DATASETS.md lays them out: images and `split_zhou_*.json`."""

import json
import os
import pathlib
from typing import Any

from clipjax.data.dataset import check_root
from clipjax.data.readers.published import Listed, PublishedDataset
from clipjax.data.splits import SPLITS
from clipjax.errors import DataError
from clipjax.io.texts import brief, class_name, read_text, shown

PREFIX = "split_zhou_"
# Name of the split -> folder that its paths are relative to.
FOLDERS = {
    "Caltech101": "101_ObjectCategories",
    "OxfordPets": "images",
    "StanfordCars": "",
    "OxfordFlowers": "jpg",
    "Food101": "images",
    "SUN397": "SUN397",
    "DescribableTextures": "images",
    "EuroSAT": "2750",
    "UCF101": "UCF-101-midframes",
}
AIRCRAFT = "images_variant_"  # and a split: the lists of FGVC Aircraft, which has no JSON


def coop_tables(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the tables of one of CoOp's datasets in a folder: its split, or aircraft's lists."""
    if lists := [file for s in SPLITS if (file := root / f"{AIRCRAFT}{s}.txt").is_file()]:
        return lists if (root / "variants.txt").is_file() else []
    return sorted(root.glob(f"{PREFIX}*.json"))


class CoopDataset(PublishedDataset):
    """One of CoOp's datasets (Zhou et al. 2022, arXiv 2109.01134): one domain, splits as given.

    `root` is its folder, as `caltech-101` or `fgvc_aircraft`. Examples stand in the order of the
    split, which `data.shots_rule=coop` draws from. DataError for no split, or one that is damaged,
    lacks a part, gives a label two names, or names images that are not there.
    """

    def __init__(self, root: str | os.PathLike):
        root = check_root(root, "the folder of one of CoOp's datasets")
        tables = coop_tables(root)
        if not tables:
            wanted = f"{PREFIX}NAME.json, or variants.txt and {AIRCRAFT}train.txt and so on"
            raise DataError(f"{shown(root)} holds no split of CoOp; put {wanted} there.")
        if tables[0].suffix == ".txt":
            classes, parts = _aircraft(root)
            super().__init__(root, "aircraft", classes, parts, shown(tables[0].parent))
            return
        if len(tables) > 1:
            names = " and ".join(shown(file.name) for file in tables)
            raise DataError(f"{shown(root)} holds {names}; leave one split there.")
        (table,) = tables
        known = table.stem.removeprefix(PREFIX)
        name = known.lower()
        classes, parts = _read_split(table, FOLDERS.get(known, ""))
        named = {(name, split): part for split, part in parts.items()}
        super().__init__(root, name, classes, named, shown(table))


def _read_split(file: pathlib.Path, folder: str) -> tuple[list[str], dict[str, Listed]]:
    """Return classes by label, and parts by split; paths get the folder before them."""
    try:
        found = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{shown(file)} is not valid JSON ({error}); fetch it anew.") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(s), list) for s in SPLITS):
        raise DataError(f"{shown(file)} must hold lists train, val and test; fetch it anew.")
    names: dict[int, str] = {}
    parts = {}
    for split in SPLITS:
        for number, entry in enumerate(found[split]):
            path, label, name = _checked(entry, f"{shown(file)}, {split} {number}")
            if (known := names.setdefault(label, class_name(name))) != class_name(name):
                told = f"{shown(file)}, {split} {number}: label {label} is {name!r}"
                raise DataError(f"{told}, and before it was {known!r}; correct one.")
        before = f"{folder}/" if folder else ""
        paths = [before + entry[0].replace("\\", "/") for entry in found[split]]
        parts[split] = Listed(paths, [entry[1] for entry in found[split]])
    if sorted(names) != list(range(len(names))):
        told = f"{shown(file)} has labels {min(names)} to {max(names)} of {len(names)} classes"
        raise DataError(f"{told}; number them from 0 without gaps.")
    return [names[label] for label in sorted(names)], parts


def _checked(entry: Any, where: str) -> tuple[str, int, str]:
    kinds = [str, int, str]
    if not isinstance(entry, list) or [type(value) for value in entry] != kinds:
        fault = f"{where}: {brief(repr(entry))} is no [path, label, class name]"
        raise DataError(f"{fault}; correct it.")
    return entry[0], entry[1], entry[2]


def _aircraft(root: pathlib.Path) -> tuple[list[str], dict[tuple[str, str], Listed]]:
    """Read FGVC Aircraft: `variants.txt` orders the classes, lines of lists are `id variant`."""
    lines = lambda file: [line for line in read_text(file).split("\n") if line.strip()]
    classes = [class_name(line) for line in lines(root / "variants.txt")]
    number = {name: label for label, name in enumerate(classes)}
    parts = {}
    for split in SPLITS:
        file = root / f"{AIRCRAFT}{split}.txt"
        if not file.is_file():
            raise DataError(f"{shown(file)} is missing; put it there as it was published.")
        rows = [line.strip().split(None, 1) for line in lines(file)]
        for line, row in enumerate(rows, 1):
            if len(row) != 2 or row[1] not in number:
                fault = f"{' '.join(row)!r} is no image and variant of variants.txt"
                raise DataError(f"{shown(file)}, line {line}: {fault}; correct it.")
        paths = [f"images/{name}.jpg" for name, _ in rows]
        parts["aircraft", split] = Listed(paths, [number[variant] for _, variant in rows])
    return classes, parts
