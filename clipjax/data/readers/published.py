"""Datasets in the layout of their publishers: parts named by tables, splits as these give them."""

import csv
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data.dataset import Dataset, Part, check_domain
from clipjax.data.readers.files import FileSource, is_image_name, unusable
from clipjax.data.readers.lists import look_up
from clipjax.errors import DataError
from clipjax.io.texts import check_class_names, read_text, shown, some


class Listed(NamedTuple):
    """The images of a part, as a table or a folder lists them."""

    paths: Sequence[str]  # relative to the root, with "/"
    labels: Sequence[int]
    groups: Sequence[int] | None = None  # below 0 for none


class PublishedDataset(Dataset):
    """Parts with the splits that their publisher gives: none is dealt out of another.

    `texts` are what prompts call the classes, where that is not their name: two may share one.
    DataError for images that are listed and not there, or for a class without a name of its own.
    """

    def __init__(
        self,
        root: pathlib.Path,
        name: str,
        classes: Sequence[str],
        parts: Mapping[Part, Listed],
        table: str,
        *,
        texts: Mapping[str, str] | None = None,
        declared: Mapping[str, Sequence[str]] | None = None,
        group_names: Sequence[str] = (),
    ):
        """`table` names the parts' images; `declared` a domain's classes, where not all."""
        self.root, self.name = root, name
        self.classes = check_class_names(classes, table)
        self.domains = tuple(dict.fromkeys(domain for domain, _ in parts))
        self._texts, self._declared = dict(texts or {}), dict(declared or {})
        self._group_names = tuple(group_names)
        paths = [path for part in parts.values() for path in part.paths]
        files, there = look_up(root, paths)
        if gone := [paths[i] for i in np.flatnonzero(~there)]:
            fault = f"{table} names {len(paths):,} images, and {len(gone):,} of them are not in"
            raise DataError(f"{fault} {shown(root)}: {some(gone, 5)}; add them.")
        self.skipped = tuple(unusable(files))
        self._parts, start = {}, 0
        for key, part in parts.items():
            kept = np.flatnonzero(files.sizes[start : start + len(part.paths)] > 0)
            labels = np.asarray(part.labels, np.int32)[kept]
            groups = None if part.groups is None else np.asarray(part.groups, np.int32)[kept]
            if len(kept):
                self._parts[key] = files.take(start + kept), labels, groups
            start += len(part.paths)

    @property
    def texts(self) -> Mapping[str, str]:
        return self._texts

    def classes_of(self, domain: str) -> tuple[str, ...]:
        return tuple(self._declared.get(check_domain(self, domain), self.classes))

    def splits_of(self, domain: str) -> tuple[str, ...]:
        domain = check_domain(self, domain)
        return tuple(split for name, split in self._parts if name == domain)

    def source(self, domain: str, split: str) -> FileSource:
        """Return the examples of a domain and split; DataError if it has no such split."""
        domain = check_domain(self, domain)
        if (domain, split) not in self._parts:
            has = ", ".join(self.splits_of(domain))
            raise DataError(f"domain {domain!r} of {self.name} has no {split} split; it has {has}.")
        files, labels, groups = self._parts[domain, split]
        names = () if groups is None else self._group_names
        return FileSource(files, labels, self.classes, domain, split, groups, names)


def read_table(file: pathlib.Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header as rows; DataError if it is missing or lacks a column."""
    if not file.is_file():
        raise DataError(f"{shown(file)} is missing; put it there as it was published.")
    rows = csv.DictReader(read_text(file).splitlines())
    has = rows.fieldnames or []
    if lacking := [name for name in columns if name not in has]:
        fault = f"{shown(file)} has no column {' and none '.join(map(repr, lacking))}"
        raise DataError(f"{fault}; its columns are {some(has, 20) or 'none'}.")
    found = list(rows)
    for number, row in enumerate(found, 2):
        if any(row[name] is None for name in columns):
            raise DataError(f"{shown(file)}, line {number}: a field is missing; complete it.")
    return found


def listed_in(folder: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
    """List the images right in a folder, sorted, as paths relative to the root."""
    below = folder.relative_to(root).as_posix()
    for name in sorted(os.listdir(folder)):
        if is_image_name(name) and not name.startswith("."):
            yield f"{below}/{name}"
