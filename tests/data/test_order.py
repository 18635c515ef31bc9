"""Which examples an epoch takes: lengths, repetition, padding, balance, shares of processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.loading.sampler import (
    ONE_PASS,
    Sampling,
    balanced_rows,
    epoch_plan,
    process_rows,
    steps_per_epoch,
)
from clipjax.errors import ConfigError

SIZES = [(10, 7, 4), (3, 11, 8)]


def plan_of(sizes, sampling=ONE_PASS, labels=None, seed=0):
    plan = jax.jit(epoch_plan, static_argnums=(1, 2, 3, 4))
    return jax.tree.map(np.asarray, plan(jax.random.key(seed), *sizes, sampling, labels))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("epoch", ["source", "target", "longest", 5])
def test_examples_repeat_evenly_in_an_epoch_of_any_length(sizes, epoch):
    source, target, batch = sizes
    plan, one_pass = plan_of(sizes, Sampling(epoch)), -(-source // batch)
    passes = {"source": one_pass, "target": -(-target // batch)}
    steps = passes | {"longest": max(passes.values()), 5: 5}
    assert plan["mask"].shape == (steps[epoch], batch)
    for name, size in (("source", source), ("target", target)):
        seen = plan[name][plan["mask"]] if name == "source" else plan[name].ravel()
        counts = np.bincount(seen, minlength=size)
        assert counts.max() - counts.min() <= 1 and len(counts) == size
    # Only a single pass is padded: each example once.
    assert plan["mask"].sum() == (source if len(plan["mask"]) == one_pass else plan["mask"].size)


@pytest.mark.parametrize("sizes", SIZES)
def test_an_epoch_as_long_as_a_pass_over_the_source_is_that_pass(sizes):
    source, _, batch = sizes
    plan, same = plan_of(sizes), plan_of(sizes, Sampling(-(-source // batch)))
    jax.tree.map(np.testing.assert_array_equal, plan, same)
    order = jax.random.permutation(jax.random.split(jax.random.key(0))[0], source)
    np.testing.assert_array_equal(plan["source"].ravel()[:source], order)


def test_unknown_lengths_are_refused():
    assert steps_per_epoch(4, 4, 2, "7") == 7
    for epoch in ("sourse", 0, -3, "1.5", True):
        with pytest.raises(ConfigError, match="longest, source, target or a number"):
            steps_per_epoch(4, 4, 2, epoch)
    with pytest.raises(ConfigError, match="longest, source or a number"):
        steps_per_epoch(4, 0, 2, "target")


@pytest.mark.slow
def test_balanced_draws_classes_alike_and_the_examples_of_a_class_too():
    labels = jnp.array([7] * 90 + [2] * 9 + [400], jnp.int32)  # numbers need not be dense
    rows = jax.jit(balanced_rows, static_argnums=2)(jax.random.key(1), labels, 9000)
    counts = np.bincount(np.asarray(rows), minlength=100)
    assert rows.dtype == jnp.int32 and len(counts) == 100
    for part in (counts[:90], counts[90:99], counts[99:]):  # 3000 each: five deviations
        assert abs(part.sum() - 3000) < 5 * np.sqrt(9000 * 2 / 9)
        assert (abs(part - 3000 / len(part)) < 5 * np.sqrt(3000 / len(part))).all()


@pytest.mark.slow
def test_balanced_epochs_have_no_padding_and_leave_the_target_alone():
    labels = np.array([0] * 9 + [1], np.int32)
    plan = plan_of((10, 7, 4), Sampling(balanced=True), labels)
    assert plan["mask"].all() and plan["mask"].shape == (3, 4)
    np.testing.assert_array_equal(plan["target"], plan_of((10, 7, 4))["target"])
    other = plan_of((10, 7, 4), Sampling(balanced=True), labels, seed=1)
    assert (plan["source"] != other["source"]).any()


def test_processes_share_a_batch_evenly():
    for count in (1, 2, 3, 4, 6, 12):
        shares = [np.arange(12)[process_rows(12, (i, count))] for i in range(count)]
        assert np.concatenate(shares).tolist() == list(range(12))
        assert len({len(share) for share in shares}) == 1
    for batch, count, nearest in ((10, 4, 8), (3, 8, 8), (15, 4, 16)):
        with pytest.raises(ConfigError, match=f"by {count} processes; take {nearest}"):
            process_rows(batch, (0, count))
