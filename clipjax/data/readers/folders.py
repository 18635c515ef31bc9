"""Datasets that are folders of images."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Dataset, Skipped, check_domain, check_root, reasons
from clipjax.data.readers.files import FileSource, is_image_name, look, unusable
from clipjax.data.readers.folder_index import find_files, is_unlabelled
from clipjax.data.readers.list_files import PLACES
from clipjax.data.splits import SPLITS, WHOLE, split_of
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import DataError
from clipjax.io.texts import class_name, nfc, shown, some


class FolderDataset(Dataset):
    """`root/domain/class/image`, or `root/domain/{train,val,test}/class/image`.

    Splits without a folder are dealt out of train, class by class, by a hash of each file's class
    and name, in shares of `fractions`: the same on every machine, and a new file moves at most two
    others of its class (`clipjax.data.splits.members`). `validation`, `valid` and `dev` are val, in
    any letter case.

    Images without labels lie in a folder `unlabeled` (or `unlabelled`) in the place of a class or
    beside the split folders, where they count as train; or right in a domain's or a split's folder
    that has no class folders.

    Names are compared in NFC and without blanks around those of classes; letter case counts. Links
    to files and folders are followed. Hidden files, `Thumbs.db` and the like are ignored; other
    files that are no images, empty files and broken links are in `skipped`. `cache_dir` holds the
    file index; default: `index` in clipjax's cache folder.

    DataError for no domains, one without images, no class at all, or folders side by side of one
    name.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        fractions: Sequence[float] = splits.FRACTIONS,
        name: str = "",
        *,
        cache_dir: str | os.PathLike | None = None,
    ):
        self.root = check_root(root, "the folder of domains")
        self.fractions = splits.check_fractions(fractions)
        self.name = name or shown(self.root.absolute().name)
        found = find_files(self.root, cache_dir)
        if set(found.domains) <= set(PLACES):  # no folders, or only such as are for lists
            _check_filled(self.root, found.domains)
        _check_apart(self.root, found.domains, found.folders)
        self.domains = tuple(nfc(shown(d)) for d in found.domains)
        self._positions = found.positions
        parted = {nfc(shown(d)) for d, part, _ in found.folders if split_of(part)}
        whole = lambda domain: SPLITS[0] if domain in parted else WHOLE
        self._folders = [  # class "": images without labels
            (d, split_of(part) or whole(d), "" if is_unlabelled(c) else class_name(shown(c)))
            for d, part, c in ((nfc(shown(d)), part, c) for d, part, c in found.folders)
        ]
        self._given = {}
        for domain in self.domains:
            parts = dict.fromkeys(part for d, part, _ in self._folders if d == domain)
            self._given[domain] = tuple(parts)
            if not parts:
                fault = f"domain folder {shown(self.root)}/{domain} holds no class folders"
                raise DataError(f"{fault} and no images; add domain/class/image, or move it away.")
        self.classes = tuple(sorted({name for _, _, name in self._folders if name}))
        if not self.classes:
            fault = f"no folder in {shown(self.root)} holds folders of classes, so nothing is"
            lies = "labelled images lie in domain/class/image"
            raise DataError(f"{fault} labelled; {lies}, and {some(self.domains, 3)} hold images.")
        number = {name: label for label, name in enumerate(self.classes)} | {"": NO_LABEL}
        self._label_of = np.array([number[name] for _, _, name in self._folders], np.int32)
        self._paths = [os.path.join(*filter(None, folder)) for folder in found.folders]
        self._files = look(self.root, self._paths, found.folder, found.names)
        self.skipped = (*(Skipped(*entry) for entry in found.skipped), *unusable(self._files))

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """Return the class folders of all splits of a domain, sorted."""
        domain = check_domain(self, domain)
        return tuple(sorted({name for d, _, name in self._folders if d == domain and name}))

    def unlabelled(self, domain: str) -> bool:
        domain = check_domain(self, domain)
        return any(d == domain and not name for d, _, name in self._folders)

    def source(self, domain: str, split: str) -> FileSource:
        """Return the examples of a domain and split, in the order of classes and names."""
        domain = check_domain(self, domain)
        given = self._given[domain]
        rows = self._rows_of(domain, splits.origin(split, given)[0])
        where, labels = lambda: self._positions[rows], self._label_of[self._files.folder[rows]]
        kept = splits.deal(split, given, where, labels, self.fractions)
        return FileSource(self._files.take(rows[kept]), labels[kept], self.classes, domain, split)

    def _rows_of(self, domain: str, part: str) -> np.ndarray:
        """Return the usable files of a domain's given part, int64 [N]; no class folder is empty."""
        wanted = np.array([folder[:2] == (domain, part) for folder in self._folders])
        folder = self._files.folder
        rows = np.flatnonzero(wanted[folder] & (self._files.sizes > 0))
        counts = np.bincount(folder[rows], minlength=len(self._folders))
        for number in np.flatnonzero(wanted & (counts == 0)):
            place = self.root / self._paths[number]
            whole = shown(os.path.abspath(place))
            held = reasons(s for s in self.skipped if os.path.dirname(s.name) == whole)
            why = f"no images that can be read ({held})" if held else "no images"
            kind = "class folder" if self._folders[number][2] else "folder"
            raise DataError(f"{kind} {shown(place)} has {why}; add some or remove it.")
        return rows


def _check_filled(root: pathlib.Path, domains: Sequence[str]) -> None:
    """Raise DataError if a root without folders of domains holds zips without lists, or nothing."""
    if archives := sorted(f for f in root.iterdir() if f.suffix.lower() == ".zip"):
        fault = f"{shown(root)} holds {len(archives)} zips, which are read by their lists"
        lists = f"{archives[0].stem}_train.txt and so on (DomainNet offers them)"
        raise DataError(f"{fault}, and no lists: put {lists} beside them, or unpack them.")
    if not domains:
        fault, wanted = f"data.root {shown(root)!r}", "give domain/class/image folders"
        if any(is_image_name(file.name) for file in root.iterdir()):
            remedy = f"{wanted}, and this folder as --config.data.target={shown(root)}/"
            raise DataError(f"{fault} holds images and no folders, so no labels; {remedy}.")
        raise DataError(f"{fault} is empty; {wanted}.")


def _check_apart(
    root: pathlib.Path, domains: Sequence[str], folders: Sequence[tuple[str, str, str]]
) -> None:
    """Raise DataError for folders side by side whose names `nfc` or `class_name` makes equal."""
    first: dict[tuple[str, ...], str] = {}
    named = [((nfc(shown(d)),), d) for d in domains]
    named += [((d, part, class_name(shown(c))), c) for d, part, c in folders if c]
    for key, folder in named:
        place = shown(os.path.join(root, *filter(None, key[:-1])))
        if not key[-1]:
            raise DataError(f"{place} holds a folder {folder!a} without a name; rename it.")
        if (other := first.setdefault(key, folder)) != folder:
            both = f"two folders for {key[-1]!r}, {shown(other)!a} and {shown(folder)!a}"
            why = "whose names differ in blanks or Unicode form"
            raise DataError(f"{place} holds {both}, {why}; put their images into one.")
