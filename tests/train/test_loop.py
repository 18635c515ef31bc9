"""Training on a stream: resuming, means, and non-finite losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt.step import init_state, make_step
from clipjax.errors import NonFiniteError
from clipjax.log import MetricsLog, read_log
from clipjax.train import stream as loop
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import program
from clipjax.train.journal import Outputs
from clipjax.train.stream import Steps, fit_stream
from clipjax.train.trace import Trace, traced

OPTIMIZER = optax.adam(0.1)


def loss(params, batch, rng, progress):
    del progress
    noise = 0.01 * jax.random.normal(rng, (3,))
    return jnp.sum((params["w"] - batch + noise) ** 2), {"batch": batch}


STEP = make_step(loss, OPTIMIZER, total_steps=10)


def fit(folder, total, batches=lambda first: iter(jnp.arange(float(first), 99.0)), **options):
    state = init_state({"w": jnp.zeros(3)}, OPTIMIZER, seed=1)
    outputs = {key: options.pop(key) for key in ("describe", "stop") if key in options}
    plan = Steps("p", total, **{"log_every": 2, "save_every": 5} | options)
    with Checkpointer(folder / "ckpt") as checkpointer:
        out = Outputs(checkpointer, MetricsLog(folder / "metrics.jsonl"), **outputs)
        return fit_stream(STEP, state, batches, plan, out)


def test_stopping_and_going_on_gives_the_same_bits(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = fit(tmp_path / "a", 10)

    def stop(first):
        for number in range(first, 7):
            yield jnp.float32(number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", 10, stop)
    again = fit(tmp_path / "b", 10)  # from step 5, the newest checkpoint
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in "ab"]
    for log in logs:
        [record.pop("steps_per_s") for record in log]
    assert logs[0] == logs[1]


def test_a_run_that_goes_on_holds_one_state(tmp_path):
    """What fits at first fits after a preemption, too: the state given is not kept beside."""
    fit(tmp_path, 5)
    given = init_state({"w": jnp.zeros(3)}, OPTIMIZER, seed=1)
    with Checkpointer(tmp_path / "ckpt") as checkpointer:
        found = loop._newest(checkpointer, given)
    assert int(found.step) == 5
    assert all(x.is_deleted() for x in jax.tree.leaves(given))
    ahead = found._replace(step=found.step + 1)
    with Checkpointer(tmp_path / "ckpt") as checkpointer:
        assert loop._newest(checkpointer, ahead) is ahead


def test_a_long_epoch_is_saved_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    opened = []

    def stop(first):
        opened.append(first)
        yield from jnp.arange(float(first), 7.0)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, 10, stop, log_every=10, save_every=10)
    assert opened == [0, 6]  # the seventh batch was asked for while the sixth step ran


def test_records_are_means_since_the_one_before(tmp_path):
    fit(tmp_path, 7, log_every=3, save_every=100, describe=lambda _, n: {"epoch": n // 3})
    records = read_log(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["epoch"], r["batch"]) for r in records] == [
        (3, 1, 1.0),
        (6, 2, 4.0),
        (7, 2, 6.0),
    ]


def test_seeds_keep_each_others_records(tmp_path):
    state = init_state({"w": jnp.zeros(3)}, OPTIMIZER)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for seed in (0, 1, 0):  # the first again at last: it is finished
        with Checkpointer(tmp_path / f"ckpt{seed}") as checkpointer:
            fit_stream(
                STEP,
                jax.tree.map(jnp.copy, state),
                lambda first: iter(jnp.arange(float(first), 9.0)),
                Steps("p", 4, log_every=2, tags={"seed": seed}),
                Outputs(checkpointer, log),
            )
    assert [(r["seed"], r["step"]) for r in read_log(log.path)] == [(0, 2), (0, 4), (1, 2), (1, 4)]


def test_only_batches_that_were_brought_there_reach_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "deal_out", lambda batch, mesh: np.float32(batch))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        fit(tmp_path, 10)


def test_a_trace_is_of_its_steps(monkeypatch, tmp_path):
    events = []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda folder, **options: events.append(folder)
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("end"))
    for span, first, last in [((2, 4), 1, 6), ((2, 9), 3, 5), ((0, 1), 3, 4), ((0, 1), 3, 6)]:
        call = traced(lambda s, b: events.append(b), Trace("begin", *span), first, last)
        [call(None, number) for number in range(first, last)]
    assert events[:12] == [1, "begin", 2, 3, "end", 4, 5, "begin", 3, 4, "end", 3]
    assert events[12:] == [3, "begin", 4, "end", 5]
    before = Trace(tmp_path, 0, 2)  # of an earlier start of the run: there is its trace
    assert traced(lambda s, b: b, before, 3, 6)(None, 3) == 3 and len(events) == 17


def test_a_trace_is_written(tmp_path):
    fit(tmp_path, 4, trace=Trace(tmp_path / "profile", 1, 3))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_nothing_is_saved_after_a_loss_that_is_not_finite(tmp_path):
    spoilt = lambda first: iter([1.0] * 6 + [jnp.nan] * 9)
    with pytest.raises(NonFiniteError, match="step 6 of phase 'p'.*step 5"):
        fit(tmp_path, 15, spoilt, log_every=100)
    with Checkpointer(tmp_path / "ckpt") as checkpointer:
        assert checkpointer.latest == 5
