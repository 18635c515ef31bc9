"""Dense layers of the towers, with products and gradients of their own for CPU."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from clipjax.adapt.varying import alike

DOT_NAME = "output of a dense layer"  # for policies of `jax.checkpoint`


class Dense(nn.Module):
    """`nn.Dense` whose kernel starts as normal noise of spread `std`, [..., D] -> [..., width].

    Parameters may hold a `branch` beside kernel and bias, which is added.
    """

    width: int
    std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.normal(self.std), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[1:])
        x = x.astype(self.dtype)
        y = affine(x, kernel.astype(self.dtype), bias.astype(self.dtype))
        if self.has_variable("params", "branch"):
            y = y + branch(x, self.get_variable("params", "branch"))
        return y


def branch(x: jax.Array, parts: Mapping[str, Any]) -> jax.Array:
    """Compute drop(x) a b, [..., D] -> [..., M], of a dense layer with low-rank factors.

    Args:
      x: the layer's input.
      parts: "a" [D, r] and "b" [r, M]; "dropout", the share of x that is dropped, the rest being
        scaled up, by "key", uint32, of `jax.random.key_data`.
    """
    keep, key = 1 - parts["dropout"], jax.random.wrap_key_data(parts["key"])
    kept = jax.random.bernoulli(key, keep, x.shape)
    x = jnp.where(kept, x / jnp.asarray(keep, x.dtype), 0)
    return affine(affine(x, parts["a"].astype(x.dtype)), parts["b"].astype(x.dtype))


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Compute x kernel + bias, [..., D], [D, M], [M] -> [..., M], all of one dtype.

    Lowered for CPU it is `affine_cpu` with `gradients_cpu`, for any other platform `affine_plain`
    with `gradients_plain`. There is no forward-mode differentiation (`jax.jvp` raises a TypeError).
    """
    return checkpoint_name(_affine(*alike(x, kernel, bias)), DOT_NAME)


@jax.custom_vjp
def _affine(x, kernel, bias):
    return lax.platform_dependent(x, kernel, bias, cpu=affine_cpu, default=affine_plain)


def _backward(kept, gradient):
    return lax.platform_dependent(*kept, gradient, cpu=gradients_cpu, default=gradients_plain)


_affine.defvjp(lambda *inputs: (_affine(*inputs), inputs), _backward)


def affine_plain(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Compute `affine` as JAX does by itself."""
    y = jnp.dot(x, kernel)
    return y if bias is None else y + bias


def gradients_plain(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Compute gradients of x, kernel and bias as JAX derives them from `affine_plain`."""
    rows = tuple(range(x.ndim - 1))
    of_x = lax.dot_general(gradient, kernel, (((x.ndim - 1,), (1,)), ((), ())))
    of_kernel = lax.dot_general(gradient, x, ((rows, rows), ((), ()))).T
    return of_x, of_kernel, None if bias is None else lax.reduce_sum(gradient, rows)


def affine_cpu(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Compute `affine` as a product of matrices: with more axes XLA would transpose activations.

    bfloat16 is summed in float32 and rounded once: XLA's CPU backend (jaxlib 0.10) uses AMX only
    for products with a float32 result and both sides row-major; others are 2 to 10 times as slow.
    """
    rows, half = x.reshape(-1, x.shape[-1]), x.dtype == jnp.bfloat16
    bias = bias.astype(jnp.float32) if half and bias is not None else bias
    y = _in_float32(rows, kernel, (1, 0)) if half else jnp.dot(rows, kernel)
    y = y if bias is None else y + bias
    return y.astype(x.dtype).reshape(*x.shape[:-1], kernel.shape[1])


def gradients_cpu(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Compute gradients of x, kernel and bias in the forms that XLA's CPU backend is fast at."""
    shape = x.shape
    x, gradient = (each.reshape(-1, each.shape[-1]) for each in (x, gradient))
    if x.dtype == jnp.bfloat16:
        of_x = _in_float32(gradient, kernel, (1, 1)).astype(x.dtype)
        # Transposed in memory as both sides must be row-major, see `affine_cpu`.
        of_kernel = _in_float32(transpose_in_memory(x), gradient, (1, 0)).astype(x.dtype)
    else:
        of_x = lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())))
        of_kernel = kernel_gradient(x, gradient)
    return of_x.reshape(shape), of_kernel, None if bias is None else gradient.sum(axis=0)


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Compute x^T gradient, [N, D], [N, M] -> [D, M], with the narrower side transposed in memory.

    For products that contract first axes XLA's CPU backend (jaxlib 0.10) leaves YNNPACK for Eigen,
    which is half as fast where rows of the result are a multiple of 4 KiB apart (768 x 3072 of
    ViT-B: 35 instead of 60 GFLOP/s on a Zen 3 core).

    >>> kernel_gradient(jnp.array([[1.0, 2.0]]), jnp.ones((1, 3))).tolist()
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """
    if x.shape[1] <= gradient.shape[1]:
        return jnp.dot(transpose_in_memory(x), gradient)
    # Without the barrier XLA would undo the transposition.
    turned = lax.optimization_barrier(jnp.dot(transpose_in_memory(gradient), x))
    return transpose_in_memory(turned)


def transpose_in_memory(x: jax.Array) -> jax.Array:
    """Transpose [N, D] -> [D, N] into row-major order; XLA would not move the data for `x.T`."""
    rows, width = x.shape
    moved = jnp.moveaxis(x.reshape(rows, 1, width), 2, 0)
    return lax.optimization_barrier(moved.reshape(width, rows))


def _in_float32(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Contract an axis of each, in float32."""
    contracted = (axes[:1], axes[1:]), ((), ())
    return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)
