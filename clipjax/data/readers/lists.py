"""Datasets whose images are named in list files: DomainNet as published, and any other."""

import collections
import functools
import itertools
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Dataset, Skipped, check_domain, check_root
from clipjax.data.readers import list_files
from clipjax.data.readers.archive_names import find_archive
from clipjax.data.readers.archives import open_archive
from clipjax.data.readers.files import Files, FileSource, Names, Store, look, unusable
from clipjax.data.readers.labels import folder_and_name, number_labels
from clipjax.data.readers.list_files import PLACES, UNLABELLED, Lines
from clipjax.data.splits import SPLITS, WHOLE
from clipjax.data.unlabelled import labelled
from clipjax.errors import DataError
from clipjax.io.texts import brief, counted, nfc, shown, some


class _Part(NamedTuple):
    """The usable images of one list."""

    files: Store
    labels: np.ndarray  # int32 [N], NO_LABEL for none
    positions: np.ndarray  # float64 [N], for splits by hash


class ListDataset(Dataset):
    """Images named in `{domain}_train.txt`, `{domain}_test.txt` and their like, below one root.

    The official DomainNet is one: its six folders, or the six zips as downloaded, beside its lists.
    Lists may also lie in `splits`, `lists`, `splits_mini`, `image_list` or `txt` below the root.
    `find_lists` documents their names, `read_list` their content. Splits without a list are taken
    out of train, class by class, by a hash of class and file name; `{domain}_list.txt` is split so
    as a whole.

    A class is named after the folder of its images, unless labels are names or a `classes.txt`,
    beside the lists or in the root, names their numbers (`0.0` and `00` are 0, too). All domains
    share one numbering, so a domain may lack a class. Images in a list of paths alone, and in
    `{domain}_unlabeled.txt`, which is train beside others, have no label.

    Args:
      root: folder that paths are relative to.
      lists: the folder of lists, relative to the root or not; default: the first with some.
      fractions: shares of train, val and test where the lists give none.
      name: default: the root folder's.

    DataError for no lists, a wrong line, contradictory labels, images that are not there, or one
    that is listed with a label in two splits: what trained would be tested.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        lists: str = "",
        fractions: Sequence[float] = splits.FRACTIONS,
        name: str = "",
    ):
        self.root = check_root(root, "the folder of images")
        self.fractions = splits.check_fractions(fractions)
        self.name = name or shown(self.root.absolute().name)
        parts = self._read(lists)
        self.domains = tuple(dict.fromkeys(domain for domain, _ in parts))
        self._given = {d: tuple(s for e, s in parts if e == d) for d in self.domains}
        lines = list(parts.values())
        names = list_files.class_names(lines[0].file.parent, self.root)
        self.classes, numbers = number_labels(lines, names)
        if not any(labelled(found).any() for found in numbers):
            told = f"{shown(lines[0].file)} is a list of paths alone, and no other list has labels"
            raise DataError(f"{told}; write `path label` into those of the labelled domain.")
        _check_apart(parts)
        self._parts: dict[tuple[str, str], _Part] = {}
        skipped: list[Skipped] = []
        for key, labels, store in zip(parts, numbers, _open(self.root, lines), strict=True):
            keep = np.flatnonzero(store.sizes > 0)
            where = splits.positions(splits.file_key(*folder_and_name(p)) for p in parts[key].paths)
            self._parts[key] = _Part(store.take(keep), labels[keep], where[keep])
            skipped += unusable(store)
        self.skipped = tuple(skipped)

    def _read(self, lists: str) -> dict[tuple[str, str], Lines]:
        """Read the lines of all files: (domain, split) -> lines."""
        folder = list_files.find_folder(self.root, lists, doubtful=True)
        found = list_files.find_lists(folder) if folder else {}
        if not found:
            names = "DOMAIN_train.txt and DOMAIN_test.txt, or DOMAIN_list.txt"
            fault = f"{shown(folder or self.root)} holds no list files; expected {names}"
            raise DataError(f"{fault}, of lines `path label` (DomainNet offers them).")
        files = [(domain, split, file) for domain in found for split, file in found[domain].items()]
        parts: dict[tuple[str, str], Lines] = {}
        unlabelled = {domain: file for domain, split, file in files if split == UNLABELLED}
        for named_after, split_of_all, file in files:
            if split_of_all == UNLABELLED:
                continue
            read = list_files.divided(list_files.read_list(file), named_after, split_of_all)
            for (domain, split), lines in read.items():
                for name, part in parts:
                    if name == domain and (part == split or WHOLE in (part, split)):
                        both = f"{shown(parts[name, part].file)} and {lines.at(0)}, both list"
                        part = f"images of domain {domain!r}{', ' + split if split else ''}"
                        raise DataError(f"{both} {part}; keep them in one.")
                parts[domain, split] = lines
        for domain, file in unlabelled.items():
            lines = list_files.read_list(file).without_labels()
            split = SPLITS[0] if any((domain, split) in parts for split in SPLITS) else WHOLE
            others = parts.get((domain, split))
            parts[domain, split] = others.followed_by(lines) if others else lines
        order = (WHOLE, *SPLITS)
        return dict(sorted(parts.items(), key=lambda part: (part[0][0], order.index(part[0][1]))))

    def unlabelled(self, domain: str) -> bool:
        domain = check_domain(self, domain)
        parts = (part for (name, _), part in self._parts.items() if name == domain)
        return not all(labelled(part.labels).all() for part in parts)

    def source(self, domain: str, split: str) -> FileSource:
        """Return the examples of a domain and split, in the order of the list."""
        domain = check_domain(self, domain)
        given = self._given[domain]
        files, labels, where = self._parts[domain, splits.origin(split, given)[0]]
        rows = splits.deal(split, given, lambda: where, labels, self.fractions)
        return FileSource(files.take(rows), labels[rows], self.classes, domain, split)


def _check_apart(parts: Mapping[tuple[str, str], Lines]) -> None:
    """Raise DataError for an image that has a label in two splits of a domain."""
    for domain in dict.fromkeys(domain for domain, _ in parts):
        own = {split: lines for (name, split), lines in parts.items() if name == domain}
        named = lambda x: {p for p, label in zip(x.paths, x.labels, strict=True) if label}
        known = {split: named(lines) for split, lines in own.items()}
        for one, other in itertools.combinations(own, 2):
            if both := known[one] & known[other]:
                path = next(p for p in own[other].paths if p in both)
                places = [own[split].at(own[split].paths.index(path)) for split in (one, other)]
                fault = f"{places[1]}: image {brief(path)!r} is of {other}, and of {one} in"
                count = counted(len(both), "image")
                raise DataError(f"{fault} {places[0]} ({count} in all); keep one of each.")


def _open(root: pathlib.Path, lists: Sequence[Lines]) -> Sequence[Store]:
    """Open the images of every list, in its order; raise DataError if some are not there."""
    places = collections.defaultdict(list)
    for number, lines in enumerate(lists):
        top = lines.paths[0].split("/", 1)[0]  # a zip may stand in place of the folder of all
        apart = (root / top).is_dir() or not all(path.startswith(f"{top}/") for path in lines.paths)
        places[None if apart else find_archive(root, top)].append(number)
    found: dict[int, tuple[Store, np.ndarray]] = {}
    for archive, numbers in places.items():
        paths = [lists[number].paths for number in numbers]
        opened = open_archive(archive, paths) if archive else [look_up(root, p) for p in paths]
        found |= dict(zip(numbers, opened, strict=True))
    stores, there = zip(*(found[number] for number in range(len(lists))), strict=True)
    paths = [path for lines in lists for path in lines.paths]
    if gone := [paths[i] for i in np.flatnonzero(~np.concatenate(there))]:
        fault = f"{len(gone):,} of {len(paths):,} listed images are not in {shown(root)}"
        remedy = f"add them, or take out their lists{_instead(root, places)}"
        raise DataError(f"{fault}: {some(gone, 5)}; {remedy}.")
    return stores


def _instead(root: pathlib.Path, opened: Collection[pathlib.Path | None]) -> str:
    """Suggest other ways to read a root: zips that stand for nothing listed, or its folders."""
    unused = (f for f in root.iterdir() if f.suffix.lower() == ".zip" and f not in opened)
    if zips := some(sorted(shown(f.name) for f in unused), 3):
        return f"; a zip is read if it is called like the first folder of the paths ({zips})"
    plain = (f for f in root.iterdir() if f.name not in PLACES and not f.name.startswith("."))
    other = ", or read the folders without lists: --config.data.name=folder"
    return other if any(folder.is_dir() for folder in plain) else ""


def look_up(
    root: pathlib.Path, paths: Sequence[str], respelled: bool = False
) -> tuple[Files, np.ndarray]:
    """Return files by their paths, and bool [N]: which of them exist."""
    numbers: dict[str, int] = {}
    parts = [path.rpartition("/") for path in paths]
    folder = [numbers.setdefault(part[0], len(numbers)) for part in parts]
    names = Names.pack(part[2] for part in parts)
    files = look(root, list(numbers), np.array(folder, np.int32), names)
    if respelled or all(paths[i].isascii() for i in np.flatnonzero(files.sizes < 0)):
        return files, files.sizes >= 0
    return look_up(root, _respelled(root, paths), respelled=True)


def _respelled(root: pathlib.Path, paths: Sequence[str]) -> list[str]:
    """Spell paths as the disk does where one name there differs in Unicode form only."""

    @functools.cache
    def composed(folder: str) -> dict[str, str]:
        try:
            names = os.listdir(folder)
        except OSError:  # its images are missing, and reported as such
            return {}
        counts = collections.Counter(map(nfc, names))
        return {nfc(name): name for name in names if counts[nfc(name)] == 1}

    @functools.cache
    def place(path: str) -> str:
        if path.isascii():
            return path
        head, slash, name = path.rpartition("/")
        start = place(head) + slash
        folder = os.path.join(root, start)
        if os.path.lexists(os.path.join(folder, name)):
            return start + name
        return start + composed(folder).get(nfc(name), name)

    return list(map(place, paths))
