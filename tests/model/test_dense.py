"""Dense layers: Flax's numbers in float32, float32 sums and the written gradients in bfloat16."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.model.clip import CLIP
from clipjax.model.layers.dense import Dense, affine, product
from tests.conftest import small_config

HALF = 2.0**-8  # half a unit in the last place of bfloat16, relative


def operands(bias=True):
    """bfloat16 activations [3, 7, 24], a kernel [24, 40], a bias, and a gradient of the result."""
    rng = np.random.default_rng(0)
    shapes = ((3, 7, 24), (24, 40), (40,), (3, 7, 40))
    x, kernel, b, g = (jnp.asarray(rng.standard_normal(s), jnp.bfloat16) for s in shapes)
    return (x, kernel, b if bias else None), g


def results(function, args, gradient):
    """The value and the gradients of all that is not None."""
    value, pull = jax.vjp(function, *args)
    return jax.tree.leaves((value, pull(gradient)))


@pytest.mark.slow
def test_float32_is_flax():
    """Parameters and values to the last bit; gradients sum in another order."""
    x = jax.random.normal(jax.random.key(0), (3, 7, 24))
    ours, theirs = Dense(40, 0.1), nn.Dense(40, kernel_init=nn.initializers.normal(0.1))
    params = ours.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(1), x))
    loss = lambda module: lambda p: jnp.sum(module.apply(p, x) ** 2)  # noqa: E731
    (here, slope), (there, wanted) = [
        jax.jit(jax.value_and_grad(loss(module)))(params) for module in (ours, theirs)
    ]
    assert here == there
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), slope, wanted)


@pytest.mark.parametrize("width", [16, 24, 40], ids=["narrowing", "square", "widening"])
def test_products_have_the_gradients_of_products(width):
    """Whichever side is transposed for the kernel's."""
    rng = np.random.default_rng(0)
    shapes = ((21, 24), (24, width), (21, width))
    x, kernel, gradient = (rng.standard_normal(shape) for shape in shapes)
    run = jax.jit(lambda *args: results(product, args[:2], args[2]))
    wanted = x @ kernel, gradient @ kernel.T, x.T @ gradient
    for ours, exact in zip(run(*map(np.float32, (x, kernel, gradient))), wanted, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)


def test_no_gradient_of_a_kernel_contracts_first_axes():
    """XLA's CPU backend would hand it to a slower library."""
    args = [jnp.ones(shape) for shape in ((256, 64), (64, 96), (96,))]
    loss = lambda x, k, b, cpu: (affine(x, k, b, cpu=cpu) ** 2).sum()  # noqa: E731
    for cpu, found in ((True, 0), (False, 1)):
        text = jax.jit(jax.grad(lambda *a, c=cpu: loss(*a, c), (0, 1, 2))).lower(*args).as_text()
        assert len(re.findall(r"contracting_dims = \[0\] x \[0\]", text)) == found, text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_forward_mode_differentiation_needs_the_other_machines_way(dtype):
    x, kernel = jnp.ones((2, 3), dtype), jnp.ones((3, 4), dtype)
    tangent = jax.jvp(lambda k: affine(x, k, cpu=False), (kernel,), (kernel,))[1]
    assert tangent.tolist() == [[3.0] * 4] * 2
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda k: affine(x, k, cpu=True), (kernel,), (kernel,))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_is_rounded_once(bias):
    """Value and gradients are those of exact sums, rounded: half a unit in the last place."""
    args, gradient = operands(bias)
    exact = [a.astype(jnp.float32) if a is not None else None for a in (*args, gradient)]
    with jax.default_matmul_precision("highest"):
        wanted = results(affine, exact[:3], exact[3])
    found = results(lambda *a: affine(*a, cpu=True), args, gradient)
    assert len(found) == (4 if bias else 3)
    for ours, reference in zip(found, wanted, strict=True):
        assert ours.dtype == jnp.bfloat16 and ours.shape == reference.shape
        error = np.abs(np.asarray(ours, np.float32) - np.asarray(reference))
        assert np.all(error <= 1.01 * HALF * np.abs(reference) + 1e-5)


def test_the_way_on_other_machines_agrees():
    args, gradient = operands()
    ways = [results(lambda *a, c=cpu: affine(*a, cpu=c), args, gradient) for cpu in (True, False)]
    for here, there in zip(*ways, strict=True):
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (here, there)), 0.05, 0.1)


def kinds(function, *args):
    """The types of what the products of a compiled program multiply."""
    text = jax.jit(function).lower(*args).compile().as_text()
    types = dict(re.findall(r"%([\w.-]+) = (\w+)\[", text))
    sides = re.findall(r" dot\([^)]*?%([\w.-]+), [^)]*?%([\w.-]+)\)", text)
    return [types[name] for pair in sides for name in pair]


def test_gradients_use_the_units_that_the_forward_pass_uses():
    """Where the processor multiplies bfloat16 at all, no product is converted to float32."""
    x, kernel = (jnp.ones(shape, jnp.bfloat16) for shape in ((512, 256), (256, 512)))
    plain = lambda x, k: jnp.dot(x, k, preferred_element_type=jnp.float32)  # noqa: E731
    if jax.default_backend() != "cpu" or set(kinds(plain, x, kernel)) != {"bf16"}:
        pytest.skip("this processor has no products of bfloat16")
    loss = lambda x, k, b: affine(x, k, b).astype(jnp.float32).sum()  # noqa: E731
    found = kinds(jax.grad(loss, (0, 1, 2)), x, kernel, jnp.ones(512, jnp.bfloat16))
    assert found and set(found) == {"bf16"}


@pytest.mark.slow
def test_a_program_for_a_tpu_has_none_of_it():
    """Compiled ahead of time on a machine where JAX runs on the CPU."""
    config, texts = small_config(), {}
    images = jnp.zeros((1, config.vision.image_size, config.vision.image_size, 3))
    for cpu in (True, False):
        module = CLIP(config, jnp.bfloat16, cpu=cpu)
        params = jax.eval_shape(module.init, jax.random.key(0), images, jnp.zeros((1, 8), int))
        loss = lambda p, m=module: m.apply(p, images, method="encode_image").sum()  # noqa: E731
        texts[cpu] = jax.jit(jax.grad(loss)).lower(params).as_text()
    assert "optimization_barrier" in texts[True] and "optimization_barrier" not in texts[False]
