"""Any dataset by name and root: which reader takes it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from clipjax.data.dataset import Dataset, _check_local, check_root
from clipjax.data.splits import FRACTIONS
from clipjax.errors import ConfigError
from clipjax.io import ASSETS

KNOWN = ("emoji", "folder", "lists", "domainnet", "parquet")  # and tfds:NAME


EMOJI = ASSETS / "emoji"


def open_dataset(
    name: str = "emoji",
    root: str = "",
    *,
    fractions: Sequence[float] = FRACTIONS,
    lists: str = "",
) -> Dataset:
    """Opens the embedded dataset, or one at a root.

    Args:
      name: "emoji" (embedded), "folder", "lists", "domainnet", "parquet", or "tfds:NAME". With a
        root, what lies there decides for "domainnet" (lists and zips as downloaded, or folders) and
        where no other name is given.
      root: where the dataset is; for "tfds:" the directory of prepared data, which has a default.
      fractions: shares of train, val and test where the data comes without splits.
      lists: folder of list files that lie elsewhere, relative to the root or not.

    Raises:
      ConfigError: an unknown name, or one that needs a root.
      DataError: nothing readable at the root.
    """
    from clipjax.data.readers.parquet import ParquetDataset

    if name.startswith("tfds:"):
        from clipjax.data.readers.tfds import TfdsDataset

        return TfdsDataset(name, data_dir=root, fractions=fractions)
    if name not in KNOWN:
        raise ConfigError(f"unknown data.name {name!r}; known: {', '.join(KNOWN)}, tfds:NAME.")
    root, lists = os.path.expanduser(root), os.path.expanduser(lists)
    _check_local(root, "root")
    _check_local(lists, "lists")
    if not root and lists:  # their paths may be absolute, or relative to where they are
        root = lists
    if not root:
        if name == "emoji":
            return ParquetDataset(EMOJI, "emoji")
        raise ConfigError(f"data.name={name!r} needs --config.data.root=/path.")
    open_kind = name in ("emoji", "domainnet")
    kind = _kind_of(pathlib.Path(root), lists) if open_kind else name
    if kind == "parquet":
        return ParquetDataset(root, fractions=fractions)
    if kind == "folder":
        from clipjax.data.readers.folders import FolderDataset

        return FolderDataset(root, fractions)
    from clipjax.data.readers.lists import ListDataset

    return ListDataset(root, lists, fractions, "domainnet" if name == "domainnet" else "")


def _kind_of(root: pathlib.Path, lists: str) -> str:
    """The kind of dataset at a root: "parquet", "lists" or "folder"."""
    from clipjax.data.readers.list_files import find_folder
    from clipjax.data.readers.parquet_io import begins_parquet

    check_root(root, "the folder of a dataset")
    if begins_parquet(root):
        return "parquet"
    return "lists" if lists or find_folder(root) else "folder"
