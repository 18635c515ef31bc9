"""Convolutions and pooling on CPU: values and gradients are those of XLA, asked for elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from clipjax.model.layers.convolution import convolve, convolve_plain
from clipjax.model.layers.pooling import max_pool, max_pool_plain


def operands(size, height, width, stride, out, dtype=jnp.float32):
    """Maps [2, height, width, 6], a kernel of a size, and a gradient of the result."""
    rng = np.random.default_rng(0)
    rows, columns = (-(-length // stride) for length in (height, width))
    shapes = (2, height, width, 6), (size, size, 6, out), (2, rows, columns, out)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_value_and_gradients_are_those_of_xla(size, stride, dilation):
    """Of odd and even maps, more places than channels and fewer, a kernel wider than the map."""
    for height, width, out in ((9, 12, 4), (5, 4, 48), (1, 2, 4)):
        x, kernel, gradient = operands(size, height, width, stride, out)

        def both(x, kernel, gradient):
            here, pull = jax.vjp(lambda *xs: convolve(*xs, stride, dilation), x, kernel)
            plain = lambda *xs: convolve_plain(*xs, stride, dilation)
            there, draw = jax.vjp(plain, x, kernel)
            return (here, *pull(gradient)), (there, *draw(gradient))

        for ours, wanted in zip(*jax.jit(both)(x, kernel, gradient), strict=True):
            assert ours.shape == wanted.shape
            np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("size", [1, 3])
def test_only_a_program_for_cpu_has_products_in_place_of_convolutions(size):
    x, kernel, gradient = operands(size, 8, 8, 2, 4)
    loss = lambda x, kernel: jnp.sum(convolve(x, kernel, 2) ** 2)

    def convolutions(platform):
        program = export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=(platform,))(x, kernel)
        text = program.mlir_module()
        return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")

    assert convolutions("cuda") == convolutions("tpu") == (3, 0)
    assert convolutions("cpu") == {1: (0, 3), 3: (2, 1)}[size]


@pytest.mark.parametrize("size", [(8, 10), (7, 5), (1, 2)])
def test_pooling_and_its_gradient_are_those_of_xla(size):
    """Where several places of a window are largest, too: its first one has the gradient."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-1, 2, (2, *size, 3)), jnp.float32)
    places = [-(-length // 2) for length in size]
    gradient = jnp.asarray(rng.standard_normal((2, *places, 3)), jnp.float32)
    (here, pull), (there, draw) = (jax.vjp(way, x) for way in (max_pool, max_pool_plain))
    np.testing.assert_array_equal(here, there)
    np.testing.assert_allclose(pull(gradient)[0], draw(gradient)[0], atol=1e-6)
