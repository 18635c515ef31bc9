"""Running means of parameters: against torch's, and as a part of a state that resumes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt import average
from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.adapt.step import init_state, make_step
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import DATA, make_mesh
from tests.train import test_arrays

VALUES = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


def run(rule):
    mean = average.begin({"w": jnp.zeros(3, jnp.bfloat16)}, rule)
    for i, value in enumerate(VALUES):
        mean = average.add(mean, rule, {"w": value}, jnp.int32(i + 1))
    return np.asarray(mean.params["w"])


def test_uniform_and_ema_are_torchs():
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

    def torchs(values, **options):
        layer = torch.nn.Linear(3, 1, bias=False)
        model = AveragedModel(layer, **options)
        for value in values:
            layer.weight.data = torch.tensor(value)[None]
            model.update_parameters(layer)
        return model.module.weight.detach().numpy()[0]

    np.testing.assert_allclose(run(average.uniform()), torchs(VALUES), rtol=1e-5)
    late = torchs(VALUES[5:])
    np.testing.assert_allclose(run(average.uniform(5)), late, rtol=1e-5)
    ends = torchs(VALUES[[5, 8]])  # of epochs of three updates, the last two
    np.testing.assert_allclose(run(average.uniform(3, every=3)), ends, rtol=1e-5)
    # torch's starts at the first value, ours without a bias: equal weights once both forget it.
    ours, theirs = run(average.ema(0.2)), torchs(VALUES, avg_fn=get_ema_avg_fn(0.2))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    theirs = torchs(VALUES, avg_fn=get_ema_avg_fn(0.9))
    np.testing.assert_allclose(run(average.ema(0.9, debias=False)), theirs, rtol=1e-4)
    ends = torchs(VALUES[[5, 8]], avg_fn=get_ema_avg_fn(0.9))
    ours = average.ema(0.9, every=3, start=3, debias=False)
    mean = average.begin({"w": jnp.zeros(3)}, ours)
    for step in range(4, 10):  # of a phase after one of three updates
        mean = average.add(mean, ours, {"w": VALUES[step - 1]}, jnp.int32(step))
    np.testing.assert_allclose(mean.params["w"], ends, rtol=1e-4)


def test_means_of_three_snapshots_have_reference_values():
    """SWA and EMA of (1, 2), (3, 6), (5, 1)."""
    for rule, wanted in (
        (average.uniform(), (3, 3)),
        (average.ema(0.9, debias=False), (1.58, 2.26)),
    ):
        mean = average.begin({"w": jnp.zeros(2)}, rule)
        for step, value in enumerate(((1.0, 2.0), (3.0, 6.0), (5.0, 1.0)), 1):
            mean = average.add(mean, rule, {"w": jnp.array(value)}, jnp.int32(step))
        np.testing.assert_allclose(mean.params["w"], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "b, shares",
    [
        (0.5, (0.2558, 0.16746, 0.15348, 0.16746, 0.2558)),
        (0.1, (0.300151, 0.14001, 0.119677, 0.14001, 0.300151)),
    ],
)
def test_weights_of_a_beta_density_are_clipoods(b, shares):
    """Of the parameters before four updates and after each."""
    rule, units = average.beta(b, 4), jnp.eye(5)
    mean = average.begin({"w": units[0]}, rule)
    for step in range(1, 5):
        mean = average.add(mean, rule, {"w": units[step]}, jnp.int32(step))
    np.testing.assert_allclose(mean.params["w"], shares, rtol=1e-4)
    later = average.begin({"w": units[0]}, average.beta(b, 4, start=7), 7)
    np.testing.assert_allclose(later.total, rule.weight(0), rtol=1e-6)


def test_weights_of_a_normal_density_are_promptsrcs():
    """Of the ends of five epochs of two updates: mean 4, deviation 1."""
    shares = (0.004708, 0.057357, 0.257058, 0.423818, 0.257058)
    rule, units = average.gauss(4.0, 1.0, every=2, start=10), jnp.repeat(jnp.eye(5), 2, axis=0)
    mean = average.begin({"w": units[0]}, rule, 10)
    for step in range(1, 11):
        mean = average.add(mean, rule, {"w": units[step - 1]}, jnp.int32(10 + step))
    np.testing.assert_allclose(mean.params["w"], shares, rtol=1e-4)


def test_epoch_ends_alone_have_weights_and_decay():
    """An EMA of epochs is the EMA of their last updates."""
    ends = average.begin({"w": jnp.zeros(3)})
    for i, value in enumerate(VALUES[2::3]):
        ends = average.add(ends, average.ema(0.9), {"w": value}, jnp.int32(i + 1))
    np.testing.assert_allclose(run(average.ema(0.9, every=3)), ends.params["w"], rtol=1e-6)


def test_segments_begin_anew_and_join_by_their_lengths():
    """A segment's mean is of its own updates, the last one's of as many as there were."""
    rule, ends = average.segments(4), []
    mean = average.begin({"w": jnp.zeros(3)}, rule)
    for step, value in enumerate(VALUES, 1):
        mean = average.add(mean, rule, {"w": value}, jnp.int32(step))
        if step in (4, 8, 9):
            ends.append(mean)
            first = (step - 1) // 4 * 4
            np.testing.assert_allclose(mean.params["w"], VALUES[first:step].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        average.joined(ends[1:]).params["w"], VALUES[4:].mean(axis=0), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [average.uniform(3), average.ema(0.9, 2, 3), average.beta(0.5, 18)],
    ids=["uniform", "ema", "beta"],
)  # fmt: skip
def test_it_is_resumed_and_is_of_what_trains_alone(rule, tmp_path):
    data, _, _ = test_arrays.problem()
    optimizer, frozen = optax.adam(1e-2), {"w": False, "z": True}
    loss = lambda p, *rest: test_arrays.loss({"w": p["w"] + p["z"]}, *rest)
    step = make_step(loss, optimizer, total_steps=18, frozen=frozen, average=rule)
    params = {"w": jnp.zeros((4, 3)), "z": jnp.ones((4, 3))}
    make = lambda seed: init_state(params, optimizer, seed=seed, frozen=frozen, average=rule)
    states = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32))
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = test_arrays.fit(tmp_path / "a", data, step, states, 6)
    test_arrays.fit(tmp_path / "b", data, step, states, 4)
    resumed = test_arrays.fit(tmp_path / "b", data, step, states, 6)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert whole.average.params["z"] is None
    assert rule.begins or rule.decay < 1 or whole.average.total.tolist() == [15, 15]
    assert not np.allclose(whole.average.params["w"], whole.params["w"])


@pytest.mark.parametrize("rule", [average.ema(0.8), average.beta(0.5, 6)], ids=["ema", "beta"])
def test_means_over_devices_and_microbatches_are_those_of_one_device(rule):
    """Of six updates by eight examples, of which the last three are padding."""
    rng, optimizer, start = np.random.default_rng(1), optax.sgd(0.1), {"w": jnp.ones((4, 3))}
    rows = lambda: rng.normal(size=(8, 4)).astype(np.float32)
    part = lambda: {"inputs": rows(), "label": rng.integers(0, 3, 8), "mask": np.arange(8) < 5}
    batches = [{"source": part()} for _ in range(6)]

    def loss(params, batch, rng, progress):
        part = batch["source"]
        logits = part["inputs"] @ params["w"]
        return smoothed_cross_entropy(logits, part["label"], 0.0, part["weight"]), {}

    def mean(devices, way="jit", accumulate=1):
        more = {"accumulate": accumulate, "axis_name": DATA if way == "pmap" else None}
        step = make_step(loss, optimizer, total_steps=6, average=rule, **more)
        state = jax.tree.map(np.asarray, init_state(start, optimizer, average=rule))
        program = make_program(step, state, make_mesh(jax.devices()[:devices]), way)
        state = program.place_state(state)
        for batch in batches:
            state, _ = program.run(state, program.place_batch(batch))
        assert not np.allclose(state.average.params["w"], state.params["w"], atol=1e-3)
        return jax.device_get(state.average)

    alone = mean(1)
    for other in ((2,), (2, "pmap"), (1, "jit", 2), (2, "pmap", 2)):
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, mean(*other), alone)


@pytest.mark.slow
def test_shared_parameters_reach_the_loss_and_stay_out_of_the_state(tmp_path):
    data, _, _ = test_arrays.problem()
    optimizer = optax.adam(1e-2)
    loss = lambda p, *rest: test_arrays.loss({"w": p["h"]["w"] + p["h"]["z"]}, *rest)
    step = make_step(loss, optimizer, total_steps=18)
    make = lambda seed: init_state({"h": {"w": jnp.zeros((4, 3))}}, optimizer, seed=seed)
    states, shared = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32)), {"h": {"z": jnp.ones((4, 3))}}
    from clipjax.train.arrays import run_mesh

    found = []
    for name, mesh in (("stacked", None), ("apart", run_mesh(2))):
        (tmp_path / name).mkdir()
        found.append(test_arrays.fit(tmp_path / name, data, step, states, 3, shared, mesh=mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)
    assert list(found[0].params["h"]) == ["w"] and found[0].params["h"]["w"].any()
    with pytest.raises(ValueError, match="/h/w is among the parameters and is shared too"):
        step(make(0), {}, {"h": {"w": 1}})
