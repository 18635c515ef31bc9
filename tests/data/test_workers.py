"""Loading ahead in threads and in processes: order, errors, and how processes end."""

import importlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import uuid

import jax
import pytest

from clipjax.data.loading.workers import default_threads, load_ahead
from clipjax.errors import ConfigError, DataError

# Without `if __name__ == "__main__"`: a worker must not run it again.
SCRIPT = """
import signal, sys, time
from clipjax.data.loading.workers import load_ahead

# What a shell starts in the background ignores it, and so would we.
signal.signal(signal.SIGINT, signal.default_int_handler)

def load(number):
    time.sleep(60 if number else 0)
    return number

items = load_ahead(load, 0, 9, workers=2)
next(items)
print("ready", flush=True)
time.sleep(60) if sys.argv[1] == "training" else next(items)
"""


def processes(mark):
    """Numbers of the processes that inherited MARK=mark."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARK={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # another user's, or just gone
            continue
    return found


def test_workers_give_the_same_in_the_same_order_without_fork_or_jax(monkeypatch):
    def load(item):
        return item, os.getpid(), "jax" in sys.modules

    def no_fork():
        raise AssertionError("forked")

    jax.block_until_ready(jax.numpy.zeros(1))  # the backend runs
    monkeypatch.setattr(os, "fork", no_fork)
    options = {"prepare": lambda number: int(jax.numpy.square(number))}
    threads = list(load_ahead(load, 3, 12, **options))
    processes = list(load_ahead(load, 3, 12, workers=2, **options))
    assert [found[0] for found in threads] == [i * i for i in range(3, 12)]
    assert [found[0] for found in processes] == [i * i for i in range(3, 12)]
    assert {found[1] for found in threads} == {os.getpid()}
    assert len({found[1] for found in processes} - {os.getpid()}) == 2
    assert not any(found[2] for found in processes)


class Pause:
    def __reduce__(self):
        return time.sleep, (1,)


@pytest.mark.slow
def test_a_worker_never_imports_one_package_in_two_threads(tmp_path, monkeypatch):
    """Python would let one of them see it half made: `load` needs `slow`, its items `slow.part`."""
    package = tmp_path / "slow"
    package.mkdir()
    (package / "__init__.py").write_text("import slow.other\n")
    text = "import time\n\ntime.sleep(2)\nfrom slow.part import Item\n"
    (package / "other.py").write_text(text)
    (package / "part.py").write_text("import slow.other\n\n\nclass Item(int):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    slow = importlib.import_module("slow")
    # The pause: items are read while `slow` is being imported.
    prepare = lambda number: (Pause(), slow.part.Item(number))
    items = load_ahead(lambda item: int(slow.other.Item(item[1])), 0, 3, workers=1, prepare=prepare)
    assert list(items) == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_keep_their_type_and_their_place(workers):
    def load(number):
        if number == 2:
            raise DataError("cat.png cannot be read.")
        return number

    items = load_ahead(load, 0, 9, workers=workers)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(DataError) as caught:
        next(items)
    assert str(caught.value) == "cat.png cannot be read."  # as it was, whatever is noted beside it


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_a_worker_that_dies_is_an_error(end):
    def load(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL) if end == "kill" else os._exit(0)
        return number

    code = r"-9, probably out of memory\)" if end == "kill" else r"0\)"
    with pytest.raises(DataError, match=rf"died \(exit code {code}; lower data.workers"):
        list(load_ahead(load, 0, 9, workers=1))


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs /proc")
@pytest.mark.parametrize("where", ["loading", "training"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path, where, how):
    script, mark = tmp_path / "script.py", uuid.uuid4().hex
    script.write_text(SCRIPT)
    main = subprocess.Popen(
        [sys.executable, str(script), where],
        env=os.environ | {"MARK": mark, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with main:
        assert main.stdout.readline() == b"ready\n"
        assert len(processes(mark)) == 3
        os.killpg(main.pid, how)  # as a terminal does
        main.wait(timeout=20)
        until = time.monotonic() + 20
        while processes(mark) and time.monotonic() < until:
            time.sleep(0.05)
        assert not processes(mark)
        assert b"ignored" not in main.stderr.read()  # nothing fails on the way out


def test_what_no_process_can_be_sent_is_refused():
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="cannot be sent to worker processes"):
        list(load_ahead(lambda number: lock, 0, 2, workers=1))
    with pytest.raises(ConfigError, match="threads=0"):
        load_ahead(int, 0, 2, threads=0)


def test_threads_are_as_many_as_the_cores_of_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert [default_threads(workers) for workers in (0, 1, 2, 4, 7)] == [6, 6, 3, 1, 1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)), raising=False)
    assert [default_threads(workers) for workers in (0, 2, 12)] == [16, 16, 8]
    seen = set()

    def load(number):
        seen.add(threading.get_ident())
        time.sleep(0.01)
        return number

    assert list(load_ahead(load, 0, 30)) == list(range(30))
    assert len(seen) > 2
