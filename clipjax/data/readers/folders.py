"""Datasets that are folders of images."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Skipped, check_domain, check_root, reasons
from clipjax.data.readers.files import FileSource, look, problem
from clipjax.data.readers.folder_index import find_files
from clipjax.data.readers.folder_walk import class_path
from clipjax.data.readers.list_files import PLACES
from clipjax.data.splits import WHOLE, split_of
from clipjax.errors import DataError
from clipjax.io.texts import class_name, nfc, shown

_LAYOUT = "the folder of domains"


class FolderDataset:
    """`root/domain/class/image`, or `root/domain/{train,val,test}/class/image`.

    Without split folders each file goes to a split by a hash of its class and name, so the split is
    the same on every machine and adding files moves no others. What split folders do not give is
    taken out of train in the same way. `validation`, `valid` and `dev` are val, in any letter case.

    Names are compared in NFC and without blanks around those of classes; files are opened by the
    names they have. Letter case counts: `Cat` and `cat` are two classes.

    Hidden files, `Thumbs.db` and the like are passed over; what else is no image, and empty files
    and broken links, are in `skipped`. Links to files and folders are followed.

    Args:
      root: the folder of domains.
      fractions: shares of train, val and test where the folders give none.
      name: default: the folder's.
      cache_dir: of the file index; default: `index` in clipjax's cache folder.

    Raises:
      DataError: no such folder, no domains in it, a domain without classes, or two folders side by
        side of one name.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        fractions: Sequence[float] = splits.FRACTIONS,
        name: str = "",
        *,
        cache_dir: str | os.PathLike | None = None,
    ):
        self.root, self.fractions = check_root(root, _LAYOUT), splits.check_fractions(fractions)
        self.name = name or shown(self.root.absolute().name)
        found = find_files(self.root, cache_dir)
        if set(found.domains) <= set(PLACES):  # no folders, or only such as are for lists
            _refuse_empty(self.root, found.domains)
        _check_apart(self.root, found.domains, found.folders)
        self.domains = tuple(nfc(shown(d)) for d in found.domains)
        self._positions = found.positions
        self._folders = [
            (nfc(shown(d)), split_of(part) or WHOLE, class_name(shown(c)))
            for d, part, c in found.folders
        ]
        self._given = _given_splits(self.root, self.domains, self._folders)
        self.classes = tuple(sorted({name for _, _, name in self._folders}))
        number = {name: label for label, name in enumerate(self.classes)}
        self._label_of = np.array([number[name] for _, _, name in self._folders], np.int32)
        self._paths = [class_path(folder) for folder in found.folders]
        self._files = look(self.root, self._paths, found.folder, found.names)
        self._usable = self._files.sizes > 0
        unusable = [
            Skipped(shown(self._files.path(i)), problem(int(self._files.sizes[i])))
            for i in np.flatnonzero(~self._usable)
        ]
        self.skipped = (*(Skipped(*entry) for entry in found.skipped), *unusable)

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """The class folders of a domain, sorted; those of all its splits."""
        domain = check_domain(self, domain)
        return tuple(sorted({name for d, _, name in self._folders if d == domain}))

    def has_split(self, split: str) -> bool:
        """Whether every domain has this split: always, as a folder or dealt out of another."""
        return split in splits.SPLITS

    def source(self, domain: str, split: str) -> FileSource:
        """The examples of a domain and split, in the order of classes and names.

        Raises:
          ConfigError: an unknown domain.
          DataError: a class folder without images, or a class with a single image where all splits
            are made by hash.
        """
        domain = check_domain(self, domain)
        given = self._given[domain]
        rows = self._rows_of(domain, splits.origin(split, given)[0])
        labels = self._label_of[self._files.folder[rows]]
        splits.check_single(split, given, labels, self.classes, domain, self.fractions)
        where = self._positions[rows]
        rows = rows[splits.members(split, given, where, labels, self.fractions)]
        labels = self._label_of[self._files.folder[rows]]
        files = self._files.take(rows)
        return FileSource(files, labels, classes=self.classes, domain=domain, split=split)

    def _rows_of(self, domain: str, part: str) -> np.ndarray:
        """The usable files of a domain's given part, of all its class folders some."""
        wanted = np.array([folder[:2] == (domain, part) for folder in self._folders])
        folder = self._files.folder
        rows = np.flatnonzero(wanted[folder] & self._usable)
        counts = np.bincount(folder[rows], minlength=len(self._folders))
        for number in np.flatnonzero(wanted & (counts == 0)):
            place = shown(self.root / self._paths[number])
            whole = shown(os.path.abspath(self.root / self._paths[number]))
            held = reasons(s for s in self.skipped if os.path.dirname(s.name) == whole)
            why = f"no images that can be read ({held})" if held else "no images"
            raise DataError(f"class folder {place} has {why}; add some or remove it.")
        return rows


def _refuse_empty(root: pathlib.Path, domains: Sequence[str]) -> None:
    """Says what is missing in a root without folders, which may be one of zips without lists."""
    if archives := sorted(f for f in root.iterdir() if f.suffix.lower() == ".zip"):
        domain = archives[0].stem
        raise DataError(
            f"{shown(root)} holds {len(archives)} zips, which are read by their lists, and no "
            f"lists: put {domain}_train.txt, {domain}_test.txt and so on beside them or into "
            "splits/ (DomainNet offers them beside its zips), or unpack the zips."
        )
    if not domains:
        raise DataError(
            f"data.root {shown(root)!r} is empty; it must hold domain/class/image folders."
        )


def _check_apart(
    root: pathlib.Path, domains: Sequence[str], folders: Sequence[tuple[str, str, str]]
) -> None:
    """Refuses folders side by side whose names are one as `nfc` or `class_name` has them.

    They may hold parts of one class or copies of it, which only their owner can know.
    """
    first: dict[tuple[str, ...], str] = {}
    named = [((nfc(shown(d)),), d) for d in domains]
    named += [((d, part, class_name(shown(c))), c) for d, part, c in folders]
    for key, folder in named:
        place = shown(os.path.join(root, *filter(None, key[:-1])))
        if not key[-1]:
            raise DataError(f"{place} holds a folder {folder!a} without a name; rename it.")
        if (other := first.setdefault(key, folder)) != folder:
            raise DataError(
                f"{place} holds two folders for {key[-1]!r}, {shown(other)!a} and "
                f"{shown(folder)!a}, whose names differ in blanks or in the Unicode form of their "
                "letters; put their images into one."
            )


def _given_splits(
    root: pathlib.Path, domains: Sequence[str], folders: Sequence[tuple[str, str, str]]
) -> dict[str, tuple[str, ...]]:
    """Domain -> the splits that its class folders lie in; ("",) where they lie in none."""
    given: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for domain, split, _ in folders:
        given[domain][split] = None
    for domain in domains:
        if domain not in given:
            raise DataError(
                f"domain folder {shown(root)}/{domain} holds no class folders; expected "
                "domain/class/image: add them, or move the folder elsewhere."
            )
    return {domain: tuple(given[domain]) for domain in domains}
