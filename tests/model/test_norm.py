"""Layer norm: Flax's parameters and values, and the gradient written out against JAX's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.model.layers.norm import LayerNorm, layer_norm

EPS = 1e-5


def rows(dtype=jnp.float32):
    """Activations whose mean is far from 0 beside their spread, [3, 7, 24]."""
    return (jax.random.normal(jax.random.key(0), (3, 7, 24)) * 2 + 3).astype(dtype)


def modules():
    return LayerNorm(EPS), nn.LayerNorm(epsilon=EPS, dtype=jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_and_values_are_flax_s(dtype):
    ours, theirs = modules()
    params = ours.init(jax.random.key(1), rows(dtype))
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(1), rows(dtype)))
    params = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    one, two = (jax.jit(module.apply)(params, rows(dtype)) for module in (ours, theirs))
    assert one.dtype == jnp.float32
    np.testing.assert_array_equal(one, two)


def test_gradients_are_those_of_the_formula():
    args = rows(), *jax.random.normal(jax.random.key(2), (2, 24))
    gradient = jax.random.normal(jax.random.key(3), rows().shape)

    def formula(x, scale, bias):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPS) * scale + bias

    found, wanted = (
        jax.jit(lambda *a, f=f: jax.vjp(f, *a)[1](gradient))(*args)
        for f in (lambda *a: layer_norm(*a, EPS), formula)
    )
    for ours, reference in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=2e-5, atol=2e-5)


def test_a_constant_row_has_finite_gradients():
    grads = jax.grad(lambda x: layer_norm(x, jnp.ones(8), jnp.zeros(8), EPS)[0, 0])(
        jnp.ones((2, 8))
    )
    assert np.isfinite(grads).all()
