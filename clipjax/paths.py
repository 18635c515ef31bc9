"""Paths of the machine, and of object stores such as `gs://bucket/folder`, by the same methods."""

from __future__ import annotations

import os
import pathlib
from typing import Any

Path = Any  # pathlib.Path, or etils.epath.Path where a scheme stands in front


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path has a scheme.

    >>> is_remote("gs://bucket/run"), is_remote("/gs/run")
    (True, False)
    """
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Path:
    """A path to join, read and write: `pathlib.Path` on this machine, etils' epath elsewhere.

    >>> str(as_path("gs://bucket/run") / "config.json"), as_path("run/x") == pathlib.Path("run/x")
    ('gs://bucket/run/config.json', True)
    """
    if not is_remote(path):
        return pathlib.Path(path)
    from etils import epath

    return epath.Path(path)
