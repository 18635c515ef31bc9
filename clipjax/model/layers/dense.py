"""Dense layers of the towers, and how their products are asked for on CPU."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from clipjax.adapt.varying import alike

DOT_NAME = "output of a dense layer"  # by which rules of `jax.checkpoint` know it


class Dense(nn.Module):
    """x kernel + bias, [..., D] -> [..., width], computed in `dtype`; parameters as `nn.Dense`'s.

    The kernel starts as normal noise of spread `std`.
    """

    width: int
    std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.normal(self.std), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[1:])
        return affine(*(value.astype(self.dtype) for value in (x, kernel, bias)))


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x kernel + bias, [..., D], [D, M], [M] -> [..., M], all of one dtype.

    One traced program serves every platform: lowered for CPU it is `affine_cpu` with
    `gradients_cpu`, for any other `affine_plain` with `gradients_plain`, whatever machine traces
    it. The choice lies within a `jax.custom_vjp`, so there is no forward-mode differentiation
    (`jax.jvp` raises a TypeError).
    """
    return checkpoint_name(_affine(*alike(x, kernel, bias)), DOT_NAME)


@jax.custom_vjp
def _affine(x, kernel, bias):
    return lax.platform_dependent(x, kernel, bias, cpu=affine_cpu, default=affine_plain)


def _forward(x, kernel, bias):
    return _affine(x, kernel, bias), (x, kernel, bias)


def _backward(kept, gradient):
    return lax.platform_dependent(*kept, gradient, cpu=gradients_cpu, default=gradients_plain)


_affine.defvjp(_forward, _backward)


def affine_plain(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`affine` as JAX would compute it by itself."""
    return _biased(jnp.dot(x, kernel), bias)


def gradients_plain(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Gradients of x, kernel and bias as JAX would derive them from `affine_plain`."""
    rows = tuple(range(x.ndim - 1))
    of_x = lax.dot_general(gradient, kernel, (((x.ndim - 1,), (1,)), ((), ())))
    of_kernel = lax.dot_general(gradient, x, ((rows, rows), ((), ()))).T
    return of_x, of_kernel, None if bias is None else lax.reduce_sum(gradient, rows)


def affine_cpu(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`affine` as a product of two matrices, which XLA's CPU backend multiplies fastest.

    Over several axes it would transpose the activations in memory for the kernel's gradient.

    bfloat16 is summed in float32 and rounded once: XLA's CPU backend (jaxlib 0.10) gives a product
    of bfloat16 to the processor's units for it (AMX of x86) if it is asked for in float32 and both
    sides lie in memory row by row; else it converts both to float32 first, which is 2 to 10 times
    as slow.

    >>> import jax.numpy as jnp
    >>> x, kernel, bias = (jnp.ones(shape, jnp.bfloat16) for shape in ((2, 3), (3, 1), (1,)))
    >>> affine_cpu(x, kernel, bias).tolist()
    [[4.0], [4.0]]
    """
    rows = _as_rows(x)
    if x.dtype == jnp.bfloat16:
        bias = None if bias is None else bias.astype(jnp.float32)
        y = _biased(_in_float32(rows, kernel, (1, 0)), bias).astype(x.dtype)
    else:
        y = _biased(jnp.dot(rows, kernel), bias)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


def gradients_cpu(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Gradients of x, kernel and bias, asked for as XLA's CPU backend is fast at.

    In float32 the kernel's is `kernel_gradient`. In bfloat16 differentiation as JAX does it asks
    throughout for products that are converted to float32 (see `affine_cpu`): here the activations
    are transposed in memory for the kernel's, and the bias's is a sum of float32, because XLA's
    sums of bfloat16 are slow too.
    """
    shape, x, gradient = x.shape, _as_rows(x), _as_rows(gradient)
    if x.dtype == jnp.bfloat16:
        of_x = _in_float32(gradient, kernel, (1, 1)).astype(x.dtype)
        of_kernel = _in_float32(transpose_in_memory(x), gradient, (1, 0)).astype(x.dtype)
    else:
        of_x = lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())))
        of_kernel = kernel_gradient(x, gradient)
    return of_x.reshape(shape), of_kernel, None if bias is None else gradient.sum(axis=0)


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """x^T gradient, [N, D], [N, M] -> [D, M], with the narrower side transposed in memory.

    JAX asks for it by contracting first axes. XLA's CPU backend (jaxlib 0.10) then leaves YNNPACK
    for Eigen, whose rate falls to a half where rows of the result are a multiple of 4 KiB apart:
    the columns that it writes at a time fall on the same lines of the cache (768 x 3072 of ViT-B:
    35 instead of 60 GFLOP/s on a Zen 3 core). So the narrower side is transposed in memory, a small
    part of the work, and the sum is an ordinary product.

    >>> import jax.numpy as jnp
    >>> kernel_gradient(jnp.array([[1.0, 2.0]]), jnp.ones((1, 3))).tolist()
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """
    if x.shape[1] <= gradient.shape[1]:
        return jnp.dot(transpose_in_memory(x), gradient)
    # Without the barrier XLA would turn the product around again.
    turned = lax.optimization_barrier(jnp.dot(transpose_in_memory(gradient), x))
    return transpose_in_memory(turned)


def transpose_in_memory(x: jax.Array) -> jax.Array:
    """The transpose, [N, D] -> [D, N], laid out row by row.

    `x.T` alone XLA understands as another way to read x. The barrier keeps it from undoing the
    detour over three axes.
    """
    rows, width = x.shape
    moved = jnp.moveaxis(x.reshape(rows, 1, width), 2, 0)
    return lax.optimization_barrier(moved.reshape(width, rows))


def _as_rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _biased(total: jax.Array, bias: jax.Array | None) -> jax.Array:
    return total if bias is None else total + bias


def _in_float32(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Sums over an axis of each, in float32."""
    contracted = (axes[:1], axes[1:]), ((), ())
    return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)
