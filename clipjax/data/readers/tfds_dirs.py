"""Finds prepared TFDS builders on disk, or says how to prepare them."""

from __future__ import annotations

import difflib
import json
import os
import pathlib

from clipjax.errors import ClipjaxError, ConfigError, DataError
from clipjax.io.texts import read_text

DOMAINNET = ("real", "painting", "clipart", "quickdraw", "infograph", "sketch")
INFO = "dataset_info.json"


def find_builders(name: str, data_dir: str = "") -> dict[str, pathlib.Path]:
    """Find the folders of the builders that a name of a `TfdsDataset` means, by domain.

    Raises:
      ConfigError: no such builder, or a part of `a+b` with several configs.
      DataError: not prepared, or a path without prepared builders.
    """
    if name.startswith(("/", ".", "~")):
        return _at_path(pathlib.Path(name).expanduser())
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    root, parts = root.expanduser(), name.split("+")
    if len(parts) == 1:
        return _builder(root, name)
    found: dict[str, pathlib.Path] = {}
    for part in parts:
        builders = _builder(root, part)
        if len(builders) > 1:
            raise ConfigError(
                f"tfds:{name}: builder {part!r} has several configs; choose one, as in "
                f"{part}/{next(iter(builders))}."
            )
        ((domain, folder),) = builders.items()
        found[domain if domain not in found else part.replace("/", "_")] = folder
    return found


def _at_path(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    found = prepared(folder)
    if not found:
        raise DataError(
            f"{folder} holds no prepared TFDS dataset; give a folder with {INFO}, or one of such "
            "folders."
        )
    if "" not in found:
        return found
    file = found[""] / INFO
    try:
        noted = json.loads(read_text(file))
        name = str(noted.get("configName") or noted.get("name") or folder.name)
    except (OSError, ValueError, AttributeError) as error:  # no JSON, or not an object
        raise DataError(f"{file} is damaged ({error}); prepare the dataset again.") from None
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
    if own := _newest(folder):
        return {"": own}
    inner = (sub for sub in sorted(folder.glob("*")) if sub.is_dir())
    return {sub.name: version for sub in inner if (version := _newest(sub))}


def _newest(folder: pathlib.Path) -> pathlib.Path | None:
    from tensorflow_datasets.core.utils.version import list_all_versions

    versions = (folder / str(version) for version in reversed(list_all_versions(folder)))
    return next((place for place in (folder, *versions) if (place / INFO).exists()), None)


def _unprepared(root: pathlib.Path, name: str) -> ClipjaxError:
    """Return the error for a builder without a folder, unknown or not prepared."""
    import tensorflow_datasets as tfds

    known, builder = tfds.list_builders(with_community_datasets=False), name.split("/")[0]
    if builder not in known:
        close = difflib.get_close_matches(builder, known)
        meant = f" Did you mean {' or '.join(close)}?" if close else ""
        return ConfigError(
            f"TFDS has no builder {builder!r} and {root} has no folder of that name.{meant} Own "
            "builders are given by their path: tfds:/path."
        )
    names, size = [name], ""
    if name == "domainnet":
        names = [f"domainnet/{config}" for config in DOMAINNET]
        size = " (18 GB to download, three times that while it is prepared; fewer with fewer of "
        size += "the six)"
    # Not the command line of TFDS, which needs Apache Beam too.
    code = (
        f"import tensorflow_datasets as tfds; [tfds.builder(name, data_dir={str(root)!r}, "
        f"file_format='array_record').download_and_prepare() for name in {names}]"
    )
    return DataError(
        f"tfds:{name} is not prepared in {root}. Prepare it once: pip install 'clipjax[tfds]' && "
        f'python -c "{code}"; this needs TensorFlow, a network connection and disk for the data'
        f"{size}."
    )
