"""Max pooling of ResNets' stems, with a way and a gradient of its own for CPU."""

import jax
import jax.numpy as jnp
from jax import lax

_PAD = ((0, 0), (1, 1), (1, 1), (0, 0))
_PLACES = [(i, j) for i in range(3) for j in range(3)]  # of a window


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Take the largest of 3 x 3 places, 2 apart, [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].

    Padded by one place of -inf on every side, as torch does. Lowered for CPU it is `max_pool_cpu`
    with `max_pool_gradient_cpu`, for any other platform `max_pool_plain` and its gradient. There is
    no forward-mode differentiation (`jax.jvp` raises a TypeError).

    >>> max_pool(jnp.arange(12.0).reshape(1, 3, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [9.0, 11.0]]
    """
    return lax.platform_dependent(x, cpu=max_pool_cpu, default=max_pool_plain)


def _backward(x, gradient):
    ways = {"cpu": max_pool_gradient_cpu, "default": max_pool_gradient_plain}
    return (lax.platform_dependent(x, gradient, **ways),)


max_pool.defvjp(lambda x: (max_pool(x), x), _backward)


def max_pool_plain(x: jax.Array) -> jax.Array:
    """Compute `max_pool` as XLA does."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), _PAD)


def max_pool_gradient_plain(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Compute the gradient as JAX derives it from `max_pool_plain`."""
    return jax.vjp(max_pool_plain, x)[1](gradient)[0]


def max_pool_cpu(x: jax.Array) -> jax.Array:
    """Compute `max_pool` of rows and then of columns, whole channels at a time."""
    rows, columns = (-(-length // 2) for length in x.shape[1:3])
    x = jnp.pad(x, _PAD, constant_values=-jnp.inf)
    x = jnp.maximum(jnp.maximum(x[:, : 2 * rows : 2], x[:, 1::2][:, :rows]), x[:, 2::2])
    left, middle, right = x[:, :, : 2 * columns : 2], x[:, :, 1::2][:, :, :columns], x[:, :, 2::2]
    return jnp.maximum(jnp.maximum(left, middle), right)


def max_pool_gradient_cpu(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Give each window's gradient to the first of its largest places, as XLA and torch do.

    XLA finds that place again for each window alone and scatters: 8 times as slow.
    """
    rows, columns = gradient.shape[1:3]
    padded, largest = jnp.pad(x, _PAD, constant_values=-jnp.inf), -jnp.inf
    found = jnp.zeros(gradient.shape, jnp.int32)
    for number, (i, j) in enumerate(_PLACES):
        seen = padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        found = jnp.where(seen > largest, number, found)
        largest = jnp.maximum(seen, largest)
    found, gradient = lax.optimization_barrier((found, gradient))  # once for all nine

    def part(i, j):
        """The gradient of place (i, j) of windows; 0 of the windows that begin one further on."""
        given = jnp.where(found == 3 * i + j, gradient, 0)[:, i == 0 :, j == 0 :]
        return jnp.pad(given, ((0, 0), (0, i == 0), (0, j == 0), (0, 0)))

    # Even rows are the middle of one window, odd ones the end of one and the start of the next.
    parts = [(1,), (2, 0)]
    quarters = [[sum(part(i, j) for i in a for j in b) for b in parts] for a in parts]
    whole = jnp.stack([jnp.stack(row, axis=3) for row in quarters], axis=2)
    height, width, channels = x.shape[1:]
    return whole.reshape(-1, 2 * rows, 2 * columns, channels)[:, :height, :width]
