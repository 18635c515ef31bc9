"""Paths here and in object stores (`gs://bucket/folder`), files written whole, where caches lie."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from clipjax.errors import ConfigError

_PROBE = 4096  # bytes that a disk must have left
SCHEMES = ("gs", "s3")  # of those that etils knows, the ones that orbax writes arrays to
ASSETS = pathlib.Path(__file__).parent.parent / "assets"  # what ships with the package
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
    """The exceptions of writing to a path; object stores raise anything, each client its own.

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


def append_text(path: str | os.PathLike, text: str) -> None:
    """Adds text to a file's end, all of it or nothing.

    Raises:
      OSError: nothing could be written.
    """
    path = as_path(path)
    if is_remote(path):  # objects cannot grow
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    data = text.encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            written = file.write(data)
            while written < len(data):  # a disk that runs full takes a part first, then says why
                written += file.write(data[written:])
        except OSError:
            file.truncate(end)
            raise


@contextlib.contextmanager
def replaced(path: pathlib.Path, *, shared: bool = False) -> Iterator[pathlib.Path]:
    """A scratch file to write in the block; after it that is `path`, or gone where the block fails.

    Args:
      path: a local file; readers see the old or the new one, never a part.
      shared: several processes may write it at once; each has a scratch file of its own.
    """
    mark = f".{uuid.uuid4().hex}" if shared else ""
    scratch = path.with_name(f"{path.name}{mark}.partial")
    try:
        yield scratch
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            scratch.unlink(missing_ok=True)
        raise


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file so that a reader sees the old or the new content, never a part."""
    path = as_path(path)
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):  # an object appears whole or not at all
        path.write_bytes(data)
        return
    with replaced(path) as scratch:
        scratch.write_bytes(data)


def to_json(data: Any, **options: Any) -> str:
    """JSON text of data; numbers that are not finite, which JSON cannot say, become null.

    Args:
      data: of what JSON holds.
      **options: of `json.dumps`.

    >>> to_json({"loss": [0.5, float("nan")]})
    '{"loss": [0.5, null]}'
    """
    try:
        return json.dumps(data, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_with_nulls(data), allow_nan=False, **options)


def _with_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _with_nulls(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_with_nulls(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Writes data as indented JSON, atomically; see `to_json`."""
    write_atomically(path, to_json(data, indent=2) + "\n")


def default_cache_dir() -> pathlib.Path:
    """$CLIPJAX_CACHE, or clipjax in the user's cache folder ($XDG_CACHE_HOME or ~/.cache).

    For a user without a home a place that nobody can write to: caches are gone without.
    """
    if chosen := os.environ.get("CLIPJAX_CACHE"):
        return pathlib.Path(os.path.expanduser(chosen))
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(chosen) / "clipjax"
    try:
        return pathlib.Path.home() / ".cache" / "clipjax"
    except RuntimeError:
        return pathlib.Path(os.devnull) / "clipjax"
