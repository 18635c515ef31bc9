"""Paths on this machine and in object stores (`gs://bucket/folder`), files written atomically."""

import contextlib
import json
import math
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from clipjax.errors import ConfigError

ASSETS = pathlib.Path(__file__).parent.parent / "assets"  # what ships with the package
Path = Any  # pathlib.Path, or etils.epath.Path of a path with a scheme


def is_remote(path: str | os.PathLike) -> bool:
    """Return whether a path has a scheme, as `gs://bucket/run`."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Path:
    """Return a path to join and use: pathlib's, or etils' of gs:// and s3:// (else ConfigError).

    >>> str(as_path("gs://bucket/run") / "config.json"), as_path("run/x") == pathlib.Path("run/x")
    ('gs://bucket/run/config.json', True)
    """
    if not is_remote(path):
        return pathlib.Path(path)
    # Of the schemes that etils knows, those that orbax writes arrays to.
    if not os.fspath(path).startswith(("gs://", "s3://")):
        raise ConfigError(f"{path} is no path that can be written; known: gs://, s3://.")
    from etils import epath

    return epath.Path(path)


def check_reachable(path: Path) -> None:
    """Look a path up, which need not exist; ConfigError: the system or the store refuses it."""
    if not is_remote(path):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            pass  # a file in the way matters only when something is written
        except OSError as error:
            raise ConfigError(f"{path} cannot be reached ({error.strerror}).") from error
        return
    try:
        path.exists()
    except ImportError as error:
        packages = "gcsfs" if str(path).startswith("gs:") else "s3fs"
        raise ConfigError(f"{path} needs a package: pip install {packages}.") from error
    except Exception as error:  # each store has its own: credentials, names, the network
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path} cannot be reached ({why}); check bucket and access.") from error


def check_writable(folder: str | os.PathLike) -> None:
    """Write into a local folder, or where it would be made; ConfigError: that fails."""
    folder = pathlib.Path(folder)
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        # Where a file is in the way this fails as making the folder would.
        options = {"prefix": ".clipjax-", "dir": there, "ignore_cleanup_errors": True}
        with tempfile.TemporaryDirectory(**options) as probe:
            pathlib.Path(probe, "probe").write_bytes(bytes(4096))  # so much must be left
    except OSError as error:
        fault = f"{folder} cannot be written ({error.strerror}); choose another place."
        raise ConfigError(fault) from error


def write_errors(path: str | os.PathLike) -> type[Exception]:
    """Return the exceptions of reading or writing a path; clients of stores have their own."""
    return Exception if is_remote(path) else OSError


def local_only(path: str | os.PathLike, what: str) -> pathlib.Path:
    """Return a path on this machine; ConfigError: it is elsewhere, where `what` cannot go."""
    if is_remote(path):
        raise ConfigError(f"{what} cannot go to {os.fspath(path)}; give a path on this machine.")
    return pathlib.Path(path)


def append_text(path: str | os.PathLike, text: str) -> None:
    """Append text to a file, all of it, or raise OSError and append nothing."""
    path = as_path(path)
    if is_remote(path):  # objects cannot grow
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    data = text.encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:  # a disk that runs full takes a part first, then says why
                data = data[file.write(data) :]
        except OSError:
            file.truncate(end)
            raise


@contextlib.contextmanager
def replaced(path: pathlib.Path, *, shared: bool = False) -> Iterator[pathlib.Path]:
    """Yield a scratch file that becomes the local `path` after the block, unless the block fails.

    `shared`: several processes may write it at once, each in a scratch file of its own.
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
    """Write a file so that a reader sees the old or the new content, never a part."""
    path = as_path(path)
    data = content.encode() if isinstance(content, str) else content
    # An object of a store appears whole or not at all.
    with contextlib.nullcontext(path) if is_remote(path) else replaced(path) as target:
        target.write_bytes(data)


def to_json(data: Any, **options: Any) -> str:
    """Return JSON text by `json.dumps`, with NaN and infinity, which JSON lacks, as null.

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
    """Write data as indented JSON, atomically; see `to_json`."""
    write_atomically(path, to_json(data, indent=2) + "\n")


def default_cache_dir() -> pathlib.Path:
    """Return $CLIPJAX_CACHE or the user's cache folder; without a home, one that cannot exist."""
    if chosen := os.environ.get("CLIPJAX_CACHE"):
        return pathlib.Path(os.path.expanduser(chosen))
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(chosen) / "clipjax"
    try:
        return pathlib.Path.home() / ".cache" / "clipjax"
    except RuntimeError:
        return pathlib.Path(os.devnull) / "clipjax"
