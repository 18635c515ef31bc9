"""Dense layers of the towers, and how their products are asked for on CPU."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from clipjax.adapt.varying import alike

PRODUCT = "product of a layer"  # what a rule of `jax.checkpoint` sees instead of the product itself


class Dense(nn.Module):
    """x kernel + bias, [..., D] -> [..., width], computed in `dtype`; parameters as `nn.Dense`'s.

    The kernel starts as normal noise of spread `std`. `cpu` as in `affine`.
    """

    width: int
    std: float
    dtype: Any = jnp.float32
    cpu: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.normal(self.std), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[1:])
        x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
        return affine(x, kernel, bias, cpu=self.cpu)


def affine(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, cpu: bool | None = None
) -> jax.Array:
    """x kernel + bias, [..., D], [D, M], [M] -> [..., M], all of one dtype.

    On CPU the product is of two matrices, because over several axes XLA would transpose the
    activations in memory for the kernel's gradient, and gradients are written out: in bfloat16
    those of `affine_bfloat16`, else those of `product`. `cpu` says whether the program will run on
    one; None: where JAX runs by default. Forward-mode differentiation (`jax.jvp`) works with
    `cpu=False` only, as `jax.custom_vjp` has none.
    """
    on_cpu = jax.default_backend() == "cpu" if cpu is None else cpu
    if not on_cpu:
        return _biased(jnp.dot(x, kernel), bias)
    x, kernel, bias = alike(x, kernel, bias)
    rows = x.reshape(-1, x.shape[-1])
    if x.dtype == jnp.bfloat16:
        y = affine_bfloat16(rows, kernel, bias)
    else:
        y = _biased(product(rows, kernel), bias)
    return checkpoint_name(y, PRODUCT).reshape(*x.shape[:-1], kernel.shape[1])


def _biased(total, bias):
    return total if bias is None else total + bias


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x kernel, [N, D], [D, M] -> [N, M], whose gradients suit XLA's CPU backend.

    JAX asks for the kernel's, x^T g, by contracting first axes. XLA (jaxlib 0.10) then leaves
    YNNPACK for Eigen, whose rate falls to a half where rows of the result are a multiple of 4 KiB
    apart: the columns that it writes at a time fall on the same lines of the cache (768 x 3072 of
    ViT-B: 35 instead of 60 GFLOP/s on a Zen 3 core). So the narrower side is transposed in memory,
    a small part of the work, and the sum is an ordinary product.

    >>> import jax, jax.numpy as jnp
    >>> x, kernel = jnp.array([[1.0, 2.0]]), jnp.ones((2, 3))
    >>> jax.grad(lambda kernel: product(x, kernel).sum())(kernel).tolist()
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """
    return jnp.dot(x, kernel)


def _product_backward(kept, gradient):
    x, kernel = kept
    of_x = lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())))
    return of_x, kernel_gradient(x, gradient)


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """x^T gradient, [N, D], [N, M] -> [D, M], with the narrower side transposed in memory."""
    if x.shape[1] <= gradient.shape[1]:
        return jnp.dot(_turned(x), gradient)
    # Without the barrier XLA would turn the product around again.
    return _turned(lax.optimization_barrier(jnp.dot(_turned(gradient), x)))


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_backward)


@jax.custom_vjp
def affine_bfloat16(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """x kernel + bias summed in float32 and rounded once, [N, D], [D, M], [M] -> [N, M].

    XLA's CPU backend (jaxlib 0.10) gives a product of bfloat16 to the processor's units for it (AMX
    of x86) if it is asked for in float32 and both sides lie in memory row by row; else it converts
    both to float32 first, which is 2 to 10 times as slow. Differentiation as JAX does it asks for
    the second kind throughout, so the gradients are written out here: the activations are
    transposed in memory for the kernel's, and the bias's is a sum of float32, because XLA's sums of
    bfloat16 are slow too.

    >>> import jax.numpy as jnp
    >>> x, kernel, bias = (jnp.ones(shape, jnp.bfloat16) for shape in ((2, 3), (3, 1), (1,)))
    >>> affine_bfloat16(x, kernel, bias).tolist()
    [[4.0], [4.0]]
    """
    total = _in_float32(x, kernel, (1, 0))
    return _biased(total, None if bias is None else bias.astype(jnp.float32)).astype(jnp.bfloat16)


def _in_float32(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Sums over an axis of each, in float32."""
    contracted = (axes[:1], axes[1:]), ((), ())
    return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _turned(x: jax.Array) -> jax.Array:
    """The transpose, [N, D] -> [D, N], laid out row by row.

    `x.T` alone XLA understands as another way to read x. The barrier keeps it from undoing the
    detour over three axes.
    """
    rows, width = x.shape
    moved = jnp.moveaxis(x.reshape(rows, 1, width), 2, 0)
    return lax.optimization_barrier(moved.reshape(width, rows))


def _forward(x, kernel, bias):
    return affine_bfloat16(x, kernel, bias), (x, kernel, bias is None)


def _backward(kept, gradient):
    x, kernel, unbiased = kept
    round_ = lambda total: total.astype(jnp.bfloat16)  # noqa: E731
    return (
        round_(_in_float32(gradient, kernel, (1, 1))),
        round_(_in_float32(_turned(x), gradient, (1, 0))),
        None if unbiased else round_(gradient.astype(jnp.float32).sum(axis=0)),
    )


affine_bfloat16.defvjp(_forward, _backward)
