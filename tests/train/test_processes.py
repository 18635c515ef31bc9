"""Several real processes on this machine: the result of one, and what an end of one does to all."""

import functools
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
import pytest

from clipjax.configs import tables
from clipjax.errors import ConfigError
from clipjax.log import read_log
from clipjax.study import run
from clipjax.train.distributed import processes
from tests import forked
from tests.conftest import REPO, parsed, read_json

pytestmark = pytest.mark.slow

# Twenty steps of DANN on arrays, on four devices in all. Each process makes its part of the
# batches; the first writes the parameters.
SCRIPT = """
import os, pathlib, sys, time
import numpy as np, optax
from clipjax.adapt.dann import make_loss
from clipjax.adapt.step import init_state, make_step
from clipjax.data.loading.sampler import process_rows
from clipjax.log import MetricsLog, NoLog
from clipjax.model.heads import Heads, as_model
from clipjax.train.distributed import processes
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.journal import Outputs
from clipjax.train.stream import Steps, fit_stream
from clipjax.train.preemption import Notice
from clipjax.train.distributed.sharding import DATA, fetch, make_mesh
from clipjax.runtime.cli import user_errors
from tests.train import shards

workdir, pmap = pathlib.Path(sys.argv[1]), sys.argv[2] == "pmap"
fsdp, blow = int(sys.argv[3]), sys.argv[4]
at, victim, number_of_signal = map(int, blow.split(","))
with user_errors():
    processes.start(*([sys.argv[5], *map(int, sys.argv[6:8])] if len(sys.argv) > 5 else []))
    import jax, jax.numpy as jnp

    place = processes.place()
    heads = Heads(3, adapter=(64, 64), classifier=(8,), discriminator=(8,))
    params = jax.jit(heads.init)(jax.random.key(0), jnp.zeros((1, 6)))["params"]
    loss = make_loss(as_model(heads), label_smoothing=0.1)
    optimizer = optax.adamw(1e-3)
    mine = process_rows(16, place)

    def make(number):
        if number == at and place[0] == victim:
            os.kill(os.getpid(), number_of_signal)
        if 0 <= at < number:
            time.sleep(0.5)  # JAX looks for a notice once a second
        rng = np.random.default_rng(number)
        part = lambda: rng.normal(size=(16, 6)).astype(np.float32)
        label, mask = rng.integers(0, 3, 16).astype(np.int32), np.arange(16) < 13
        batch = {"source": {"inputs": part(), "label": label, "mask": mask},
                 "target": {"inputs": part()}}
        return jax.tree.map(lambda x: x[mine], batch)

    def train(way, fsdp, out):
        axis = DATA if way == "pmap" else None
        with Notice() as notice, Checkpointer(out / "checkpoints") as checkpointer:
            state = fit_stream(
                make_step(loss, optimizer, total_steps=20, axis_name=axis),
                init_state(jax.device_get(params), optimizer),
                lambda first: map(make, range(first, 20)),
                Steps("p", 20, log_every=5, save_every=5, mesh=make_mesh(jax.devices(), fsdp),
                      parallel=way),
                Outputs(
                    checkpointer, (MetricsLog if place[0] == 0 else NoLog)(out / "metrics.jsonl"),
                    say=print if place[0] == 0 else lambda line: None, stop=notice.reached,
                ),
            )
        found = fetch(state.params)
        if place[0] == 0:
            np.savez(out / "params.npz", *jax.tree.leaves(found))

    train("jit", fsdp, workdir)
    if pmap:  # each process's devices hold their share of a batch padded with NaN
        train("pmap", 1, workdir / "pmap")
        heads, start, batch = shards.heads_and_batch()
        want = shards.trained(shards.make_dann(heads), start, shards.heads_and_batch(1.0, 0)[2])
        for checks, accumulate in (("checked", 2), ("unchecked", 1)):
            given = shards.make_dann(heads), start, batch, checks, len(jax.devices()), accumulate
            apart = shards.distance(shards.trained(*given), want)
            assert apart < 2e-6, (checks, accumulate, apart)
"""


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


# Gloo tells how many peers it found, from threads that write parts of a line between each other's.
GLOO = re.compile(r"^(?:.*(?:\[Gloo\]|peer ranks).*|[\d\s:]*)\n", re.M)


class Ended(NamedTuple):
    """What became of some processes, by index."""

    codes: list[int]
    said: list[str]
    at: list[float]  # seconds of the clock


def launch(words, count, *, coordinated, devices=4, begin=forked.start):
    """Starts `count` processes that have `devices` together, and waits for all."""
    env = {"JAX_NUM_CPU_DEVICES": str(devices // count), "PJRT_NPROC": "8"}
    address, started, at = f"localhost:{free_port()}", [], {}
    for i in range(count):
        started.append(begin([*words(i), *(coordinated(address, i) if count > 1 else [])], **env))
    limit = time.monotonic() + 400
    while len(at) < count and time.monotonic() < limit:
        for i, one in enumerate(started):
            if one.poll() is not None:
                at.setdefault(i, time.monotonic())
        time.sleep(0.1)
    for one in started:
        one.kill()
    said = [GLOO.sub("", one.said()) for one in started]
    assert len(at) == count, said
    return Ended([one.returncode for one in started], said, [at[i] for i in range(count)])


class Started(subprocess.Popen):
    """`forked.start` without a fork: a hash seed of its own, as processes of a cluster have."""

    def __init__(self, words, **env):
        self._output = tempfile.TemporaryFile("w+")
        env = os.environ | {"PYTHONPATH": str(REPO)} | env
        both = {"stdout": self._output, "stderr": subprocess.STDOUT}
        super().__init__([sys.executable, *words], env=env, cwd=REPO, **both)

    def said(self):
        with self._output as file:
            file.seek(0)
            return file.read()


def fit(workdir, count, fsdp=1, blow=(-1, 0, 0), ways="jit"):
    """With `blow` a process gets a signal: (before which step, which process, which signal)."""
    pathlib.Path(workdir).mkdir(exist_ok=True)
    words = ["-c", SCRIPT, str(workdir), ways, str(fsdp), ",".join(map(str, map(int, blow)))]
    return launch(lambda i: words, count, coordinated=lambda at, i: [at, str(count), str(i)])


def params(workdir):
    with np.load(workdir / "params.npz") as found:
        return [found[name] for name in sorted(found.files)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folders of finished runs, each started once."""

    @functools.cache
    def trained(count):
        workdir = tmp_path_factory.mktemp(f"of{count}")
        more = {"fsdp": 4, "ways": "pmap"} if count > 1 else {}
        codes, said, _ = fit(workdir, count, **more)
        assert codes == [0] * count, said
        progress = [i for i, text in enumerate(said) if text]
        assert progress == [0] and "p step 20/20" in said[0], said
        return workdir

    return trained


def losses_of(workdir):
    log = (workdir / "metrics.jsonl").read_text().splitlines()
    return [float(re.search(r'"loss": ([\d.]+)', line)[1]) for line in log]


@pytest.mark.parametrize("way", ["", "pmap"])
def test_processes_train_what_one_trains(undisturbed, way):
    """With fsdp=4 no process has all parameters. After pmap, steps under `jax.shard_map` too."""
    both = undisturbed(1), undisturbed(2) / way
    for one, many in zip(*map(params, both), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses_of(both[1]), losses_of(both[0]), rtol=2e-6)


def lost_by(index, count, victim):
    """What a process says and nothing else, C++ and Python alike, when another one was killed."""
    return (
        f"clipjax: process {index} of {count} lost contact with process {victim}, which was killed "
        "or cut off; start all processes again, and the run goes on from its last checkpoint.\n"
    )


def errors_in(text):
    """What processes printed without process 0's lines on its progress."""
    return re.sub(r"^p step .*\n", "", text, flags=re.M)


def stopped_at(said):
    """The step that both of two processes tell of that a notice stopped."""
    told = r"^clipjax: stopped by SIGTERM at step (.*) of p, saved"
    steps = [re.findall(told, text, re.M) for text in said]
    assert len(steps[0]) == 1 and steps[0] == steps[1], said
    return steps[0][0]


def test_a_kill_and_a_notice_are_said_and_restarts_end_as_if_nothing_had_happened(
    undisturbed, tmp_path
):
    """One is killed; the others say so. Told to one, a notice stops all at one step."""
    codes, said, at = fit(tmp_path, 2, 4, blow=(12, 1, signal.SIGKILL))
    assert codes == [1, -9] and errors_in(said[0]) == lost_by(0, 2, 1)
    assert at[0] - at[1] < 60
    codes, said, _ = fit(tmp_path, 2, 4, blow=(13, 1, signal.SIGTERM))
    assert codes == [75, 75], said
    assert "p step 5/20" not in said[0]  # it went on
    assert (tmp_path / "checkpoints" / stopped_at(said)).is_dir()
    assert errors_in(said[0]).count("\n") == 1  # JAX tells of the signal in the process that got it
    codes, said, _ = fit(tmp_path, 2, 4)
    assert codes == [0, 0], said
    assert "p step 10/20" not in said[0] and "p step 20/20" in said[0]
    for one, many in zip(params(undisturbed(2)), params(tmp_path), strict=True):
        np.testing.assert_array_equal(many, one)


def test_where_the_first_of_four_is_killed_all_others_say_so(undisturbed, tmp_path):
    """Parameters and batches are cut over all four, and train as one process trains them."""
    codes, said, at = fit(tmp_path, 4, 2, blow=(12, 0, signal.SIGKILL))
    assert codes == [-9, 1, 1, 1]
    for index in range(1, 4):
        assert errors_in(said[index]) == lost_by(index, 4, 0)
        assert at[index] - at[0] < 60
    np.testing.assert_allclose(losses_of(tmp_path), losses_of(undisturbed(1))[:2], rtol=2e-6)


# What becomes of one process after the other did something: nothing is trained.
DEED = """
import os, sys, time
from clipjax.errors import ConfigError
from clipjax.train.distributed import processes
from clipjax.runtime.cli import user_errors

deed, index = sys.argv[1], int(sys.argv[4])
with user_errors():
    processes.start(sys.argv[2], 2, index)
    processes.gather(0)
    if deed == "raises" and index == 1:
        raise ConfigError("a file is missing.")
    if deed == "dies at the end":
        print("done", flush=True)
        if index == 0:
            time.sleep(3)
            os.kill(os.getpid(), 9)
    else:
        processes.gather(0)
"""


def do(deed):
    where = lambda address, i: [address, "2", str(i)]
    return launch(lambda i: ["-c", DEED, deed], 2, coordinated=where, devices=2)


def test_one_that_ends_with_an_error_is_not_called_killed():
    codes, said, at = do("raises")
    assert codes == [1, 1] and said[1] == "clipjax: a file is missing.\n"
    assert re.fullmatch(
        r"clipjax: process 0 of 2 ends because process 1 ended .* code 1;.*\n", said[0]
    )
    assert abs(at[0] - at[1]) < 20


def test_the_first_is_missed_by_those_that_wait_for_it_at_the_end():
    codes, said, at = do("dies at the end")
    assert codes == [-9, 1] and said == ["done\n", "done\n" + lost_by(1, 2, 0)]
    assert at[1] - at[0] < 20


ARGUMENT = "6,smoke,source=real,target=sketch"  # of configs/tables.py
CHANGES = {
    "stages": ("domain_loss_max03",),
    "batch_size": 4,
    "features.batch_size": 8,
    "features.cache": False,
}


def study(photos, wee_clip, workdir, changes=lambda i: (), begin=forked.start):
    """The command of a study in two processes."""
    flags = [
        f"--config=configs/tables.py:{ARGUMENT},root={photos},model={wee_clip}",
        *(f"--config.{field}={value}" for field, value in CHANGES.items()),
        f"--workdir={workdir}",
    ]
    words = lambda i: ["-m", "experiments.main", *flags, *changes(i)]
    flag = lambda at, i: [f"--coordinator={at}", "--num_processes=2", f"--process_id={i}"]
    return launch(words, 2, coordinated=flag, devices=2, begin=begin)


def test_different_configs_are_refused_at_start(photos, wee_clip, tmp_path):
    other = lambda i: [f"--config.epochs={3 + i}"]
    codes, said, _ = study(photos, wee_clip, tmp_path / "run", other)
    assert codes == [1, 1]
    for text in said:
        assert "process 1 has another config than process 0 (epochs: 3 -> 4)" in text
        assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_a_study_of_two_processes_has_the_results_of_one(photos, wee_clip, tmp_path):
    """Encoding, a phase on cached features, one from pixels, validation, report."""
    config = tables.get_config(f"{ARGUMENT},root={photos},model={wee_clip}")
    config.update_from_flattened_dict(CHANGES)
    run(parsed(config), tmp_path / "1", print)  # in this one
    codes, said, _ = study(photos, wee_clip, tmp_path / "2", begin=Started)
    assert codes == [0, 0], said
    assert "results.json" in said[0] and not said[1]
    one, two = (tmp_path / str(count) for count in (1, 2))
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    rows = [read_json(at / "results.json")["rows"] for at in (one, two)]
    errors = [[row.pop("ece") for row in found] for found in rows]
    assert rows[0] == rows[1]
    np.testing.assert_allclose(errors[1], errors[0], atol=1e-4)
    answers = [np.loadtxt(at / "predictions.csv", str, delimiter=",") for at in (one, two)]
    assert len(answers[0]) == 2 * 18 + 1  # two methods on all images of the target
    np.testing.assert_array_equal(*(each[:, [0, 1, 2, 3]] for each in answers))
    np.testing.assert_allclose(*(each[1:, 4].astype(float) for each in answers), atol=2e-3)
    logs = [read_log(at / "metrics.jsonl") for at in (one, two)]
    losses = [[np.ravel(r["loss"]) for r in log if "loss" in r] for log in logs]
    np.testing.assert_allclose(np.concatenate(losses[1]), np.concatenate(losses[0]), rtol=1e-4)


@pytest.mark.parametrize(
    "words", [("nowhere", 2, 0), ("host:1", 0, 0), ("host:1", 2, 2), ("host:1", 2, -1), ("", 2, 1)]
)
def test_an_incomplete_address_is_refused(words):
    with pytest.raises(ConfigError, match="give all three"):
        processes.start(*words)


def test_numbers_of_the_environment_are_read_or_refused(monkeypatch):
    monkeypatch.setattr(processes, "_on_cluster", lambda: 1 / 0)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    processes.start()  # one process, whatever the cluster says
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES='two' is no whole number"):
        processes.start()


def test_one_process_agrees_with_itself():
    assert processes.place() == (0, 1) and processes.is_first() and not processes.several()
    assert processes.gather({"a": 1}) == [{"a": 1}] and processes.from_first(lambda: 7) == 7
    processes.agree("config", "x")
    assert not processes.lost_contact(RuntimeError("out of memory"))
    gloo = ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    assert "process 0 of 1 lost contact with another one (UNKNOWN" in processes.lost_contact(gloo)
