"""Loads numbered items ahead of their use, in threads or in processes, in order.

Threads are grain's. Processes are our own, because those of grain 0.2.18 outlive a parent that was
killed, may take 25 s to stop, and are waited for without end where one exits with code 0. Here a
worker is a fresh Python with one pipe in and one out: nothing is forked, it imports what `load`
needs and no more (not the user's main script, and no JAX unless `load` does), the terminal's Ctrl-C
does not reach it, and it ends when its pipe does, however the parent ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

from clipjax.errors import ConfigError, DataError

# By default: more wait for Python's lock, and each holds two items, 40 MB a batch of 256 crops.
MOST_THREADS = 16

T = TypeVar("T")


def load_ahead(
    load: Callable[[Any], T],
    first: int,
    last: int,
    *,
    workers: int = 0,
    threads: int | None = None,
    prepare: Callable[[int], Any] = int,
) -> Iterator[T]:
    """Yields load(first) ... load(last - 1), some prepared ahead.

    >>> list(load_ahead(lambda number: 10 * number, 2, 5))
    [20, 30, 40]

    Args:
      load: a pure function of the number; with workers it is sent to them (cloudpickle) and what it
        returns comes back pickled.
      first: number of the first item.
      last: one past the last.
      workers: processes that load; 0 loads in threads of this process.
      threads: that load, per process. Each has one item in hand, each process one more in waiting.
        Default: `default_threads`. Order and content of the items do not depend on it.
      prepare: makes of a number what `load` gets in its place. It runs in this process, so that
        what needs JAX need not run in workers.

    Raises:
      ConfigError: a `load` that cannot be sent to a process.
      DataError: a worker process died.
      Exception: whatever `load` raises, in its place in the order; nothing comes after it.
    """
    threads = default_threads(workers) if threads is None else threads
    if workers < 0 or threads < 1:
        raise ConfigError(f"workers={workers}, threads={threads}: give at least 0 and 1.")
    if workers and last > first:
        return _in_processes(load, first, last, min(workers, last - first), threads, prepare)
    return _in_threads(load, first, last, threads, prepare)


def default_threads(workers: int = 0) -> int:
    """Threads per process that keep this process's cores busy, `MOST_THREADS` at most.

    >>> default_threads(1_000_000)
    1
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(max(1, cores // max(1, workers)), MOST_THREADS)


def _in_threads(load, first: int, last: int, threads: int, prepare) -> Iterator:
    import grain

    dataset = grain.MapDataset.range(first, last).map(lambda number: load(prepare(int(number))))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


def _in_processes(load, first: int, last: int, workers: int, threads: int, prepare) -> Iterator:
    """Item i is worker i % workers' work, so the order needs no sorting."""
    sent, team = _sendable(load), [_Worker(threads) for _ in range(workers)]
    try:
        for worker in team:
            worker.send(sent)
        asked = first
        for number in range(first, last):
            while asked < min(last, number + workers * (threads + 1)):
                team[(asked - first) % workers].send(prepare(asked))
                asked += 1
            yield team[(number - first) % workers].receive()
    finally:
        for worker in team:
            worker.stop()


def _sendable(load: Callable) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps(load)
    except (pickle.PicklingError, TypeError) as error:
        raise ConfigError(
            f"what loads the data cannot be sent to worker processes ({error}); set workers to 0."
        ) from None


class _Worker:
    """A process that runs `serve`, and its two pipes; `stop()` or the parent's end ends it."""

    def __init__(self, threads: int):
        paths = [path for path in sys.path if isinstance(path, str)]
        code = f"import sys; sys.path[:] = {paths!r}\n"
        code += f"from clipjax.data.loading.workers import serve; serve({threads})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},  # accelerators belong to the parent
            start_new_session=True,
        )
        _widen(self._process.stdout)
        self.stop = weakref.finalize(self, _stop, self._process)

    def send(self, message: Any) -> None:
        """Never blocks for long: a worker reads on while it loads and while it answers."""
        try:
            pickle.dump(message, self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def receive(self) -> Any:
        """The next answer; raises what `load` raised."""
        try:
            error, value = _read(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._died() from None
        if error is not None:
            raise error
        return value

    def _died(self) -> DataError:
        code = self._process.wait()
        likely = ", probably out of memory" if code == -9 else ""
        return DataError(
            f"a worker process died (exit code {code}{likely}); lower data.workers or batch_size, "
            "or set data.workers=0 to load in this process."
        )


def _stop(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # what it had not read yet
        process.stdin.close()


def serve(threads: int) -> None:
    """Run a worker process: read `load`, then items, and write what it makes of them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent ends its step first, then this
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what `load` prints is for the reader, not for the pipe
    pending: queue.SimpleQueue[Future] = queue.SimpleQueue()
    threading.Thread(target=_answer, args=(pending, answers), daemon=True).start()
    pool = ThreadPoolExecutor(threads)
    try:
        load = _received(pickle.load(requests))
        while True:
            pending.put(pool.submit(load, pickle.load(requests)))
    except (EOFError, pickle.UnpicklingError):  # the parent is done, or it is no more
        os._exit(0)  # at once: no thread's work is needed any longer


def _received(sent: bytes) -> Callable:
    """The function that was sent; one that raises, where it cannot be made here."""
    try:
        return pickle.loads(sent)
    except Exception as error:
        return functools.partial(_fail, error)


def _fail(error: Exception, _: Any) -> None:
    raise error


def _answer(pending: queue.SimpleQueue[Future], answers: BinaryIO) -> None:
    try:
        while True:
            _write(answers, *_packed(pending.get()))
    finally:
        os._exit(1)  # nobody listens any more


def _packed(future: Future) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """(error or None, value), pickled, arrays apart; an error that no pickle can hold as text."""
    error = future.exception()
    try:
        if error is None:
            arrays: list[pickle.PickleBuffer] = []
            return pickle.dumps((None, future.result()), 5, buffer_callback=arrays.append), arrays
        error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
        packed = pickle.dumps((error, None))
        pickle.loads(packed)  # some errors can be written, not read
        return packed, []
    except Exception as other:
        reason = error or other
        message = f"a worker process failed ({type(reason).__name__}: {reason})."
        return pickle.dumps((DataError(message), None)), []


def _write(pipe: BinaryIO, packed: bytes, arrays: list[pickle.PickleBuffer]) -> None:
    """A pickle and, uncopied, the arrays it refers to."""
    parts = [array.raw() for array in arrays]
    pickle.dump((packed, [part.nbytes for part in parts]), pipe)
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _read(pipe: BinaryIO) -> Any:
    """Read what `_write` wrote; EOFError where it ends early."""
    packed, sizes = pickle.load(pipe)
    arrays = [bytearray(size) for size in sizes]
    for array in arrays:
        if pipe.readinto(array) < len(array):
            raise EOFError
    return pickle.loads(packed, buffers=arrays)


def _widen(pipe: BinaryIO) -> None:
    """Gives a pipe as much room as Linux lets users have: a batch is megabytes, a pipe 64 KB."""
    with contextlib.suppress(ImportError, AttributeError, OSError):  # elsewhere; or not allowed
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
