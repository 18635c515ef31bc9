"""Opens any dataset by name and root."""

from collections.abc import Sequence

from clipjax.data.dataset import Dataset, check_local, check_root
from clipjax.data.readers.folders import FolderDataset
from clipjax.data.readers.list_files import find_folder
from clipjax.data.readers.lists import ListDataset
from clipjax.data.readers.parquet import ParquetDataset
from clipjax.data.readers.parquet_io import begins_parquet
from clipjax.data.readers.tfds import TfdsDataset
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
    """Open the embedded dataset, or one at a root.

    Args:
      name: "emoji" (embedded), "folder", "lists", "domainnet", "parquet", or "tfds:NAME". With a
        root, "emoji" and "domainnet" read what lies there: Parquet files, lists or folders.
      root: folder of the dataset; for "tfds:" the directory of prepared data, which has a default.
      fractions: shares of train, val and test where the data comes without splits.
      lists: folder of list files that lie elsewhere, relative to the root or not.

    ConfigError for an unknown name, or one that needs a root; DataError for nothing readable there.
    """
    if name.startswith("tfds:"):
        return TfdsDataset(name, data_dir=root, fractions=fractions)
    if name not in KNOWN:
        raise ConfigError(f"unknown data.name {name!r}; known: {', '.join(KNOWN)}, tfds:NAME.")
    check_local(lists, "lists")
    root = root or lists  # paths in lists may be absolute, or relative to where the lists are
    if not root and name == "emoji":
        return ParquetDataset(EMOJI, "emoji")
    if not root:
        raise ConfigError(f"data.name={name!r} needs --config.data.root=/path.")
    kind = name
    if name in ("emoji", "domainnet"):
        folder = check_root(root, "the folder of a dataset")
        listed = lambda: "lists" if lists or find_folder(folder) else "folder"
        kind = "parquet" if begins_parquet(folder) else listed()
    if kind == "parquet":
        return ParquetDataset(root, fractions=fractions)
    if kind == "folder":
        return FolderDataset(root, fractions)
    return ListDataset(root, lists, fractions, "domainnet" if name == "domainnet" else "")
