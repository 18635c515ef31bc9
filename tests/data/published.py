"""Writes small datasets in the layouts of WILDS, CoOp and ImageNet; an image tells its number."""

import csv
import io
import json

import numpy as np
from PIL import Image


def png(number: int) -> bytes:
    """A small image of its own for every number below 256."""
    out = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), number % 256, np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(file, content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def table(rows, columns) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([columns, *rows])
    return text.getvalue()


# split, time, country, category: the last of each year, the first of the next, all the ways out.
FMOW = [
    ("train", "2012-12-31T23:59:59Z", "DEU", "zoo"),
    ("train", "2013-01-01T00:00:00Z", "DEU", "zoo"),  # in no split of WILDS
    ("seq", "2012-01-01T00:00:00Z", "DEU", "zoo"),  # sequestered, but counted as a row
    ("train", "2002-05-05T00:00:00Z", "IND", "airport"),
    ("val", "2012-12-31T23:59:59Z", "IND", "airport"),
    ("val", "2013-01-01T00:00:00Z", "KEN", "airport"),
    ("val", "2015-12-31T23:59:59Z", "XKX", "zoo"),  # no region
    ("val", "2016-01-01T00:00:00Z", "DEU", "zoo"),  # in none
    ("test", "2011-01-01T00:00:00Z", "DEU", "zoo"),
    ("test", "2015-06-01T00:00:00Z", "DEU", "zoo"),  # in none
    ("test", "2015-12-31T23:00:00-02:00", "DEU", "race_track"),  # 2016 in UTC
    ("test", "2016-01-01T00:15:00.1234567Z", "IND", "zoo"),
    ("test", "2017-01-01T00:15:00Z", "ATA", "zoo"),  # whose region is empty
]


def fmow(root, rows=FMOW, extra=0):
    """`extra` more images of zoos and airports in each part."""
    rows = list(rows)
    for i in range(extra):
        row = (("DEU", "IND")[i % 2], ("zoo", "airport")[i // 2 % 2])
        rows += [(split, "2010-01-01T00:00:00Z", *row) for split in ("train", "val", "test")]
        rows += [("val", "2014-01-01T00:00:00Z", *row), ("test", "2017-01-01T00:00:00Z", *row)]
    columns = ("img_filename", "split", "timestamp", "country_code", "category")
    given = [(f"x_{n}.jpg", *row) for n, row in enumerate(rows)]
    write(root / "rgb_metadata.csv", table(given, columns))
    regions = [("Germany", "DEU", "Europe"), ("India", "IND", "Asia"), ("Kenya", "KEN", "Africa")]
    regions.append(("Antarctica", "ATA", ""))
    header = ("name", "alpha-3", "region")
    write(root / "country_code_mapping.csv", table(regions, header))
    for n, row in enumerate(rows):
        if row[0] != "seq":
            write(root / f"images/rgb_img_{n}.png", png(n))
    return root


ANIMALS = ((0, "empty"), (1, "Lowland Paca"), (2, "jaguar"), (3, "lowland paca"), (99999, "unused"))
IWILDCAM_COLUMNS = "split location_remapped location sequence_remapped datetime y filename".split()


def iwildcam(root, columns=IWILDCAM_COLUMNS):
    rows = []
    for n, split in enumerate("train train id_val id_test val test test".split()):
        time = f"2013-02-0{n + 1} 01:02:03.000"
        cells = dict(zip(IWILDCAM_COLUMNS, (split, n % 3, n, n, time, n % 4, f"{n}.jpg"),
                         strict=True))  # fmt: skip
        rows.append([cells[name] for name in columns])
        write(root / f"train/{n}.jpg", png(n))
    write(root / "metadata.csv", table(rows, columns))
    write(root / "labels.csv", table(ANIMALS, ("y", "english")))
    return root


def coop(root, name="Caltech101", folder="101_ObjectCategories", classes=3, images=12):
    """Classes interleaved, the last one first; paths below the folder that CoOp says."""
    split: dict = {"train": [], "val": [], "test": []}
    number = 0
    for i in range(images):
        for label in reversed(range(classes)):
            part = ("train", "train", "val", "test")[i % 4]
            path = f"kind_{label}/{i}.jpg"
            write(root / folder / path, png(number))
            split[part].append([path, label, f"kind_{label}"])
            number += 1
    write(root / f"split_zhou_{name}.json", json.dumps(split))
    return root


def aircraft(root):
    write(root / "variants.txt", "DH-82\n707-320\nBAE 146-200\n")
    for n, split in enumerate(("train", "val", "test")):
        lines = [f"{n}00{k} {v}" for k, v in enumerate(("BAE 146-200", "707-320", "DH-82"))]
        write(root / f"images_variant_{split}.txt", "\n".join(lines) + "\n")
        for line in lines:
            write(root / f"images/{line.split()[0]}.jpg", png(n))
    return root


WNIDS = [f"n0{k:07d}" for k in range(12)]
TEXTS = ["tench", "missile", *(f"thing {k}" for k in range(2, 11)), "missile"]


def imagenet(root):
    names = "".join(f"{wnid} {text}\n" for wnid, text in zip(WNIDS, TEXTS, strict=True))
    write(root / "imagenet/classnames.txt", names)
    for k, wnid in enumerate(WNIDS):
        for i in range(10):
            write(root / f"imagenet/images/train/{wnid}/{i}.JPEG", png(i))
        write(root / f"imagenet/images/val/{wnid}/0.JPEG", png(10))
        write(root / f"imagenetv2/imagenetv2-matched-frequency-format-val/{k}/a.jpeg", png(20 + k))
        write(root / f"imagenet-sketch/images/{wnid}/a.JPEG", png(40))
    for k in (11, 1, 4):
        write(root / f"imagenet-adversarial/imagenet-a/{WNIDS[k]}/a.jpg", png(50))
        write(root / f"imagenet-rendition/imagenet-r/{WNIDS[k]}/a.jpg", png(60))
    write(root / "imagenet-adversarial/imagenet-a/README.txt", "about")
    return root
