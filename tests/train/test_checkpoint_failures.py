"""Where checkpoints cannot be written: training goes on, and the last good one stays."""

import errno
import os

import jax.numpy as jnp
import pytest

from clipjax.train import restore as stored
from clipjax.train.checkpoint import Checkpointer
from tests import forked

# Files may not grow beyond 100 kB while the checkpoints of steps 4 to 7 are written, as if the disk
# were full then.
SCRIPT = """
import pathlib, resource, sys
import jax.numpy as jnp, optax
from clipjax.adapt.step import init_state, make_step
from clipjax.log import MetricsLog
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.journal import Outputs
from clipjax.train.stream import Steps, fit_stream
from clipjax.runtime.cli import user_errors

folder = pathlib.Path(sys.argv[1])

def loss(params, batch, rng, progress):
    return jnp.sum((params["w"] - batch) ** 2), {}

def batches(first):
    for number in range(first, 10):  # the batch after the one whose step is saved next
        limit = 100_000 if 4 <= number < 8 else resource.RLIM_INFINITY
        checkpointer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        yield jnp.float32(number)
        if number in (6, 7):
            print(sorted(p.name for p in (folder / "ckpt").iterdir() if p.name.isdigit()))

with user_errors(), Checkpointer(folder / "ckpt") as checkpointer:
    optimizer = optax.sgd(0.1)
    noise = jnp.sin(jnp.arange(100_000.0) ** 2)  # nothing that compresses
    state = fit_stream(
        make_step(loss, optimizer, total_steps=10), init_state({"w": noise}, optimizer), batches,
        Steps("p", 10, save_every=1), Outputs(checkpointer, MetricsLog(folder / "log")),
    )
    print(int(state.step))
"""


@pytest.mark.slow
def test_training_goes_on_while_the_disk_is_full(tmp_path):
    done = forked.run(["-c", SCRIPT, tmp_path])
    assert done.returncode == 0, done.stderr
    # (A thread of tensorstore's may print its own complaint.)
    failed = [line for line in done.stderr.splitlines() if line.startswith("clipjax: ")]
    assert len(failed) == 4, done.stderr
    assert all("could not be written (File too large)" in line for line in failed), failed
    assert all(line.endswith("last good checkpoint: step 3.") for line in failed), failed
    assert done.stdout.splitlines()[-1] == "10"
    assert done.stdout.count("['2', '3']") == 2  # those before the failures were kept
    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == ["10", "9"]


def test_a_directory_that_is_lost_is_said_too(tmp_path, capsys):
    folder = tmp_path / "ckpt"
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(1, {"w": jnp.ones(3)})
        checkpointer.wait()
        folder.rename(tmp_path / "away")
        folder.write_text("in its way")
        checkpointer.save(2, {"w": jnp.ones(3)})
    (line,) = capsys.readouterr().err.splitlines()
    assert "ckpt/2 could not be written (" in line and "Not a directory" in line


def test_removing_waits_for_threads_that_still_write(tmp_path, monkeypatch):
    half = tmp_path / "4.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "written").write_text("")
    real, calls = os.rmdir, []

    def busy(path, *args, **kwargs):
        calls.append(path)
        if len(calls) < 3:  # as where another thread's file appeared after they were listed
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(os, "rmdir", busy)
    stored.remove_unfinished(tmp_path, 4)
    assert len(calls) == 3 and not half.exists()
    half.mkdir()
    calls.clear()
    with pytest.raises(OSError, match="not empty"):
        stored.remove_unfinished(tmp_path, 4, patience=0)
