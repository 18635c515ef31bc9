"""Parts that ResNets have beyond convolutions: means of 2 x 2 places, gates, CLIP's attention."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.layers.dense import Dense
from clipjax.model.layers.positions import resized_positions, sincos_positions

HEAD_WIDTH = 64  # of attention


def halved(x: jax.Array, rest: bool) -> jax.Array:
    """Mean of 2 x 2 places without overlap, [B, H, W, C] -> [B, H / 2, W / 2, C].

    Of an odd size the last row or column is a mean of its own with `rest`, else left out.

    >>> halved(jnp.arange(3.0).reshape(1, 1, 3, 1).repeat(2, axis=1), True)[0, 0, :, 0].tolist()
    [0.5, 2.0]
    """
    odd = x.shape[1] % 2, x.shape[2] % 2
    if rest:
        x = jnp.pad(x, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * rows, : 2 * columns]
    return x.reshape(len(x), rows, 2, columns, 2, x.shape[-1]).mean(axis=(2, 4))


def smoothed(x: jax.Array) -> jax.Array:
    """Mean of each place and those right of it and below, zeros beyond, of the same shape."""
    rows, columns = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = x[:, :rows] + x[:, 1:]
    return (x[:, :, :columns] + x[:, :, 1:]) / 4


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al. 2017, arXiv 1709.01507): gates of channels, [B, H, W, C].

    Its hidden width is `share` of the channels, rounded to a multiple of 8, as in timm.
    """

    share: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        hidden = max(8, int(width * self.share + 4) // 8 * 8)
        y = x.mean(axis=(1, 2))
        y = jax.nn.relu(Dense(hidden, width**-0.5, self.dtype, name="fc1")(y))
        y = Dense(width, hidden**-0.5, self.dtype, name="fc2")(y)
        return x * jax.nn.sigmoid(y)[:, None, None]


class AttentionPool(nn.Module):
    """CLIP's pooling of a ResNet's last map (Radford et al. 2021, arXiv 2103.00020, section 2.3).

    The mean of all places attends to itself and to them, behind position embeddings: float
    [B, H, W, C] -> (float32 [B, P], float32 [B, H, W, P]). The second are the places' own values
    and their projection, without positions: what MaskCLIP (arXiv 2112.01071) reads off a ResNet.
    Embeddings of a grid are resized to other sizes by PyTorch's antialiased bicubic interpolation,
    as in timm.
    """

    grid: int  # position embeddings on a side
    projection: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch, rows, columns, width = x.shape
        heads, std = width // HEAD_WIDTH, width**-0.5
        make = lambda size, name: Dense(size, std, self.dtype, name=name)
        query, key, value = (make(width, name) for name in ("q", "k", "v"))
        project = make(self.projection, "proj")
        values = project(value(x)).astype(jnp.float32)
        table = self.param("positions", lambda _: sincos_positions(self.grid, width))
        places = resized_positions(table[1:], self.grid, (rows, columns), antialias=True)
        x = x.reshape(batch, rows * columns, width)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + jnp.concatenate([table[:1], places]).astype(self.dtype)
        apart = lambda y: y.reshape(batch, -1, heads, HEAD_WIDTH)
        scores = jnp.einsum("bqhd,bkhd->bhqk", apart(query(x[:, :1])), apart(key(x)))
        weights = jax.nn.softmax(HEAD_WIDTH**-0.5 * scores.astype(jnp.float32)).astype(self.dtype)
        seen = jnp.einsum("bhqk,bkhd->bqhd", weights, apart(value(x))).reshape(batch, width)
        return project(seen).astype(jnp.float32), values
