"""Several real processes on this machine: the result of one, and an end where one is killed."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
import pytest

from clipjax.errors import ConfigError
from clipjax.log import read_log
from clipjax.train import processes
from tests.conftest import REPO, read_json

pytestmark = pytest.mark.slow

# Twenty steps of DANN on arrays, on four devices in all. Each process makes its part of the
# batches; the first writes the parameters.
SCRIPT = """
import os, pathlib, signal, sys
import numpy as np, optax
from clipjax.adapt.dann import make_loss
from clipjax.adapt.step import init_state, make_step
from clipjax.data.order import process_rows
from clipjax.log import MetricsLog, NoLog
from clipjax.model.heads import Heads, as_model
from clipjax.train import processes
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.loop import fit_stream
from clipjax.train.sharding import DATA, fetch, make_mesh
from experiments.cli import explained

workdir, way, fsdp, kill_at = pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5])
with explained():
    processes.start(*([sys.argv[5], *map(int, sys.argv[6:8])] if len(sys.argv) > 5 else []))
    import jax, jax.numpy as jnp

    place, axis = processes.place(), DATA if way == "pmap" else None
    heads = Heads(3, adapter=(64, 64), classifier=(8,), discriminator=(8,))
    params = heads.init(jax.random.key(0), jnp.zeros((1, 6)))["params"]
    loss = make_loss(as_model(heads), label_smoothing=0.1, axis_name=axis)
    optimizer = optax.adamw(1e-3)
    mine = process_rows(16, place)

    def make(number):
        if number == kill_at and place[0] == place[1] - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(number)
        part = lambda: rng.normal(size=(16, 6)).astype(np.float32)
        label, mask = rng.integers(0, 3, 16).astype(np.int32), np.arange(16) < 13
        batch = {"source": {"inputs": part(), "label": label, "mask": mask},
                 "target": {"inputs": part()}}
        return jax.tree.map(lambda x: x[mine], batch)

    with Checkpointer(workdir / "checkpoints") as checkpointer:
        state = fit_stream(
            make_step(loss, optimizer, total_steps=20, axis_name=axis),
            init_state(jax.device_get(params), optimizer),
            lambda first: map(make, range(first, 20)), 20,
            phase="p", checkpointer=checkpointer, log_every=5, save_every=5,
            log=(MetricsLog if place[0] == 0 else NoLog)(workdir / "metrics.jsonl"),
            say=print if place[0] == 0 else lambda line: None,
            mesh=make_mesh(jax.devices(), fsdp), parallel=way,
        )
    found = fetch(state.params)
    if place[0] == 0:
        np.savez(workdir / "params.npz", *jax.tree.leaves(found))
"""


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


class Ended(NamedTuple):
    """What became of some processes, by index."""

    codes: list[int]
    said: list[str]
    at: list[float]  # seconds of the clock


def launch(words, count, *, coordinated, devices=4):
    """Starts `count` processes that have `devices` together, and waits for all."""
    env = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_NUM_CPU_DEVICES": str(devices // count),
        "PJRT_NPROC": "8",
        "PYTHONPATH": str(REPO),
    }
    address, started, outputs, at = f"localhost:{free_port()}", [], [], {}
    for i in range(count):
        command = [sys.executable, *words(i), *(coordinated(address, i) if count > 1 else [])]
        outputs.append(tempfile.TemporaryFile("w+"))
        both = {"stdout": outputs[-1], "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, env=env, cwd=REPO, **both))
    limit = time.monotonic() + 400
    while len(at) < count and time.monotonic() < limit:
        for i, one in enumerate(started):
            if one.poll() is not None:
                at.setdefault(i, time.monotonic())
        time.sleep(0.1)
    for one in started:
        one.kill()
    said = []
    for file in outputs:
        with file:
            file.seek(0)
            said.append(re.sub(r"^\[Gloo\].*\n", "", file.read(), flags=re.M))
    assert len(at) == count, said
    return Ended([one.returncode for one in started], said, [at[i] for i in range(count)])


def fit(workdir, count, way="jit", fsdp=1, kill_at=-1):
    pathlib.Path(workdir).mkdir(exist_ok=True)
    words = ["-c", SCRIPT, str(workdir), way, str(fsdp), str(kill_at)]
    return launch(lambda i: words, count, coordinated=lambda at, i: [at, str(count), str(i)])


def params(workdir):
    with np.load(workdir / "params.npz") as found:
        return [found[name] for name in sorted(found.files)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    codes, said, _ = fit(workdir, 1)
    assert codes == [0], said
    return workdir


@pytest.mark.parametrize("count, way, fsdp", [(2, "jit", 2), (2, "pmap", 1), (4, "jit", 4)])
def test_processes_train_what_one_trains(alone, tmp_path, count, way, fsdp):
    """With fsdp=4 no process has all parameters."""
    codes, said, _ = fit(tmp_path, count, way, fsdp)
    assert codes == [0] * count, said
    assert all("p step 20/20" in text if i == 0 else not text for i, text in enumerate(said)), said
    for one, many in zip(params(alone), params(tmp_path), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)
    logs = [(at / "metrics.jsonl").read_text().splitlines() for at in (alone, tmp_path)]
    losses = [[float(re.search(r'"loss": ([\d.]+)', line)[1]) for line in log] for log in logs]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-6)


def test_where_one_is_killed_the_others_end_and_a_restart_goes_on(tmp_path):
    codes, said, _ = fit(tmp_path / "whole", 2)
    assert codes == [0, 0], said
    codes, said, at = fit(tmp_path / "broken", 2, kill_at=12)
    assert codes[1] == -9 and codes[0] not in (0, None)
    assert "process 0 of 2 lost contact" in said[0] or "another task died" in said[0], said[0]
    assert at[0] - at[1] < 60
    codes, said, _ = fit(tmp_path / "broken", 2)
    assert codes == [0, 0], said
    assert "p step 5/20" not in said[0] and "p step 20/20" in said[0]
    for one, many in zip(params(tmp_path / "whole"), params(tmp_path / "broken"), strict=True):
        np.testing.assert_array_equal(many, one)


def study(photos, wee_clip, workdir, count, changes=lambda i: ()):
    flags = [
        f"--config=configs/tables.py:6,smoke,root={photos},source=real,target=sketch",
        f"--config.model={wee_clip}",
        "--config.stages=('domain_loss_max03',)",
        "--config.batch_size=4",
        "--config.features.batch_size=8",
        "--config.features.cache=False",
        f"--workdir={workdir}",
    ]
    words = lambda i: ["-m", "experiments.main", *flags, *changes(i)]  # noqa: E731
    flag = lambda at, i: [f"--coordinator={at}", f"--num_processes={count}", f"--process_id={i}"]  # noqa: E731
    return launch(words, count, coordinated=flag, devices=2)


def test_different_configs_are_refused_at_start(photos, wee_clip, tmp_path):
    other = lambda i: [f"--config.epochs={3 + i}"]  # noqa: E731
    codes, said, _ = study(photos, wee_clip, tmp_path / "run", 2, other)
    assert codes == [1, 1]
    for text in said:
        assert "process 1 has another config than process 0 (epochs: 3 -> 4)" in text
        assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_a_study_of_two_processes_has_the_results_of_one(photos, wee_clip, tmp_path):
    """Encoding, a phase on cached features, one from pixels, validation, report."""
    for count in (1, 2):
        codes, said, _ = study(photos, wee_clip, tmp_path / str(count), count)
        assert codes == [0] * count, said
    assert "results.json" in said[0] and not said[1]
    one, two = (tmp_path / str(count) for count in (1, 2))
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    rows = [read_json(at / "results.json")["rows"] for at in (one, two)]
    errors = [[row.pop("ece") for row in found] for found in rows]
    assert rows[0] == rows[1]
    np.testing.assert_allclose(errors[1], errors[0], atol=1e-4)
    logs = [read_log(at / "metrics.jsonl") for at in (one, two)]
    losses = [[np.ravel(r["loss"]) for r in log if "loss" in r] for log in logs]
    np.testing.assert_allclose(np.concatenate(losses[1]), np.concatenate(losses[0]), rtol=1e-4)


@pytest.mark.parametrize(
    "words", [("nowhere", 2, 0), ("host:1", 0, 0), ("host:1", 2, 2), ("host:1", 2, -1), ("", 2, 1)]
)
def test_an_incomplete_address_is_refused(words):
    with pytest.raises(ConfigError, match="give all three"):
        processes.start(*words)


def test_one_process_agrees_with_itself():
    assert processes.place() == (0, 1) and processes.is_first() and not processes.several()
    assert processes.gather({"a": 1}) == [{"a": 1}] and processes.from_first(lambda: 7) == 7
    processes.agree("config", "x")
    assert not processes.lost_contact(RuntimeError("out of memory"))
