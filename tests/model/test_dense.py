"""Dense layers: Flax's numbers in float32, float32 sums and the written gradients in bfloat16."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from clipjax.model.layers.dense import (
    Dense,
    affine,
    affine_plain,
    gradients_plain,
    kernel_gradient,
)

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


def test_float32_is_flax():
    """Parameters and values to the last bit; gradients sum in another order."""
    x = jax.random.normal(jax.random.key(0), (3, 7, 24))
    ours, theirs = Dense(40, 0.1), nn.Dense(40, kernel_init=nn.initializers.normal(0.1))
    params = ours.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(1), x))
    loss = lambda module: lambda p: jnp.sum(module.apply(p, x) ** 2)
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
    run = jax.jit(lambda *args: results(affine, args[:2], args[2]))
    wanted = x @ kernel, gradient @ kernel.T, x.T @ gradient
    for ours, exact in zip(run(*map(np.float32, (x, kernel, gradient))), wanted, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kernel_gradient(x, gradient), wanted[2], rtol=1e-5, atol=1e-5)


def exported(platform, dtype=jnp.float32):
    """Value and gradients of a layer as text, exported for one platform."""
    args = [jnp.ones(shape, dtype) for shape in ((256, 64), (64, 96), (96,))]
    loss = lambda x, k, b: (affine(x, k, b) ** 2).sum()
    run = jax.jit(jax.grad(loss, (0, 1, 2)))
    return export.export(run, platforms=(platform,))(*args).mlir_module()


def test_no_gradient_of_a_kernel_contracts_first_axes_on_cpu():
    """XLA's CPU backend would hand it to a slower library; other platforms are asked as ever."""
    for platform, found in (("cpu", 0), ("cuda", 1), ("tpu", 1)):
        text = exported(platform)
        assert len(re.findall(r"contracting_dims = \[0\] x \[0\]", text)) == found, text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_a_program_for_cpu_transposes_in_memory(platform, dtype):
    assert ("optimization_barrier" in exported(platform, dtype)) == (platform == "cpu")


def test_gradients_on_other_platforms_are_those_that_jax_derives():
    args, gradient = operands()
    wanted = jax.vjp(affine_plain, *args)[1](gradient)
    for ours, reference in zip(gradients_plain(*args, gradient), wanted, strict=True):
        np.testing.assert_array_equal(*(np.asarray(x, np.float32) for x in (ours, reference)))


def test_there_is_no_forward_mode_differentiation():
    x, kernel = jnp.ones((2, 3)), jnp.ones((3, 4))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda k: affine(x, k), (kernel,), (kernel,))


@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_is_rounded_once(bias):
    """Value and gradients are those of exact sums, rounded: half a unit in the last place."""
    args, gradient = operands(bias)
    exact = [a.astype(jnp.float32) if a is not None else None for a in (*args, gradient)]
    with jax.default_matmul_precision("highest"):
        wanted = results(affine, exact[:3], exact[3])
    found = results(affine, args, gradient)
    assert len(found) == (4 if bias else 3)
    for ours, reference in zip(found, wanted, strict=True):
        assert ours.dtype == jnp.bfloat16 and ours.shape == reference.shape
        error = np.abs(np.asarray(ours, np.float32) - np.asarray(reference))
        assert np.all(error <= 1.01 * HALF * np.abs(reference) + 1e-5)


def test_the_way_on_other_machines_agrees():
    args, gradient = operands()
    ways = [results(way, args, gradient) for way in (affine, affine_plain)]
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
    plain = lambda x, k: jnp.dot(x, k, preferred_element_type=jnp.float32)
    if jax.default_backend() != "cpu" or set(kinds(plain, x, kernel)) != {"bf16"}:
        pytest.skip("this processor has no products of bfloat16")
    loss = lambda x, k, b: affine(x, k, b).astype(jnp.float32).sum()
    found = kinds(jax.grad(loss, (0, 1, 2)), x, kernel, jnp.ones(512, jnp.bfloat16))
    assert found and set(found) == {"bf16"}
