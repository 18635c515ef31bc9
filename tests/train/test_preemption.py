"""SIGTERM: the step under way ends, its state is saved, and the same command goes on."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.log import read_log
from clipjax.train import arrays
from clipjax.train.preemption import Notice, Preempted, obeyed
from tests import forked
from tests.train import test_arrays, test_loop


def term():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_notice_is_taken_up_after_the_step_and_the_handler_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with Notice() as notice:
        assert not notice.reached(1)
        term()  # nothing is raised here
        assert notice.reached(2)
        with pytest.raises(Preempted):
            with Notice():  # nobody asks this one
                term()
        assert signal.getsignal(signal.SIGTERM) == notice._note
        with pytest.raises(SystemExit) as ended:
            raise Preempted()
        assert ended.value.code == 75
        notice._given = False
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_of_loops_it_is_obeyed_at_once():
    with pytest.raises(Preempted, match="the same command goes on"):
        with obeyed():
            term()
            time.sleep(60)


@pytest.mark.slow
def test_a_stream_goes_on_with_the_same_bits(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = test_loop.fit(tmp_path / "a", 10)

    def told(first):
        for number in range(first, 99):
            if number == 7:  # it is fetched after step 7 began
                term()
            yield jnp.float32(number)

    with pytest.raises(Preempted, match="at step 7 of p, saved"), Notice() as notice:
        test_loop.fit(tmp_path / "b", 10, told, stop=notice.reached)
    assert sorted(path.name for path in (tmp_path / "b" / "ckpt").iterdir()) == ["5", "7"]
    again = test_loop.fit(tmp_path / "b", 10)
    jax.tree.map(np.testing.assert_array_equal, whole, again)


@pytest.mark.slow
def test_arrays_go_on_with_the_same_bits_and_log(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "EXAMPLES_A_CALL", 0)  # each epoch is a call
    data, step, make = test_arrays.problem()
    states = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32))
    evaluate = lambda params: {"size": np.abs(params["w"]).sum((1, 2)).tolist()}
    options = dict(save_every=3, evaluate=evaluate)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = test_arrays.fit(tmp_path / "a", data, step, states, 7, **options)
    stop = (10).__eq__  # in the fourth epoch, of three steps; the next evaluation is after six
    with pytest.raises(Preempted, match="at step 12 of test, saved"):
        test_arrays.fit(tmp_path / "b", data, step, states, 7, stop=stop, **options)
    again = test_arrays.fit(tmp_path / "b", data, step, states, 7, **options)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    logs = [
        [r | {"s_per_epoch": 0} for r in read_log(tmp_path / name / "metrics.jsonl")]
        for name in "ab"
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_the_command_ends_with_75_and_goes_on(tmp_path, photos, wee_clip):
    command = ["-m", "experiments.main", f"--workdir={tmp_path / 'w'}"]
    words = f"source=real,target=sketch,root={photos},model={wee_clip}"
    command += [f"--config=configs/finetune.py:{words}"]
    command += ["--config.epochs=1000000", "--config.seeds=(0,)"]
    reached = []
    for _ in range(2):
        process = forked.start(command, CI="true")
        log, until = tmp_path / "w" / "metrics.jsonl", time.monotonic() + 200
        done = lambda: [r["epoch"] for r in read_log(log) if "evaluation" in r]  # noqa: B023, E731
        before = max(reached, default=0)
        while process.poll() is None and time.monotonic() < until:
            if max(done(), default=0) > before:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.2)
        code, said = process.wait(timeout=200), process.said()
        assert code == 75, said
        assert "stopped by SIGTERM at step" in said and "saved; the same command" in said
        reached.append(max(r["epoch"] for r in read_log(log)))
    newest = max(int(p.name) for p in (tmp_path / "w" / "checkpoints" / "finetune").iterdir())
    assert newest == reached[1] > reached[0]  # an epoch here has one step
