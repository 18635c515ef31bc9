"""Microbatches: the gradient of a large batch in the memory of a small one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt.dann import make_loss
from clipjax.adapt.step import init_state, make_step, microbatches
from clipjax.model.heads import Heads, as_model


def problem(batch_size, masked=0):
    heads = Heads(3, adapter=(8,), classifier=(8,), discriminator=(4,))
    params = jax.jit(heads.init)(jax.random.key(0), jnp.zeros((1, 5)))["params"]
    rng = np.random.default_rng(0)
    source = {
        "inputs": jnp.asarray(rng.normal(size=(batch_size, 5)), jnp.float32),
        "label": jnp.asarray(rng.integers(3, size=batch_size)),
        "mask": jnp.arange(batch_size) < batch_size - masked,
    }
    target = {"inputs": jnp.asarray(rng.normal(size=(batch_size, 5)), jnp.float32)}
    loss = make_loss(as_model(heads), schedule="constant", lam_max=0.5, label_smoothing=0.1)
    return loss, params, {"source": source, "target": target}


@functools.cache  # the whole batch is what each number of microbatches is compared with
def run(accumulate, masked=0, steps=20):
    loss, params, batch = problem(12, masked)
    optimizer = optax.adam(1e-2)
    step = jax.jit(make_step(loss, optimizer, total_steps=steps, accumulate=accumulate))
    state, losses = init_state(params, optimizer), []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return np.array(losses)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4, 12])
def test_microbatches_give_the_whole_batch(accumulate):
    np.testing.assert_allclose(run(accumulate), run(1), rtol=1e-5)


@pytest.mark.slow
def test_padding_is_shared_evenly():
    # 8 of 12 examples are real, and each of 4 microbatches gets 2 of them.
    np.testing.assert_allclose(run(4, masked=4), run(1, masked=4), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [1, 7, 11])
def test_padding_that_cannot_be_shared_evenly_counts_nothing(masked):
    """Of 12 examples 11, 5 and 1 are real: some of 4 microbatches hold fewer, or none."""
    np.testing.assert_allclose(run(4, masked=masked), run(1, masked=masked), rtol=1e-5)


def test_a_batch_that_cannot_be_dealt_is_refused():
    with pytest.raises(ValueError, match="12 cannot be dealt out to 5"):
        microbatches(jnp.zeros(12), 5)
