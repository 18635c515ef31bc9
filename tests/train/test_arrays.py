"""Training on arrays: who is seen when, resuming, and non-finite losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt import dann, finetune
from clipjax.adapt.step import init_state, make_step
from clipjax.data.loading.sampler import Sampling, epoch_key, epoch_plan
from clipjax.errors import CheckpointError, NonFiniteError
from clipjax.log import MetricsLog, read_log
from clipjax.model.heads import Heads, as_model
from clipjax.train import arrays
from clipjax.train.arrays import Epochs, _batch, epochs_program, fit_arrays, make_epochs
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.journal import Outputs


def loss(params, batch, rng, progress):
    del progress
    source = batch["source"]
    logits = source["inputs"] @ params["w"] + 0.01 * jax.random.normal(rng, (3,))
    values = optax.softmax_cross_entropy_with_integer_labels(logits, source["label"])
    value = jnp.sum(values * source["mask"]) / jnp.sum(source["mask"])
    return value + 0.0 * jnp.sum(batch["target"]["inputs"]), {}


def problem():
    rng = np.random.default_rng(0)
    data = {
        "source": {
            "inputs": jnp.asarray(rng.normal(size=(11, 4)), jnp.float32),
            "label": jnp.asarray(rng.integers(3, size=11)),
        },
        "target": {"inputs": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)},
    }
    optimizer = optax.adam(1e-2)
    make = lambda seed: init_state({"w": jnp.zeros((4, 3))}, optimizer, seed=seed)
    return data, make_step(loss, optimizer, total_steps=18), make


def fit(workdir, data, step, states, epochs, *shared, **changes):
    outputs = {key: changes.pop(key) for key in ("evaluate", "stop") if key in changes}
    plan = Epochs(**dict(names=("test",), epochs=epochs, batch_size=4, save_every=2) | changes)
    with Checkpointer(workdir / "ckpt") as checkpointer:
        out = Outputs(checkpointer, MetricsLog(workdir / "metrics.jsonl"), **outputs)
        program = epochs_program(lambda position: step, plan)
        return fit_arrays(program, states, data, plan, out, *shared)


@pytest.mark.slow
def test_resuming_gives_the_same_bits(tmp_path):
    data, step, make = problem()
    states = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = fit(tmp_path / "a", data, step, states, 6)
    fit(tmp_path / "b", data, step, states, 4)
    # What a killed run leaves behind: half a line, and an epoch that was logged but not saved.
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "test", "epoch": 5, "step": 15}\n{"phase": "te')
    resumed = fit(tmp_path / "b", data, step, states, 6)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), whole, resumed)))
    logs = [
        [line.split('"s_per_epoch"')[0] for line in (tmp_path / d / "metrics.jsonl").open()]
        for d in "ab"
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 6


@pytest.mark.slow
def test_calls_of_one_epoch_give_the_same_bits_checkpoints_and_log(tmp_path, monkeypatch):
    data, step, make = problem()
    states, found, logs, saved = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32)), [], [], []
    counts = []

    def counted(*args):
        run = arrays.epochs_program(*args)
        return lambda *call: counts.append(call[4]) or run(*call)

    monkeypatch.setitem(globals(), "epochs_program", counted)
    for limit in (10**9, 0):
        monkeypatch.setattr(arrays, "EXAMPLES_A_CALL", limit)
        folder = tmp_path / str(limit)
        folder.mkdir()
        evaluate = lambda params: {"size": np.abs(params["w"]).sum((1, 2)).tolist()}
        found.append(fit(folder, data, step, states, 7, save_every=3, evaluate=evaluate))
        logs.append([r | {"s_per_epoch": 0} for r in read_log(folder / "metrics.jsonl")])
        saved.append(sorted(path.name for path in (folder / "ckpt").iterdir()))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert counts == [3, 3, 1] + [1] * 7
    assert logs[0] == logs[1] and saved[0] == saved[1]
    assert [r["epoch"] for r in logs[0] if "evaluation" in r] == [3, 6, 7]


@pytest.mark.slow
def test_seeds_together_equal_seeds_alone(tmp_path):
    data, step, make = problem()
    together = fit(tmp_path, data, step, jax.vmap(make)(jnp.array([3, 8], jnp.uint32)), 2)
    (tmp_path / "alone").mkdir()
    alone = fit(tmp_path / "alone", data, step, jax.vmap(make)(jnp.array([8], jnp.uint32)), 2)
    np.testing.assert_allclose(together.params["w"][1], alone.params["w"][0], rtol=1e-5)
    assert not np.allclose(together.params["w"][0], together.params["w"][1])


@pytest.mark.slow
def test_a_non_finite_loss_is_located_and_not_saved(tmp_path):
    data, _, make = problem()

    def explode(params, batch, rng, progress):
        value, _ = loss(params, batch, rng, progress)
        return jnp.where(progress * 18 >= 7, jnp.nan, value), {"lam": progress}

    step = make_step(explode, optax.adam(1e-2), total_steps=18)
    states = jax.vmap(make)(jnp.arange(1, dtype=jnp.uint32))
    with pytest.raises(NonFiniteError) as caught:
        fit(tmp_path, data, step, states, 6)
    message = str(caught.value)
    assert "step 7" in message and "'test'" in message and "lambda 0.389" in message
    assert "last good checkpoint: step 6" in message
    with Checkpointer(tmp_path / "ckpt") as checkpointer:
        assert checkpointer.latest == 6


@pytest.mark.slow
def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    data, step, make = problem()
    states = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32))
    fit(tmp_path, data, step, states, 2)
    other = states._replace(params={"w": jnp.zeros((2, 5, 3)), "extra": jnp.zeros(2)})
    with Checkpointer(tmp_path / "ckpt") as checkpointer, pytest.raises(CheckpointError):
        checkpointer.restore(other)


@pytest.mark.slow
def test_epochs_take_the_examples_of_their_plan():
    sampling = Sampling("longest", balanced=True)
    data, _, _ = problem()
    look = lambda state, batch: (state, batch["source"]["label"])
    state = init_state({"w": jnp.zeros(1)}, optax.sgd(1.0), seed=5)
    epochs = make_epochs(look, 3, sampling)
    _, seen = jax.jit(epochs, static_argnums=3)(state, data, jnp.int32(4), 2)
    for position in range(2):
        key, labels = epoch_key(np.uint32(5), 4 + position), data["source"]["label"]
        rows = epoch_plan(key, 11, 6, 3, sampling, labels)["source"]
        np.testing.assert_array_equal(seen[position], labels[rows])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_batch_is_float32_whatever_the_features_are(dtype):
    values = jnp.linspace(-1, 1, 12).reshape(6, 2).astype(dtype)
    plan = {"source": jnp.array([4, 0]), "target": jnp.array([5, 1]), "mask": jnp.array([True] * 2)}
    data = {"source": {"inputs": values, "label": jnp.arange(6)}, "target": {"inputs": values}}
    batch = _batch(data, plan)
    for domain in ("source", "target"):
        inputs = batch[domain]["inputs"]
        assert inputs.dtype == jnp.float32
        np.testing.assert_array_equal(inputs, values.astype(jnp.float32)[plan[domain]])
    np.testing.assert_array_equal(batch["source"]["label"], plan["source"])


@pytest.mark.slow
def test_mapped_features_of_16_bits_train_as_their_float32_values_do(tmp_path):
    data, step, make = problem()
    rounded = data["source"]["inputs"].astype(jnp.bfloat16)
    np.save(tmp_path / "half.npy", np.asarray(rounded).view(np.uint16))
    mapped = np.load(tmp_path / "half.npy", mmap_mode="r").view(jnp.bfloat16)
    states, found = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32)), []
    for name, inputs in (("half", mapped), ("full", rounded.astype(jnp.float32))):
        (tmp_path / name).mkdir()
        part = {**data, "source": {**data["source"], "inputs": inputs}}
        found.append(fit(tmp_path / name, part, step, states, 2))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert found[0].params["w"].dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_step_is_traced_once_a_phase(tmp_path, shared):
    """Checkpoints, epochs and runs do not trace the step again: four calls of one length."""
    data, step, make = problem()
    traces = []

    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    states = jax.vmap(make)(jnp.arange(3, dtype=jnp.uint32))
    mesh = arrays.run_mesh(3) if shared else None
    fit(tmp_path, data, counted, states, 8, mesh=mesh)
    assert len(traces) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune", "dann"])
def test_microbatches_train_what_whole_batches_do_where_devices_share_the_runs(tmp_path, method):
    """The last of three batches is padded; under `jax.shard_map` on CPU."""
    data, _, _ = problem()
    heads, optimizer = Heads(3, adapter=(8,), discriminator=(4,)), optax.adam(1e-2)
    params = jax.jit(heads.init)(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    make = lambda seed: init_state(params, optimizer, seed=seed)
    states, found = jax.vmap(make)(jnp.arange(2, dtype=jnp.uint32)), []
    loss = {"finetune": finetune, "dann": dann}[method].make_loss(as_model(heads))
    for accumulate in (1, 2):
        (tmp_path / str(accumulate)).mkdir()
        step = make_step(loss, optimizer, total_steps=18, accumulate=accumulate)
        mesh = arrays.run_mesh(2)
        found.append(fit(tmp_path / str(accumulate), data, step, states, 2, mesh=mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


@pytest.mark.slow
def test_runs_shared_by_devices_are_those_that_are_stacked(tmp_path):
    """Three runs of which the second trains on other rows; resumed from the stacked checkpoint."""
    data, step, make = problem()
    rng, found = np.random.default_rng(1), []
    rows = {"source": np.stack([np.arange(8), rng.permutation(11)[:8], np.arange(8)])}
    rows["target"] = np.stack([np.arange(5), np.arange(1, 6), np.arange(5)])
    states = jax.vmap(make)(jnp.array([4, 4, 5], jnp.uint32))
    options = dict(rows=rows, names=("a", "b", "c"))
    for name, mesh in (("stacked", None), ("shared", arrays.run_mesh(3))):
        (tmp_path / name).mkdir()
        found.append(fit(tmp_path / name, data, step, states, 4, mesh=mesh, **options))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)
    later = fit(tmp_path / "stacked", data, step, states, 6, mesh=arrays.run_mesh(3), **options)
    assert later.step.tolist() == [12, 12, 12]
    part = {
        "source": {key: x[rows["source"][1]] for key, x in data["source"].items()},
        "target": {"inputs": data["target"]["inputs"][rows["target"][1]]},
    }
    (tmp_path / "alone").mkdir()
    alone = fit(tmp_path / "alone", part, step, jax.tree.map(lambda x: x[1:2], states), 4)
    np.testing.assert_allclose(alone.params["w"][0], found[1].params["w"][1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[1].params["w"][0], found[1].params["w"][1], atol=1e-3)
