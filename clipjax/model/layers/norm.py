"""Layer norm (Ba et al. 2016, arXiv 1607.06450) with a gradient of its own for CPU."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from clipjax.adapt.varying import alike


class LayerNorm(nn.Module):
    """`flax.linen.LayerNorm` in float32, as half-precision gives NaN, [..., D] -> float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
        x, scale, bias = (value.astype(jnp.float32) for value in (x, scale, bias))
        return layer_norm(*alike(x, scale, bias), self.eps)


def _statistics(x, eps):
    """Mean and inverse standard deviation of each row."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.maximum(0.0, (x * x).mean(axis=-1, keepdims=True) - mean * mean)
    return mean, lax.rsqrt(variance + eps)


def _plain(x, scale, bias, eps):
    mean, inverse = _statistics(x, eps)
    return (x - mean) * (inverse * scale) + bias


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Compute (x - mean) / sqrt(variance + eps) * scale + bias, float32 [..., D], [D], [D].

    Lowered for CPU, the gradient is written out: JAX's own reads the activations more often. For
    other platforms it is the one that JAX derives.

    >>> layer_norm(jnp.array([[1.0, 3.0]]), jnp.ones(2), jnp.array([0.0, 1.0]), 0.0).tolist()
    [[-1.0, 2.0]]
    """
    return _plain(x, scale, bias, eps)


def _backward(eps, kept, gradient):
    cpu, plain = _gradients(eps)
    return lax.platform_dependent(*kept, gradient, cpu=cpu, default=plain)


@cache
def _gradients(eps):
    """Return both gradient functions, cached so that JAX traces each only once per shape."""

    def cpu(x, scale, gradient):
        mean, inverse = _statistics(x, eps)
        normed, scaled = (x - mean) * inverse, gradient * scale
        average = lambda value: value.mean(axis=-1, keepdims=True)
        slope = inverse * (scaled - average(scaled) - normed * average(scaled * normed))
        rows = tuple(range(x.ndim - 1))
        return slope, (gradient * normed).sum(axis=rows), gradient.sum(axis=rows)

    def plain(x, scale, gradient):
        bias = jnp.zeros_like(scale)  # whose value no gradient depends on
        return jax.vjp(partial(_plain, eps=eps), x, scale, bias)[1](gradient)

    return cpu, plain


layer_norm.defvjp(lambda x, scale, bias, eps: (_plain(x, scale, bias, eps), (x, scale)), _backward)
