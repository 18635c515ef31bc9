"""A folder that one run alone writes into: the same command twice at once is refused.

On this machine's disks the system holds the lock (`flock`) and lets go of it however the process
ends; a file system that has no locks, and an object store, get a file that its owner touches.
"""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from clipjax.errors import ConfigError
from clipjax.io import Path, is_remote, write_errors

LOCK = "run.lock"
BEAT = 20.0  # seconds between touches
DEAD = 50.0  # seconds without one after which the owner is gone
LOOK = 1.0  # seconds between looks
SETTLE = 1.0  # seconds after which one of two that came at once sees the other's
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_OPEN: set[int] = set()  # descriptors of this process's locks, which its forks are to close


@contextlib.contextmanager
def claimed(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold a folder, made where there is none, for this process alone.

    Afterwards the file `name` that says so is gone, and the folder too if it was made here and is
    empty. Processes that this one starts do not hold it.

    Raises:
      ConfigError: another process holds it, and which; or nothing can be written there.
    """
    made: list[pathlib.Path] = []
    try:
        with contextlib.ExitStack() as held:
            try:
                if not is_remote(folder):
                    made = [p for p in (*folder.parents[::-1], folder) if not p.exists()]
                    folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(_held(folder, name))
            except ConfigError:
                raise
            except write_errors(folder) as error:
                why = getattr(error, "strerror", None) or " ".join(str(error).split())
                at = getattr(error, "filename", None)
                why += f": {at}" if at and os.fspath(at) != os.fspath(folder) else ""
                told = f"{folder} cannot be written ({why})"
                raise ConfigError(f"{told}; choose another place.") from error
            yield
    finally:
        for each in reversed(made):
            with contextlib.suppress(OSError):  # the run's files are in it
                each.rmdir()


@contextlib.contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    file, owner = (None if is_remote(folder) else _locked(folder / name)), os.getpid()
    if file is None:
        with _touched(folder / name):
            yield
        return
    try:
        yield
    finally:
        if os.getpid() == owner:  # not a child of it, on its own way out
            with contextlib.suppress(OSError):  # of no use without the lock, and no harm
                (folder / name).unlink()
            _OPEN.discard(file)
            os.close(file)


def _locked(path: pathlib.Path) -> int | None:
    """Return a descriptor that holds a file's lock; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # no Unix
        return None
    while True:
        fresh = not path.exists()
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(_me()).encode(), 0)
                _OPEN.add(file)
                return file
        except OSError as error:
            os.close(file)
            if error.errno in _TAKEN:
                raise _refusal(path, _read(path)) from None
            if fresh:
                path.unlink(missing_ok=True)
            if error.errno in _NO_LOCKS:
                return None
            raise
        os.close(file)  # its owner has removed it meanwhile


def _is_at(file: int, path: pathlib.Path) -> bool:
    """Return whether a descriptor is of the file that has this path now."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """Close, in a forked process, what its parent holds: the child may outlive it."""
    while _OPEN:
        os.close(_OPEN.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def _touched(path: Path) -> Iterator[None]:
    """Hold a path by writing there again and again, as long as this process lives."""
    _check_dead(path)
    me = _me() | {"token": secrets.token_hex(8)}
    path.write_text(json.dumps(me))
    time.sleep(SETTLE)
    if _read(path).get("token") != me["token"]:
        raise _refusal(path, _read(path))
    end = threading.Event()
    thread = threading.Thread(target=_touch, args=(path, me, end), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        with contextlib.suppress(write_errors(path)):  # the next run waits for a while
            if _read(path).get("token") == me["token"]:
                path.unlink()


def _check_dead(path: Path) -> None:
    """Wait until nobody touches the path; raise ConfigError if somebody does."""
    if not path.exists():
        return
    before, until = _read(path), time.monotonic() + DEAD
    told = f"{_who(before)} may run in {path.parent}; looking for {DEAD:.0f} s whether it does."
    print(f"clipjax: {told}", file=sys.stderr, flush=True)
    while time.monotonic() < until:
        time.sleep(LOOK)
        if not path.exists():
            return
        now = _read(path)
        if now and now != before:  # an empty one is being written: look again
            raise _refusal(path, now)


def _touch(path: Path, me: dict[str, Any], end: threading.Event) -> None:
    beats, failing = 0, False
    while not end.wait(BEAT):
        beats += 1
        try:
            found = _read(path)
            if found and found.get("token") != me["token"]:
                print(f"clipjax: {_refusal(path, found)}", file=sys.stderr, flush=True)
                os._exit(1)  # it took this process for dead, and both would spoil the run
            path.write_text(json.dumps(me | {"beats": beats}))
            failing = False
        except write_errors(path) as error:
            if not failing:
                print(f"clipjax: {path} could not be written ({error}).", file=sys.stderr)
            failing = True


def _me() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _read(path: Path) -> dict[str, Any]:
    """Return a lock's note on its owner; {} where that is not written yet, or gone."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _who(found: dict[str, Any]) -> str:
    if not {"pid", "host", "since"} <= found.keys():
        return "another process"
    return f"process {found['pid']} on {found['host']}, since {found['since']},"


def _refusal(path: Path, found: dict[str, Any]) -> ConfigError:
    remedy = "wait for its end, stop it, or choose another place"
    return ConfigError(f"{path.parent} is in use: {_who(found)} writes there; {remedy}.")
