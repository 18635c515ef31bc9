"""ImageNet and its variants V2, Sketch, A and R below one folder, as in CoOp's DATASETS.md."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Part, check_root
from clipjax.data.readers.files import subfolders
from clipjax.data.readers.published import Listed, PublishedDataset, listed_in
from clipjax.errors import DataError
from clipjax.io.texts import class_name, read_text, shown, some

NAMES = "classnames.txt"  # lines `wnid name`, in the order of labels
BASE = "imagenet"
# Domain -> folders of which one holds class folders: wnids, or of V2 the numbers of labels.
PLACES = {
    "imagenet_v2": ("imagenetv2/imagenetv2-matched-frequency-format-val", "imagenetv2"),
    "imagenet_sketch": ("imagenet-sketch/images", "imagenet-sketch"),
    "imagenet_a": ("imagenet-adversarial/imagenet-a", "imagenet-a"),
    "imagenet_r": ("imagenet-rendition/imagenet-r", "imagenet-r"),
}


class ImagenetDataset(PublishedDataset):
    """ImageNet (`imagenet/images/{train,val}/wnid`, val being test) and the variants there are.

    Domains are `imagenet`, `imagenet_v2`, `imagenet_sketch`, `imagenet_a` and `imagenet_r`; the
    variants have test alone. A and R declare the 200 classes that they have folders of. A class is
    one wnid of `imagenet/classnames.txt`; two of one text ("missile") are called "missile n0..."
    and prompted alike. V2's folders are numbers of labels. Validation images of ImageNet are dealt
    out of train by a hash of their names, as for any data without them.

    DataError for no class names, no variant or base, or folders of other classes.
    """

    def __init__(self, root: str | os.PathLike, fractions: Sequence[float] = splits.FRACTIONS):
        root = check_root(root, "the folder that holds imagenet, imagenetv2, ...")
        file = next((f for f in (root / BASE / NAMES, root / NAMES) if f.is_file()), None)
        if file is None:
            told = f"{shown(root / BASE / NAMES)} is missing; put it there, lines `wnid name` in"
            raise DataError(f"{told} the order of labels.")
        self._wnids, texts = _class_names(file)
        shared = {text for text in texts if texts.count(text) > 1}
        pairs = list(zip(self._wnids, texts, strict=True))
        self._called = [f"{text} {wnid}" if text in shared else text for wnid, text in pairs]
        parts, declared = self._base(root, splits.check_fractions(fractions)), {}
        for domain, places in PLACES.items():
            folders = (root / place for place in places if (root / place).is_dir())
            if folder := next(folders, None):
                listed, has = self._listed(folder, root, domain == "imagenet_v2")
                parts[domain, "test"] = listed
                declared[domain] = [self._called[k] for k in has]
        if not parts:
            places = ", ".join([BASE, *(each[0] for each in PLACES.values())])
            raise DataError(f"{shown(root)} holds none of {places}; put one there.")
        named = {c: t for c, t in zip(self._called, texts, strict=True) if c != t}
        more = {"texts": named, "declared": declared}
        super().__init__(root, BASE, self._called, parts, shown(file), **more)

    def _base(self, root: pathlib.Path, fractions: Sequence[float]) -> dict[Part, Listed]:
        """Return the parts of ImageNet itself that are there."""
        within = next((f for f in (root / BASE / "images", root / BASE) if f.is_dir()), None)
        found: dict[Part, Listed] = {}
        if within and (within / "train").is_dir():
            train, _ = self._listed(within / "train", root, False)
            where = splits.positions(splits.file_key(*p.split("/")[-2:]) for p in train.paths)
            labels = np.asarray(train.labels, np.int32)
            for split in ("train", "val"):
                rows = splits.deal(split, ("train", "test"), lambda: where, labels, fractions)
                found[BASE, split] = Listed([train.paths[i] for i in rows], labels[rows])
        if within and (within / "val").is_dir():
            found[BASE, "test"] = self._listed(within / "val", root, False)[0]
        return found

    def _listed(
        self, folder: pathlib.Path, root: pathlib.Path, numbered: bool
    ) -> tuple[Listed, list[int]]:
        """Return the images of class folders, by label, and the labels that have a folder."""
        known = [str(k) for k in range(len(self._wnids))] if numbered else self._wnids
        number = {name: k for k, name in enumerate(known)}
        there = {path.name: path for path in subfolders(folder)}
        if other := [name for name in there if name not in number]:
            what = "numbers of labels" if numbered else f"wnids of {NAMES}"
            told = f"{shown(folder)} holds folders that are no {what}: {some(other, 5)}"
            raise DataError(f"{told}; correct either.")
        paths, labels, has = [], [], sorted(number[name] for name in there)
        for label in has:
            images = list(listed_in(there[known[label]], root))
            paths += images
            labels += [label] * len(images)
        if not paths:
            raise DataError(f"{shown(folder)} holds no images in class folders; add them.")
        return Listed(paths, labels), has


def _class_names(file: pathlib.Path) -> tuple[list[str], list[str]]:
    """Return wnids and texts in the order of labels."""
    rows = [line.split(None, 1) for line in read_text(file).split("\n") if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            told = f"{shown(file)}, line {number}: expected `wnid name`"
            raise DataError(f"{told}, and it is {' '.join(row)!r}; correct it.")
    wnids = [row[0] for row in rows]
    if len(set(wnids)) < len(wnids):
        twice = next(name for name in wnids if wnids.count(name) > 1)
        raise DataError(f"{shown(file)} names {twice} twice; keep one.")
    return wnids, [class_name(row[1]) for row in rows]
