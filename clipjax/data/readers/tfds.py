"""Datasets that TensorFlow Datasets prepared on disk, read without TensorFlow."""

from __future__ import annotations

import difflib
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax.data import splits
from clipjax.data.dataset import Dataset, check_domain
from clipjax.data.readers.files import RowSource, explained
from clipjax.data.readers.tfds_io import Records, read_builder, read_labels
from clipjax.errors import ClipjaxError, ConfigError, DataError
from clipjax.io.texts import nfc, read_text

DOMAINNET = ("real", "painting", "clipart", "quickdraw", "infograph", "sketch")
INFO = "dataset_info.json"


class TfdsDataset(Dataset):
    """Prepared builders with an image and a label, each a domain.

    Args:
      name: with or without `tfds:` in front: `domainnet`, or any builder, whose configs are the
        domains where several are prepared; `builder/config`; several builders,
        `mnist+svhn_cropped`; or the path of a folder that holds `dataset_info.json`, or of one
        with such folders.
      data_dir: where builders are; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      fractions: shares of train, val and test; splits that a builder lacks are dealt out of its
        train by a hash of the example's number.

    ConfigError for an unknown builder; DataError for one that is not prepared, not as ArrayRecord,
    or has no image and label.
    """

    def __init__(
        self, name: str, data_dir: str = "", fractions: Sequence[float] = splits.FRACTIONS
    ):
        name = name.removeprefix("tfds:")
        self.name, self.fractions = f"tfds:{name}", splits.check_fractions(fractions)
        found = find_builders(name, data_dir)
        self._builders = {nfc(domain): read_builder(str(f)) for domain, f in found.items()}
        self.domains = tuple(self._builders)
        names = [name for builder in self._builders.values() for name in builder.classes]
        self.classes = tuple(dict.fromkeys(names))

    def classes_of(self, domain: str) -> tuple[str, ...]:
        return self._builders[check_domain(self, domain)].classes

    def source(self, domain: str, split: str) -> RowSource:
        """Return the examples of a domain and split; the first time, the labels of all are read."""
        domain = check_domain(self, domain)
        builder = self._builders[domain]
        base, _ = splits.origin(split, builder.splits)
        records = Records(builder, builder.splits[base])
        count = builder.counts[base]
        labels = read_labels(records, count)
        where = lambda: splits.positions(f"{builder.name}/{base}/{row}" for row in range(count))
        rows = splits.deal(split, builder.splits, where, labels, self.fractions)
        numbers = np.array([self.classes.index(name) for name in builder.classes], np.int32)
        return RowSource(records, rows, numbers[labels[rows]], self.classes, domain, split)


def find_builders(name: str, data_dir: str = "") -> dict[str, pathlib.Path]:
    """Find the folders of the builders that a name of a `TfdsDataset` means, by domain."""
    if name.startswith(("/", ".", "~")):
        return _at_path(pathlib.Path(name).expanduser())
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    root, parts = root.expanduser(), name.split("+")
    if len(parts) == 1:
        return _builder(root, name)
    found: dict[str, pathlib.Path] = {}
    for part in parts:
        (domain, folder), *others = _builder(root, part).items()
        if others:
            fault = f"tfds:{name}: builder {part!r} has several configs"
            raise ConfigError(f"{fault}; choose one, as in {part}/{domain}.")
        found[domain if domain not in found else part.replace("/", "_")] = folder
    return found


def _at_path(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    found = prepared(folder)
    if not found:
        remedy = f"give a folder with {INFO}, or one of such folders"
        raise DataError(f"{folder} holds no prepared TFDS dataset; {remedy}.")
    if "" not in found:
        return found
    file = found[""] / INFO
    with explained(str(file), "prepare the dataset again", AttributeError):  # not an object
        noted = json.loads(read_text(file))
        name = str(noted.get("configName") or noted.get("name") or folder.name)
    return {name: found[""]}


def _builder(root: pathlib.Path, name: str) -> dict[str, pathlib.Path]:
    """Find the prepared configs of a builder; DomainNet's in the order of its paper's tables."""
    found = prepared(root / name)
    if not found:
        raise _unprepared(root, name)
    if "" in found:
        return {name.split("/")[-1]: found[""]}
    if name == "domainnet":
        return {config: found[config] for config in DOMAINNET if config in found}
    return {name: next(iter(found.values()))} if len(found) == 1 else found


def prepared(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the newest versions in a folder: {"": its own}, else those of its sub-folders."""
    from tensorflow_datasets.core.utils.version import list_all_versions

    def newest(place: pathlib.Path) -> pathlib.Path | None:
        versions = (place / str(version) for version in reversed(list_all_versions(place)))
        return next((v for v in (place, *versions) if (v / INFO).exists()), None)

    if own := newest(folder):
        return {"": own}
    return {sub.name: found for sub in sorted(folder.glob("*")) if (found := newest(sub))}


def _unprepared(root: pathlib.Path, name: str) -> ClipjaxError:
    """Return the error for a builder without a folder, unknown or not prepared."""
    import tensorflow_datasets as tfds

    known, builder = tfds.list_builders(with_community_datasets=False), name.split("/")[0]
    if builder not in known:
        close = difflib.get_close_matches(builder, known)
        meant = f" Did you mean {' or '.join(close)}?" if close else ""
        fault = f"TFDS has no builder {builder!r} and {root} has no folder of that name."
        return ConfigError(f"{fault}{meant} Own builders are given by their path: tfds:/path.")
    names, size = [name], ""
    if name == "domainnet":
        names = [f"domainnet/{config}" for config in DOMAINNET]
        size = " (18 GB to download and three times that to prepare all six)"
    # Not the command line of TFDS, which needs Apache Beam too.
    code = (
        f"import tensorflow_datasets as tfds; [tfds.builder(name, data_dir={str(root)!r}, "
        f"file_format='array_record').download_and_prepare() for name in {names}]"
    )
    install = "pip install 'clipjax[tfds-prepare]'"
    return DataError(
        f"tfds:{name} is not prepared in {root}. Prepare it once: {install} && "
        f'python -c "{code}"; this needs TensorFlow, a network connection and disk space{size}.'
    )
