"""Opens any dataset by name and root."""

import importlib.util
from collections.abc import Sequence

from clipjax.data.dataset import Dataset, check_local
from clipjax.data.readers.coop import CoopDataset
from clipjax.data.readers.folders import FolderDataset
from clipjax.data.readers.imagenet import ImagenetDataset
from clipjax.data.readers.lists import ListDataset
from clipjax.data.readers.parquet import ParquetDataset
from clipjax.data.readers.regrouped import RegroupedDataset
from clipjax.data.readers.tfds import TfdsDataset
from clipjax.data.readers.wilds import FmowDataset, IwildcamDataset
from clipjax.data.recognise import recognise
from clipjax.data.splits import FRACTIONS
from clipjax.errors import ConfigError
from clipjax.io import ASSETS
from clipjax.io.texts import shown

# With the splits of their publishers.
PUBLISHED = {"coop": CoopDataset, "wilds_fmow": FmowDataset, "wilds_iwildcam": IwildcamDataset}
EMOJI = ASSETS / "emoji"
EMBEDDED = ("emoji", "emoji_regrouped")  # the second: the same pictures under other classes
_OTHERS = ("folder", "lists", "domainnet", "parquet", *PUBLISHED, "imagenet")
KNOWN = ("auto", *EMBEDDED, *_OTHERS)


def is_embedded(dataset: Dataset) -> bool:
    """Return whether a dataset, or the one within it, is that of clipjax, whatever its name."""
    while (within := getattr(dataset, "_dataset", None)) is not None:
        dataset = within
    return getattr(dataset, "root", None) == EMOJI


def open_dataset(
    name: str = "auto",
    root: str = "",
    *,
    fractions: Sequence[float] = FRACTIONS,
    lists: str = "",
) -> Dataset:
    """Open the embedded dataset, or one at a root.

    Args:
      name: "auto": what lies at the root (`clipjax.data.recognise`), without one the embedded data;
        "emoji" and "emoji_regrouped" (embedded), "folder", "lists", "parquet", "tfds:NAME";
        "domainnet" is "auto" for DomainNet; "coop", "wilds_fmow", "wilds_iwildcam" and "imagenet"
        are as published.
      root: folder of the dataset; for "tfds:" the directory of prepared data, which has a default.
      fractions: shares of train, val and test where the data comes without splits.
      lists: folder of list files that lie elsewhere, relative to the root or not.

    ConfigError for an unknown name, one that needs a root, or an embedded one with it; DataError
    for nothing readable there, or what fits several readers.
    """
    if name.startswith("tfds:"):
        if importlib.util.find_spec("tensorflow_datasets") is None:
            install = "pip install 'clipjax[tfds]'"
            raise ConfigError(f"data.name={name} needs TensorFlow Datasets: {install}.")
        return TfdsDataset(name, data_dir=root, fractions=fractions)
    if name not in KNOWN:
        raise ConfigError(f"unknown data.name {name!r}; known: {', '.join(KNOWN)}, tfds:NAME.")
    check_local(lists, "lists")
    place = root or lists  # paths in lists may be absolute, or relative to where the lists are
    if name in EMBEDDED and place:
        fault = f"data.name={name} is embedded data, and {shown(place)} is named as well"
        raise ConfigError(f"{fault}; leave data.name out to read that.")
    if not place and name in ("auto", *EMBEDDED):
        drawings = ParquetDataset(EMOJI, "emoji")
        regrouped = name == "emoji_regrouped"
        return RegroupedDataset(drawings, ASSETS / name, name) if regrouped else drawings
    if not place:
        raise ConfigError(f"data.name={name!r} needs --config.data.root=/path.")
    kind = recognise(root, lists).name if name in ("auto", "domainnet") else name
    if kind.startswith("tfds:"):
        return TfdsDataset(kind, fractions=fractions)
    if kind in PUBLISHED:
        return PUBLISHED[kind](place)
    if kind == "imagenet":
        return ImagenetDataset(place, fractions)
    if kind == "parquet":
        return ParquetDataset(place, fractions=fractions)
    if kind == "folder":
        return FolderDataset(place, fractions)
    return ListDataset(place, lists, fractions, "domainnet" if name == "domainnet" else "")
