"""Two runs in one folder: the second is refused by name; no killed run keeps anybody out."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clipjax.commands import suite
from clipjax.configs import finetune
from clipjax.errors import ConfigError
from clipjax.io import as_path
from clipjax.runtime import claim
from clipjax.runtime.claim import claimed
from clipjax.study import run
from tests.conftest import REPO, parsed
from tests.study.test_remote import bucket  # noqa: F401

HOLD = """
import os, pathlib, subprocess, sys, time
from clipjax.runtime.claim import claimed
with claimed(pathlib.Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    forked = os.fork() or time.sleep(60) or os._exit(0)
    print(child.pid, forked, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/run, and the pids of its child and of its fork."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    env = os.environ | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    children = list(map(int, process.stdout.readline().split()))
    yield process, children
    for pid in (process.pid, *children):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def test_a_second_run_is_refused_by_name_until_the_first_was_killed(holder, tmp_path, photos):
    process, children = holder
    config = finetune.get_config(f"smoke,root={photos},source=real,target=sketch,model=tiny")
    for second in (
        lambda: run(parsed(config), tmp_path / "run"),
        lambda: suite.run_suite(tmp_path / "run", {}, False),
    ):
        with pytest.raises(ConfigError) as caught:
            second()
        said = str(caught.value)
        assert f"{tmp_path / 'run'} is in use: process {process.pid} on " in said
        assert time.strftime("since %Y-", time.gmtime()) in said and len(said.splitlines()) == 1
    assert not (tmp_path / "run" / "config.json").exists()
    process.kill()
    process.wait()
    os.kill(children[0], 0), os.kill(children[1], 0)  # they live on, and hold nothing
    with claimed(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / claim.LOCK).read_text())["pid"] == os.getpid()


def test_nothing_is_left_of_a_claim(tmp_path):
    with (
        claimed(tmp_path / "a" / "b"),
        pytest.raises(ConfigError, match=f"process {os.getpid()} on"),
    ):
        with claimed(tmp_path / "a" / "b"):
            pass
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_lock_that_a_killed_run_left_is_taken_whoever_has_its_number_now(tmp_path):
    for pid in (os.getpid(), 1, 2**22 - 1):
        (tmp_path / claim.LOCK).write_text(json.dumps({"pid": pid, "host": "a", "since": "b"}))
        with claimed(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_refused_config_leaves_no_workdir(tmp_path):
    config = finetune.get_config("smoke,root=/no/such/folder")
    with pytest.raises(Exception, match="/no/such/folder"):
        run(parsed(config), tmp_path / "a" / "w")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fast(monkeypatch):
    """Touches, and looks at them, in fractions of a second."""
    for name, seconds in (("BEAT", 0.05), ("DEAD", 0.4), ("SETTLE", 0.01), ("LOOK", 0.05)):
        monkeypatch.setattr(claim, name, seconds)


@pytest.fixture(params=["bucket", "disk without locks"])
def unlocked(request, tmp_path_factory, monkeypatch, fast):
    """A folder where no system holds locks."""
    if request.param == "bucket":
        return request.getfixturevalue("bucket")
    import fcntl

    def refuse(*args):
        raise OSError(claim.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    return as_path(tmp_path_factory.mktemp("network") / "run")


def test_where_there_are_no_locks_the_living_are_told_from_the_dead(unlocked, capsys):
    in_use = f"in use: process {os.getpid()} on"
    with claimed(unlocked), pytest.raises(ConfigError, match=in_use):
        with claimed(unlocked):
            pass
    assert not (unlocked / claim.LOCK).exists()
    unlocked.mkdir(parents=True, exist_ok=True)
    (unlocked / claim.LOCK).write_text(json.dumps(claim._me() | {"token": "of a killed run"}))
    began = time.monotonic()
    with claimed(unlocked):
        assert time.monotonic() - began >= claim.DEAD
    assert "may run in" in capsys.readouterr().err


def test_of_two_that_come_at_once_one_stays(unlocked, monkeypatch):
    def other_came(seconds):
        (unlocked / claim.LOCK).write_text(json.dumps(claim._me() | {"token": "other"}))

    monkeypatch.setattr(claim.time, "sleep", other_came)
    with pytest.raises(ConfigError, match="is in use"), claimed(unlocked):
        pass


def test_a_note_that_is_being_written_is_read_again(unlocked, monkeypatch):
    unlocked.mkdir(parents=True, exist_ok=True)
    note = claim._me() | {"token": "of a living run"}
    written = iter(["", json.dumps(note | {"beats": 1})])
    (unlocked / claim.LOCK).write_text(json.dumps(note))
    monkeypatch.setattr(
        claim.time, "sleep", lambda seconds: (unlocked / claim.LOCK).write_text(next(written))
    )
    with pytest.raises(ConfigError, match=f"in use: process {os.getpid()} on"), claimed(unlocked):
        pass
