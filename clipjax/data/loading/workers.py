"""Load numbered items ahead of their use, in threads or in processes, in order.

Threads are grain's. Processes are our own, as those of grain 0.2.18 outlive a killed parent, stop
slowly, and hang if one exits with code 0. Here a worker is a fresh Python with two pipes: it only
imports what `load` needs, does not get the terminal's Ctrl-C, and ends when its pipe does.
"""

import contextlib
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
from typing import Any, BinaryIO

import cloudpickle

from clipjax.errors import ConfigError, DataError

MOST_THREADS = 16  # by default: more wait for Python's lock, and each holds two items


def load_ahead(
    load: Callable[[Any], Any],
    first: int,
    last: int,
    *,
    workers: int = 0,
    threads: int | None = None,
    prepare: Callable[[int], Any] = int,
) -> Iterator:
    """Yield load(first) ... load(last - 1), some loaded ahead.

    >>> list(load_ahead(lambda number: 10 * number, 2, 5))
    [20, 30, 40]

    Args:
      load: a pure function of the number; with workers it is sent by cloudpickle.
      first, last: number of the first item, and one past the last.
      workers: processes that load; 0 loads in threads of this process.
      threads: per process; None: `default_threads`. Each loads one item, one more is waiting.
      prepare: maps a number to the argument of `load`, in this process, where it may use JAX.

    Errors of `load` are raised in their place in the order; DataError if a worker process dies.
    """
    threads = default_threads(workers) if threads is None else threads
    if workers < 0 or threads < 1:
        raise ConfigError(f"workers={workers}, threads={threads}: give at least 0 and 1.")
    if workers and last > first:
        return _in_processes(load, first, last, min(workers, last - first), threads, prepare)
    import grain  # slow to import, and worker processes need none

    dataset = grain.MapDataset.range(first, last).map(lambda number: load(prepare(int(number))))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


def default_threads(workers: int = 0) -> int:
    """Return the threads per process that keep all cores busy, `MOST_THREADS` at most."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(max(1, cores // max(1, workers)), MOST_THREADS)


def _in_processes(load, first: int, last: int, workers: int, threads: int, prepare) -> Iterator:
    """Yield items in order: item i is loaded by worker i % workers."""
    try:
        sent = cloudpickle.dumps(load)
    except (pickle.PicklingError, TypeError) as error:
        fault = f"what loads the data cannot be sent to worker processes ({error})"
        raise ConfigError(f"{fault}; set workers to 0.") from None
    team = [_Worker(threads) for _ in range(workers)]
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


class _Worker:
    """A process that runs `serve`, and its two pipes; it ends with `stop()` or the parent."""

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
        with contextlib.suppress(ImportError, AttributeError, OSError):  # not Linux, or not allowed
            import fcntl

            # A batch is megabytes, a pipe 64 KB.
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.stop = weakref.finalize(self, _stop, self._process)

    def send(self, message: Any) -> None:
        """Send an item; a worker always reads, so this does not block for long."""
        try:
            pickle.dump(message, self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def receive(self) -> Any:
        """Return the next answer, or raise what `load` raised."""
        try:
            error, value = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._died() from None
        if error is not None:
            raise error
        return value

    def _died(self) -> DataError:
        code = self._process.wait()
        likely = ", probably out of memory" if code == -9 else ""
        fault = f"a worker process died (exit code {code}{likely})"
        return DataError(f"{fault}; lower data.workers or batch_size, or set data.workers=0.")


def _stop(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # what it had not read yet
        process.stdin.close()


def serve(threads: int) -> None:
    """Run a worker process: read `load`, then items, and write its results."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent ends its step first, then this
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what `load` prints must not get into the pipe
    pending: queue.SimpleQueue[Future] = queue.SimpleQueue()
    threading.Thread(target=_answer, args=(pending, answers), daemon=True).start()
    pool = ThreadPoolExecutor(threads)
    try:
        sent, load = pickle.load(requests), Future()
        try:  # in this thread: two that import at the same time may fail
            load.set_result(pickle.loads(sent))
        except Exception as error:
            load.set_exception(error)
        while True:
            pending.put(pool.submit(lambda item: load.result()(item), pickle.load(requests)))
    except (EOFError, pickle.UnpicklingError):  # the parent is done, or dead
        os._exit(0)  # without waiting for threads


def _answer(pending: queue.SimpleQueue[Future], answers: BinaryIO) -> None:
    try:
        while True:
            answers.write(_packed(pending.get()))
            answers.flush()
    finally:
        os._exit(1)  # the parent is dead


def _packed(future: Future) -> bytes:
    """Pickle (error or None, value); unpicklable errors become text."""
    error = future.exception()
    try:
        if error is None:
            return pickle.dumps((None, future.result()), protocol=5)
        error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
        packed = pickle.dumps((error, None))
        pickle.loads(packed)  # some errors can be written, not read
        return packed
    except Exception as other:
        reason = error or other
        message = f"a worker process failed ({type(reason).__name__}: {reason})."
        return pickle.dumps((DataError(message), None))
