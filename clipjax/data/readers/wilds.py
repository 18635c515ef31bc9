"""WILDS' FMoW and iWildCam as they lie on disk: splits as domains `id` and `ood`, and groups."""

import datetime
import os
import pathlib
import re

from clipjax.data.dataset import Part, check_root
from clipjax.data.readers.published import Listed, PublishedDataset, read_table
from clipjax.errors import DataError
from clipjax.io.texts import shown, some

FMOW, REGIONS, IWILDCAM = "rgb_metadata.csv", "country_code_mapping.csv", "metadata.csv"
FMOW_COLUMNS = ("split", "timestamp", "country_code", "category")
IWILDCAM_COLUMNS = ("split", "filename", "y", "location_remapped")
# WILDS' own order, in which labels count.
CATEGORIES = (
    "airport airport_hangar airport_terminal amusement_park aquaculture archaeological_site barn "
    "border_checkpoint burial_site car_dealership construction_site crop_field dam "
    "debris_or_rubble educational_institution electric_substation factory_or_powerplant "
    "fire_station flooded_road fountain gas_station golf_course ground_transportation_station "
    "helipad hospital impoverished_settlement interchange lake_or_pond lighthouse "
    "military_facility multi-unit_residential nuclear_powerplant office_building "
    "oil_or_gas_facility park parking_lot_or_garage place_of_worship police_station port prison "
    "race_track railway_bridge recreational_facility road_bridge runway shipyard shopping_mall "
    "single-unit_residential smokestack solar_farm space_facility stadium storage_tank "
    "surface_mine swimming_pool toll_booth tower tunnel_opening waste_disposal "
    "water_treatment_facility wind_farm zoo"
).split()
VAL_FROM, TEST_FROM = 2013, 2016  # years of FMoW's `ood`: validation from, test from
NO_REGION = "Other"  # which WILDS leaves out of the worst region
NO_NAME = 99999  # labels.csv of iWildCam has rows of classes that are not in the data
PARTS = {
    "train": ("id", "train"),
    "id_val": ("id", "val"),
    "id_test": ("id", "test"),
    "val": ("ood", "val"),
    "test": ("ood", "test"),
}


class FmowDataset(PublishedDataset):
    """Functional Map of the World in WILDS (Koh et al. 2021): 62 kinds of places from above.

    `root` is `fmow_v1.1`: `rgb_metadata.csv`, `country_code_mapping.csv`, `images/rgb_img_N.png`, N
    the row in the whole table. Domain `id` is before 2013, `ood` val 2013 to 2015 and test from
    2016, in UTC; `ood` has no train. Groups are regions; "Other" is none, as in WILDS' worst one.
    DataError for a missing table or column, or a time, a category or an image that is not there.
    """

    def __init__(self, root: str | os.PathLike):
        root = check_root(root, f"the folder with {FMOW}")
        rows = read_table(root / FMOW, FMOW_COLUMNS)
        codes = read_table(root / REGIONS, ("alpha-3", "region"))
        region_of = {row["alpha-3"]: row["region"].strip() or NO_REGION for row in codes}
        region = [region_of.get(row["country_code"], NO_REGION) for row in rows]
        names = [name for name in dict.fromkeys(region) if name != NO_REGION]
        number = {name: k for k, name in enumerate(CATEGORIES)}
        group = {name: k for k, name in enumerate(names)}
        found: dict[Part, tuple[list, list, list]] = {}
        for n, row in enumerate(rows):
            where = f"{shown(root / FMOW)}, line {n + 2}"
            if row["split"] == "seq":
                continue
            if row["category"] not in number:
                told = f"category {row['category']!r} is none of WILDS' {len(CATEGORIES)}"
                raise DataError(f"{where}: {told}; correct it.")
            if part := _fmow_part(row["split"], _year(row["timestamp"], where), where):
                columns = found.setdefault(part, ([], [], []))
                new = (f"images/rgb_img_{n}.png", number[row["category"]], group.get(region[n], -1))
                for column, value in zip(columns, new, strict=True):
                    column.append(value)
        parts = _ordered(found, root / FMOW)
        super().__init__(root, "fmow", CATEGORIES, parts, shown(root / FMOW), group_names=names)


def _year(text: str, where: str) -> int:
    """Return the year of a time stamp in UTC."""
    try:  # 2016-01-01T00:15:00Z; digits beyond microseconds do not matter
        time = datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.strip()))
    except ValueError:
        raise DataError(f"{where}: timestamp {text!r} is no time; correct it.") from None
    zone = datetime.UTC
    return (time.astimezone(zone) if time.tzinfo else time.replace(tzinfo=zone)).year


def _fmow_part(split: str, year: int, where: str) -> Part | None:
    """Return where an image of this split and year belongs; None for one that WILDS leaves out."""
    if split not in ("train", "val", "test"):
        raise DataError(f"{where}: split {split!r} is none of train, val, test, seq; correct it.")
    if year < VAL_FROM:
        return "id", split
    ood = "test" if year >= TEST_FROM else "val"
    return ("ood", ood) if split == ood else None


class IwildcamDataset(PublishedDataset):
    """iWildCam 2020 in WILDS, version 2.0: 182 animals before camera traps, `empty` the first.

    `root` is `iwildcam_v2.0`: `metadata.csv`, `train/` with the images of all splits, and a table
    of names, `labels.csv` (y, english) as of WiSE-FT or `categories.csv` (y, name). Domain `id` is
    train, id_val and id_test, `ood` val and test, of other cameras; it has no train. Groups are
    cameras. Some classes share a text, as a "lowland paca" of two species: a class is then called
    "lowland paca 148", and prompts say the text. DataError for a missing table, column, name or
    image, or another split.
    """

    def __init__(self, root: str | os.PathLike):
        root = check_root(root, f"the folder with {IWILDCAM}")
        table = root / IWILDCAM
        rows = read_table(table, IWILDCAM_COLUMNS)
        texts = _animals(root)
        place = {name: k for k, name in enumerate(sorted({r["location_remapped"] for r in rows}))}
        found: dict[Part, tuple[list, list, list]] = {}
        for line, row in enumerate(rows, 2):
            if row["split"] not in PARTS:
                told = f"split {row['split']!r} is none of {', '.join(PARTS)}"
                raise DataError(f"{shown(table)}, line {line}: {told}; correct it.")
            if not row["y"].isdecimal() or int(row["y"]) >= len(texts):
                told = f"y {row['y']!r} is none of the {len(texts)} classes that have names"
                raise DataError(f"{shown(table)}, line {line}: {told}; correct either.")
            columns = found.setdefault(PARTS[row["split"]], ([], [], []))
            new = (f"train/{row['filename']}", int(row["y"]), place[row["location_remapped"]])
            for column, value in zip(columns, new, strict=True):
                column.append(value)
        shared = {text for text in texts if texts.count(text) > 1}
        classes = [f"{text} {y}" if text in shared else text for y, text in enumerate(texts)]
        names = {name: text for name, text in zip(classes, texts, strict=True) if name != text}
        parts, cameras = _ordered(found, table), [f"camera {name}" for name in place]
        more = {"texts": names, "group_names": cameras}
        super().__init__(root, "iwildcam", classes, parts, shown(table), **more)


def _animals(root: pathlib.Path) -> list[str]:
    """Return the text of each class, in small letters, in the order of y."""
    tables = {"labels.csv": "english", "categories.csv": "name"}
    file = next((name for name in tables if (root / name).is_file()), "")
    if not file:
        told = f"{shown(root)} has no table of the animals' names"
        remedy = "put labels.csv there, with columns y and english, as of WiSE-FT"
        raise DataError(f"{told}; {remedy}.")
    rows = read_table(root / file, ("y", tables[file]))
    wrong = [row["y"] for row in rows if not row["y"].isdecimal()]
    known = {int(r["y"]): r[tables[file]].strip().lower() for r in rows if not wrong}
    known.pop(NO_NAME, None)
    if wrong or sorted(known) != list(range(len(known))):
        told = f"column y of {shown(root / file)} does not number classes from 0 without gaps"
        raise DataError(f"{told}{f' ({some(wrong, 3)})' if wrong else ''}; correct it.")
    return [known[y] for y in range(len(known))]


def _ordered(found: dict[Part, tuple[list, list, list]], table: pathlib.Path) -> dict[Part, Listed]:
    """Return the parts in the order of `PARTS`; DataError if one has no image."""
    if lacking := [name for name, part in PARTS.items() if part not in found]:
        told = f"{shown(table)} has no images of {', '.join(lacking)}"
        raise DataError(f"{told}; take the whole table as WILDS publishes it.")
    return {part: Listed(*found[part]) for part in PARTS.values()}
