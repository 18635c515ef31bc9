"""Convolutions padded as torch pads them, with products and gradients of their own for CPU."""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import lax

from clipjax.adapt.varying import alike
from clipjax.model.layers.dense import affine_cpu, gradients_cpu

_NAMES = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolve x with a square kernel of odd size, [B, H, W, C], [k, k, C, D] -> [B, h, w, D].

    Both are of one dtype. Padded by dilation * (k // 2) on every side, as torch does ("SAME" pads
    strided ones on one side less). Lowered for CPU it is `convolve_cpu` and its gradients are
    `convolution_gradients_cpu`, for any other platform `convolve_plain` and what JAX derives from
    it. There is no forward-mode differentiation (`jax.jvp` raises a TypeError).
    """
    return _convolve(*alike(x, kernel), stride, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, stride, dilation):
    cpu, plain, *_ = _ways(stride, dilation)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=plain)


def _forward(x, kernel, stride, dilation):
    return _convolve(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, kept, gradient):
    *_, cpu, plain = _ways(stride, dilation)
    return lax.platform_dependent(*kept, gradient, cpu=cpu, default=plain)


_convolve.defvjp(_forward, _backward)


@cache
def _ways(stride, dilation):
    """Return both functions and both of gradients, cached: JAX traces each once per shape."""
    ways = convolve_cpu, convolve_plain, convolution_gradients_cpu, convolution_gradients_plain
    return tuple(partial(way, stride=stride, dilation=dilation) for way in ways)


def convolve_plain(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Compute `convolve` as XLA does."""
    pad = 2 * (2 * (dilation * (len(kernel) // 2),),)
    apart = 2 * (dilation,)
    return lax.conv_general_dilated(
        x, kernel, 2 * (stride,), pad, rhs_dilation=apart, dimension_numbers=_NAMES
    )


def convolution_gradients_plain(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Compute gradients of x and kernel as JAX derives them from `convolve_plain`."""
    way = partial(convolve_plain, stride=stride, dilation=dilation)
    return jax.vjp(way, x, kernel)[1](gradient)


def convolve_cpu(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Compute `convolve`, of single places as a product of matrices."""
    if len(kernel) > 1:
        return convolve_plain(x, kernel, stride, dilation)
    return affine_cpu(x[:, ::stride, ::stride], kernel[0, 0], None)


def convolution_gradients_cpu(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Compute gradients of x and kernel in the forms that XLA's CPU backend is fast at.

    JAX's own gradient of a kernel is a convolution with a window as large as the map, whatever the
    size of the kernel: of 1 x 1 kernels 2 to 5 times as slow as a product of matrices. Where places
    are few or strided, that of x is a product, too, whose parts are added where they belong; JAX's
    turns a kernel around first, or convolves mostly zeros.
    """
    # Maps as they were kept: XLA would compute them again, and transpose that element by element.
    x, gradient = lax.optimization_barrier((x, gradient))
    if len(kernel) == 1:
        seen = x[:, ::stride, ::stride]
        of_x, of_kernel, _ = gradients_cpu(seen, kernel[0, 0], None, gradient)
        return _put(of_x, x.shape, (0, 0), stride), of_kernel[None, None]
    way = partial(convolve_plain, stride=stride, dilation=dilation)
    (of_kernel,) = jax.vjp(partial(way, x), kernel)[1](gradient)
    if stride == 1 and gradient.size > gradient.shape[-1] ** 2:
        return jax.vjp(lambda x: way(x, kernel), x)[1](gradient)[0], of_kernel
    size, places = len(kernel), gradient.shape[:3]
    rows, columns = gradient.reshape(-1, gradient.shape[-1]), kernel.reshape(-1, kernel.shape[-1])
    parts = lax.dot_general(rows, columns, (((1,), (1,)), ((), ())))
    parts = parts.reshape(*places, size, size, -1)
    steps = [(i, j) for i in range(size) for j in range(size)]
    start = lambda i: dilation * (i - size // 2)
    put = lambda i, j: _put(parts[..., i, j, :], x.shape, (start(i), start(j)), stride)
    return sum(put(i, j) for i, j in steps), of_kernel


def _put(x: jax.Array, shape: tuple[int, ...], first: tuple[int, int], stride: int) -> jax.Array:
    """Spread maps over zeros of a shape, from a first place on, `stride` apart; cut what is off."""
    lengths = zip(shape[1:3], x.shape[1:3], first, strict=True)
    pads = [(at, whole - at - (part - 1) * stride - 1, stride - 1) for whole, part, at in lengths]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
