"""The clamp of CLIP's factor on similarities: its value, and the gradient that passes it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.model.clip import CLIP, MAX_LOGIT_SCALE, clamp_logit_scale, tell_clamped
from tests.conftest import small_config

LN100 = np.float32(MAX_LOGIT_SCALE)


def scale(x):
    return CLIP(small_config()).apply({"params": {"logit_scale": x}}, method="scale")


@pytest.mark.parametrize("x", [0.0, 2.6592, 4.6, LN100, 4.6052, 5.0, 50.0, np.inf])
def test_the_value_is_that_of_the_minimum_to_the_bit(x):
    x = jnp.float32(x)
    np.testing.assert_array_equal(scale(x), jnp.exp(jnp.minimum(x, MAX_LOGIT_SCALE)))


def test_the_gradient_is_alive_below_at_and_above():
    """d exp(x) / dx, of which the clamp takes nothing: forwards and backwards."""
    for x in (LN100 - 1, LN100, np.nextafter(LN100, np.float32(9)), np.float32(6.0)):
        want = np.exp(min(float(x), MAX_LOGIT_SCALE))
        assert jax.grad(scale)(x).item() == pytest.approx(want, rel=1e-5)
        assert jax.jvp(scale, (x,), (jnp.float32(1),))[1].item() == pytest.approx(want, rel=1e-5)
    assert jax.grad(lambda x: clamp_logit_scale(x) * 2)(jnp.bfloat16(6.0)) == 2.0


def test_training_comes_down_from_above():
    """Towards a factor of 20, from 150: 0 gradients would leave it there."""
    optimizer = optax.adam(0.05)

    def step(carry, _):
        x, state = carry
        gradient = jax.grad(lambda x: (jnp.log(scale(x)) - np.log(20.0)) ** 2)(x)
        updates, state = optimizer.update(gradient, state)
        return (x + updates, state), None

    start = jnp.float32(np.log(150.0))
    (x, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, 300)
    assert float(scale(x)) == pytest.approx(20.0, rel=0.02)


def test_a_clamp_that_changes_something_is_told():
    assert tell_clamped(2.66) == tell_clamped(float(LN100)) == tell_clamped(4.6052) == ""
    told = tell_clamped(5.0)
    assert "5.000, above ln 100 = 4.605" in told and "by 100, not by 148.4" in told
