"""The gradient reversal layer against finite differences of the un-reversed loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import grl, lambda_schedule


def net(params, x, lam, layer):
    hidden = jnp.tanh(x @ params["body"])
    return jnp.mean((layer(hidden, lam) @ params["head"]) ** 3)


@pytest.fixture
def setup():
    rng = np.random.default_rng(0)
    params = {"body": rng.normal(size=(5, 4)), "head": rng.normal(size=(4, 2))}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params), jnp.asarray(
        rng.normal(size=(7, 5)), jnp.float32
    )


def finite_differences(params, x, name, epsilon=1e-3):
    """Central differences, in float64, of the loss without any reversal."""
    plain = {k: np.asarray(v, np.float64) for k, v in params.items()}
    x = np.asarray(x, np.float64)

    def loss(p):
        return np.mean((np.tanh(x @ p["body"]) @ p["head"]) ** 3)

    grad = np.zeros_like(plain[name])
    for i in np.ndindex(grad.shape):
        up, down = (dict(plain) for _ in range(2))
        up[name], down[name] = plain[name].copy(), plain[name].copy()
        up[name][i] += epsilon
        down[name][i] -= epsilon
        grad[i] = (loss(up) - loss(down)) / (2 * epsilon)
    return grad


@pytest.mark.parametrize("lam", [0.0, 0.3, 2.0])
def test_reverses_before_the_layer_and_leaves_the_rest(setup, lam):
    params, x = setup
    grads = jax.jit(jax.grad(lambda p, lam: net(p, x, lam, grl)))(params, lam)
    np.testing.assert_allclose(
        grads["body"], -lam * finite_differences(params, x, "body"), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        grads["head"], finite_differences(params, x, "head"), rtol=1e-3, atol=1e-4
    )


def test_forward_is_identity(setup):
    _, x = setup
    assert jnp.array_equal(grl(x, 0.7), x)


def test_vmap_over_lambda_equals_separate_calls(setup):
    params, x = setup
    lams = jnp.array([0.0, 0.5, 1.5])
    grad = jax.grad(lambda p, lam: net(p, x, lam, grl))
    together = jax.vmap(grad, in_axes=(None, 0))(params, lams)
    for i, lam in enumerate(lams):
        alone = grad(params, lam)
        np.testing.assert_allclose(together["body"][i], alone["body"], rtol=1e-5, atol=1e-6)


def test_scan_with_scheduled_lambda(setup):
    params, x = setup

    def step(p, lam):
        grads = jax.grad(lambda p: net(p, x, lam, grl))(p)
        return jax.tree.map(lambda a, g: a - 0.1 * g, p, grads), grads["body"]

    lams = jnp.array([0.0, 1.0])
    _, body = jax.lax.scan(step, params, lams)
    assert jnp.all(body[0] == 0) and jnp.any(body[1] != 0)


def test_bfloat16_cotangent_keeps_its_dtype_under_a_float32_lambda():
    x = jnp.ones(3, jnp.bfloat16)
    _, pull = jax.vjp(lambda x: grl(x, jnp.float32(0.3)), x)
    assert pull(jnp.ones(3, jnp.bfloat16))[0].dtype == jnp.bfloat16


def test_a_tree_is_reversed_array_by_array():
    """Those of whole numbers pass, and have no gradient."""
    tree = {
        "wide": jnp.array([1.0, 2.0]),
        "half": (jnp.ones(3, jnp.bfloat16), None),
        "count": jnp.arange(2),
        "on": jnp.array([True, False]),
    }
    lam = jnp.float32(0.3)
    out, pull = jax.vjp(lambda x: grl(x, lam), tree)
    jax.tree.map(np.testing.assert_array_equal, out, tree)
    ones = jax.tree.map(
        lambda x: (
            jnp.ones_like(x)
            if jnp.issubdtype(x.dtype, jnp.inexact)
            else np.zeros(x.shape, jax.dtypes.float0)
        ),
        tree,
    )
    (found,) = pull(ones)
    assert found["wide"].tolist() == pytest.approx([-0.3] * 2)
    assert found["half"][0].dtype == jnp.bfloat16
    assert found["count"].dtype == found["on"].dtype == jax.dtypes.float0

    def loss(x, lam):
        kept = grl({"x": x, "n": jnp.arange(2)}, lam)
        return jnp.sum(kept["x"] * kept["n"])

    grads = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(jnp.ones(2), jnp.array([0.5, 2.0]))
    assert grads.tolist() == [[0.0, -0.5], [0.0, -2.0]]


def test_lambda_has_no_gradient_of_the_output_and_one_of_the_reversed_gradient():
    cube = lambda x, lam: grl(x, lam) ** 3
    assert jax.grad(cube, argnums=1)(2.0, 0.5) == 0.0
    backward = jax.grad(cube)  # -lam 3 x^2
    assert jax.grad(backward, argnums=1)(2.0, 0.5) == -12.0
    held = lambda x, lam: jax.grad(cube)(x, jax.lax.stop_gradient(lam))
    assert jax.grad(held, argnums=1)(2.0, 0.5) == 0.0


def test_ganin_values_worked_by_hand():
    schedule = lambda_schedule("ganin", lam_max=0.8, gamma=10.0)
    for p in (0.0, 0.1, 0.5, 1.0):
        expected = 0.8 * (2.0 / (1.0 + np.exp(-10.0 * p)) - 1.0)
        assert float(schedule(p)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["ganin", "constant", "linear"])
def test_schedules_trace_and_stay_below_their_maximum(name):
    schedule = lambda_schedule(name, lam_max=0.6)
    values = jax.jit(jax.vmap(schedule))(jnp.linspace(0, 1, 11))
    assert values.shape == (11,) and float(values.max()) <= 0.6 + 1e-6
    assert np.all(np.diff(values) >= -1e-7)


def test_delayed_is_zero_first():
    schedule = lambda_schedule("constant", lam_max=0.5, start=0.25)
    assert [float(schedule(p)) for p in (0.0, 0.2, 0.3, 1.0)] == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    "arguments, word", [({"name": "cubic"}, "cubic"), ({"lam_max": -1.0}, "negative")]
)
def test_bad_schedules_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        lambda_schedule(**arguments)
