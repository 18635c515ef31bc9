"""What the values of a mask's pixels mean: tables from values to classes, known ones and given."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from clipjax.adapt.pixels import IGNORED
from clipjax.data.masks import LabelFault
from clipjax.data.readers.list_files import CLASSES, class_names
from clipjax.errors import DataError
from clipjax.io.texts import check_class_names, class_name, read_text, shown, some

TABLE = "classes.json"  # beside the data, in place of `CLASSES`
_VALUES = 1 << 16  # of a mask of 16 bits
_BEYOND = 256  # in a table of all values: no class, and not ignored either


class LabelTable(NamedTuple):
    """Classes, and the values that stand for them or are ignored; others are a fault."""

    classes: tuple[str, ...]
    numbers: Mapping[int, int]  # value -> number of its class, or IGNORED

    def encode(self, values: np.ndarray, name: str) -> np.ndarray:
        """Map whole numbers [H, W] to classes uint8 [H, W]; LabelFault, with `name`, for others.

        >>> table = LabelTable(("road", "car"), {7: 0, 26: 1})
        >>> table.encode(np.array([[7, 26, 255]]), "a.png").tolist()
        [[0, 1, 255]]
        """
        if unknown := self.beyond(values):
            has = (
                f"the value {unknown[0]}"
                if len(unknown) == 1
                else f"values ({some(map(str, unknown), 5)})"
            )
            remedy = f"name them in {TABLE}, or map them to null, which is ignored"
            told = f"the mask of {name} has {has} beyond the table of {len(self.classes)} classes"
            raise LabelFault(f"{told}; {remedy}.")
        return self._all()[values].astype(np.uint8)

    def beyond(self, values: np.ndarray) -> list[int]:
        """Return the values that the table lacks, ascending."""
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high >= _VALUES:
            found = np.unique(values)
            return found[(found < 0) | (found >= _VALUES)].tolist()
        lost = self._all()[values] == _BEYOND
        return np.unique(values[lost]).tolist() if lost.any() else []

    def _all(self) -> np.ndarray:
        """Return the class of every value, int16 [65536]."""
        found = np.full(_VALUES, _BEYOND, np.int16)
        found[IGNORED] = IGNORED
        for value, number in self.numbers.items():
            found[value] = number
        return found


def plain_table(classes: tuple[str, ...]) -> LabelTable:
    """Return the table in which class k has value k."""
    return LabelTable(classes, {k: k for k in range(len(classes))})


CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
    "bicycle",
)  # fmt: skip
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # of the 34 in `labelIds`
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip
ADE20K = tuple(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
    house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
    railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
    screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
    bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
    bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
    swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag""".replace("\n    ", " ").split(
        ", "
    )
)
KNOWN = {
    # All else in `labelIds` (parking, caravan, trailer, ...) is ignored, as by the official script.
    "cityscapes": LabelTable(
        CITYSCAPES,
        dict.fromkeys(range(34), IGNORED) | {v: k for k, v in enumerate(_CITYSCAPES_IDS)},
    ),
    "cityscapes_train_ids": plain_table(CITYSCAPES),
    "ade20k": LabelTable(ADE20K, {0: IGNORED} | {k + 1: k for k in range(len(ADE20K))}),
    "voc": plain_table(VOC),
}


def has_table(*folders: pathlib.Path) -> bool:
    """Return whether one of the folders has a table of `read_table`."""
    return any((folder / name).is_file() for folder in folders for name in (TABLE, CLASSES))


def read_table(*folders: pathlib.Path) -> LabelTable:
    """Read the table of the folders that have one, one for all: classes.json, or classes.txt.

    classes.txt names the class of value 0, 1, ... a line. classes.json is a list of such names, or
    {"7": "road", "8": null}: the class of a value, null for ignored ones, several values of one
    class by its name again; or the name of a table in `KNOWN`. 255 is always ignored.

    DataError: none of both is there, what they hold is no table, or folders have different ones.
    """
    found: dict[pathlib.Path, LabelTable] = {}
    for folder in folders:
        if (file := folder / TABLE).is_file():
            found[file] = _from_json(file)
        elif (file := folder / CLASSES).is_file():
            found[file] = checked(plain_table(class_names(folder)), shown(file))
    first = next(iter(found), None)
    for file, table in found.items():
        if table != found[first]:
            told = f"{shown(first)} and {shown(file)} name values differently"
            raise DataError(f"{told}; give all domains one table, with masks by it.")
    if first is not None:
        return found[first]
    told = f"{shown(folders[0])} has no {CLASSES}, which names the class of value 0, 1, ... a line"
    raise DataError(f"{told}; write one, or {TABLE} with values and their classes.")


def _from_json(file: str | os.PathLike) -> LabelTable:
    try:
        given = json.loads(read_text(file), object_pairs_hook=tuple)  # a dict drops equal keys
    except ValueError as error:
        raise DataError(f"{shown(file)} is no JSON ({error}); correct it.") from None
    if isinstance(given, str):
        if given not in KNOWN:
            told = f"{shown(file)} names the table {given!r}"
            raise DataError(f"{told}; known: {', '.join(KNOWN)}.")
        return KNOWN[given]
    if isinstance(given, list):
        return checked(plain_table(check_class_names(given, shown(file))), shown(file))
    if not isinstance(given, tuple):
        told = f'{shown(file)} holds {given!r}; give {{"0": "road", "1": "car", "2": null}}'
        raise DataError(f"{told}, a list of names, or one of {', '.join(KNOWN)}.")
    classes, numbers = [], {}
    for value, name in given:
        if not value.isdecimal() or int(value) >= _VALUES:
            raise DataError(f"{shown(file)} has the value {value!r}; give a number below 65536.")
        if int(value) in numbers:
            raise DataError(f"{shown(file)} has the value {value} twice; give it one class.")
        if name is not None and (not isinstance(name, str) or not class_name(name)):
            raise DataError(f"{shown(file)} calls value {value} {name!r}; give a name, or null.")
        if name is not None and class_name(name) not in classes:
            classes.append(class_name(name))
        numbers[int(value)] = IGNORED if name is None else classes.index(class_name(name))
    return checked(LabelTable(tuple(classes), numbers), shown(file))


def checked(table: LabelTable, where: str) -> LabelTable:
    """Return a table; DataError, with `where` it stands, if it has no class or names 255."""
    if not table.classes:
        raise DataError(f"{where} names no class; give each value one.")
    if (number := table.numbers.get(IGNORED, IGNORED)) != IGNORED:
        told = f"{where} names value {IGNORED} {table.classes[number]!r}, which is always ignored"
        raise DataError(f"{told}; give that class another value.")
    if len(table.classes) > IGNORED:
        told = f"{where} has {len(table.classes)} classes ({some(table.classes, 2)})"
        raise DataError(f"{told}; at most {IGNORED} fit into a mask.")
    return table
