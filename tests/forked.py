"""Python processes that start in no time: forks of one that has imported what all of them import.

A fork has its own environment, devices, signals and end, as a process that Python starts has; only
its hash seed is that of the other forks. Three seconds of imports are what it saves.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
import types

from tests import contexts

REPO = pathlib.Path(__file__).parent.parent
IMPORTED = """
    clipjax.study.study clipjax.configs.dann clipjax.configs.tables clipjax.commands.cli
    clipjax.commands.run clipjax.train.stream clipjax.train.distributed.program
    clipjax.model.hf.load grain pyarrow.parquet optax orbax.checkpoint sklearn.manifold transformers
    tokenizers
""".split()
# What JAX read when it was imported, and each fork is told again.
OF_JAX = {"JAX_NUM_CPU_DEVICES": int, "JAX_PLATFORMS": str}


class Forked:
    """A process, as `subprocess.Popen` has it; `said` is all that it printed, errors in between."""

    def __init__(self, pid, place):
        self.pid, self._place, self.returncode = pid, place, None

    def poll(self):
        code = self._place / "code"
        if self.returncode is None and code.exists():
            self.returncode = int(code.read_text())
        return self.returncode

    def wait(self, timeout=400):
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(self.said())
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # its end is being told
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def said(self, name="both"):
        return (self._place / name).read_text(errors="replace")


def start(words, *, together=True, **env):
    """Starts `python WORDS` (-m or -c) at the repository's root; see `Forked`.

    Args:
      together: one file for what it prints and its errors; else `said("out")`, `said("err")`.
      env: changes of this process's environment; of JAX's variables those of `OF_JAX` alone.
    """
    assert {name for name in env if name.startswith("JAX_")} <= OF_JAX.keys(), env
    server, folder = _server()
    place = folder / str(next(_NUMBERS))
    place.mkdir()
    names = ("both", "both") if together else ("out", "err")
    asked = {"words": list(map(str, words)), "env": os.environ | env}
    asked |= {"place": str(place), "names": names}
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    until, pid = time.monotonic() + 120, place / "pid"
    while not pid.exists():
        assert server.poll() is None and time.monotonic() < until, "no process was forked"
        time.sleep(0.01)
    return Forked(int(pid.read_text()), place)


def run(words, *, timeout=400, **env):
    """Runs `python WORDS` to its end: what `subprocess.run` gives."""
    process = start(words, together=False, **env)
    code = process.wait(timeout)
    return subprocess.CompletedProcess(words, code, process.said("out"), process.said("err"))


_NUMBERS = itertools.count()


@functools.cache
def _server():
    """The process that is forked, and a folder for what forks leave; both end with this one."""
    folder = tempfile.TemporaryDirectory(prefix="clipjax-forks-")
    command = [sys.executable, "-m", "tests.forked"]
    server = subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, text=True)
    atexit.register(_end, server, folder)
    return server, pathlib.Path(folder.name)


def _end(server, folder):
    server.stdin.close()
    server.wait(timeout=60)
    folder.cleanup()


def _serve():
    """Forks for each line of JSON, and tells ends; returns what is asked in a fork, else None."""
    for name in IMPORTED:
        importlib.import_module(name)
    contexts.share()
    gc.collect()
    gc.freeze()
    places = {}
    while True:
        # A line at a time: who asks waits for the pid.
        asked = select.select([sys.stdin], [], [], 0.05 if places else None)[0]
        line = asked and sys.stdin.readline()
        for pid in list(places):
            if (ended := os.waitpid(pid, os.WNOHANG))[0]:
                _tell(places.pop(pid) / "code", os.waitstatus_to_exitcode(ended[1]))
        if line == "":
            return None
        if line:
            asked = json.loads(line)
            if not (pid := os.fork()):
                return asked
            places[pid] = pathlib.Path(asked["place"])
            _tell(places[pid] / "pid", pid)


def _tell(path, number):
    """Writes a file that is whole as soon as it is there."""
    path.with_suffix(".part").write_text(str(number))
    path.with_suffix(".part").rename(path)


def _become(asked):
    """Makes this fork the process that was asked for, and runs it."""
    os.environ.clear()
    os.environ.update(asked["env"])
    out, err = (pathlib.Path(asked["place"]) / name for name in asked["names"])
    for number, path in enumerate((pathlib.Path(os.devnull), out, err)):
        file = os.open(path, (os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY) | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)
    for name in OF_JAX.keys() & asked["env"].keys():
        import jax

        jax.config.update(name.lower(), OF_JAX[name](asked["env"][name]))
    kind, what, *words = asked["words"]
    if kind == "-m":
        sys.argv = [what, *words]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    sys.argv = [kind, *words]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    if (given := _serve()) is not None:
        _become(given)
