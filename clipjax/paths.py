"""Paths of the machine, and of object stores such as `gs://bucket/folder`, by the same methods."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from typing import Any

from clipjax.errors import ConfigError

SCHEMES = ("gs", "s3")  # of those that etils knows, the ones that orbax writes arrays to
_PROBE = 4096  # bytes that a disk must have left
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

    Raises:
      ConfigError: another scheme.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    if os.fspath(path).partition("://")[0] not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"{os.fspath(path)} is no path that can be written; known: {known}.")
    from etils import epath

    return epath.Path(path)


def check_reachable(path: Path) -> None:
    """Asks for a path once, so that what is wrong with it is said at the start; it need not exist.

    Raises:
      ConfigError: the system refuses it; or of an object store, the package for it is not
        installed, or the store does not answer.
    """
    if not is_remote(path):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return  # a file in the way matters to who writes
        except OSError as error:
            raise ConfigError(f"{path} cannot be reached ({error.strerror}).") from error
        return
    try:
        path.exists()
    except ImportError as error:
        packages = "gcsfs" if str(path).startswith("gs:") else "s3fs"
        raise ConfigError(f"{path} needs a package: pip install {packages}.") from error
    except Exception as error:  # each store has its own: credentials, names, the network
        raise ConfigError(
            f"{path} cannot be reached ({type(error).__name__}: {error}); check bucket and access."
        ) from error


def check_writable(folder: str | os.PathLike) -> None:
    """Writes into a folder of this machine, made where there is none, and removes it again.

    Permissions do not tell: of root, of read-only disks, of files where folders are to be.

    Raises:
      ConfigError: that fails; it says why.
    """
    folder = pathlib.Path(folder)
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        # Where a file is in the way this fails as making the folder would.
        probe = pathlib.Path(tempfile.mkdtemp(prefix=".clipjax-", dir=there))
        try:
            (probe / "probe").write_bytes(bytes(_PROBE))
        finally:
            shutil.rmtree(probe, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}); choose another place."
        ) from error


def write_errors(path: str | os.PathLike) -> type[Exception]:
    """What writing to a path may raise: of an object store anything, each client has its own.

    >>> write_errors("/runs/a").__name__, write_errors("gs://bucket/a").__name__
    ('OSError', 'Exception')
    """
    return Exception if is_remote(path) else OSError


def local_only(path: str | os.PathLike, what: str) -> pathlib.Path:
    """A path on this machine.

    Raises:
      ConfigError: it is elsewhere; `what` says who cannot write there.
    """
    if is_remote(path):
        raise ConfigError(f"{what} cannot go to {os.fspath(path)}; give a path on this machine.")
    return pathlib.Path(path)
