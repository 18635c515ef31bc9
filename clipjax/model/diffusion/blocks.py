"""Pieces of Stable Diffusion's networks (arXiv 2112.10752), NHWC, parameters named as in files."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.layers.attention import attend
from clipjax.model.layers.norm import LayerNorm
from clipjax.model.transformer import with_remat

CUDNN_WIDEST = 128  # head that cuDNN's attention takes; Stable Diffusion's reach 160


def group_norm(groups: int, eps: float, name: str) -> nn.Module:
    """Make a group norm (arXiv 1803.08494) in float32."""
    return nn.GroupNorm(groups, epsilon=eps, use_fast_variance=False, dtype=jnp.float32, name=name)


def conv3(width: int, dtype: Any, name: str, *, stride: int = 1, pad=(1, 1)) -> nn.Module:
    """Make a 3 x 3 convolution, padded as given on every side's (before, after)."""
    return nn.Conv(width, (3, 3), stride, (pad, pad), dtype=dtype, name=name)


class Resnet(nn.Module):
    """Two convolutions behind norms, and a shortcut, [B, h, w, C] -> [B, h, w, width].

    `time` float32 [B or 1, E], what the time step is embedded as, shifts the channels in between.
    """

    width: int
    groups: int
    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        active = lambda x, name: nn.silu(group_norm(self.groups, self.eps, name)(x))
        y = conv3(self.width, self.dtype, "conv1")(active(x, "norm1"))
        if time is not None:
            shift = nn.Dense(self.width, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))
            y = y + shift[:, None, None]
        y = conv3(self.width, self.dtype, "conv2")(active(y, "norm2"))
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class Attention(nn.Module):
    """Attention of places x [B, Q, C] to each other, or to `context` [B, K, D].

    Returns [B, Q, C] and, of a context alone, how much each place attends to each of its tokens:
    float32 [B, Q, K], the mean over heads. `kernel` is of `clipjax.model.layers.attention.attend`,
    which the places' attention to each other takes; "cudnn" where heads are narrow enough for it.
    """

    heads: int
    dtype: Any
    kernel: str | None = None
    bias: bool = False  # of queries, keys and values
    groups: int = 0  # of a norm before it, as VAEs have one; 0: none

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None):
        width = x.shape[-1]
        if self.groups:
            x = group_norm(self.groups, 1e-6, "group_norm")(x)
        head = width // self.heads
        dense = lambda name, bias: nn.Dense(width, use_bias=bias, dtype=self.dtype, name=name)
        split = lambda y: y.reshape(*y.shape[:2], self.heads, head)
        read = x if context is None else context
        names = (("to_q", x), ("to_k", read), ("to_v", read))
        q, k, v = (split(dense(name, self.bias)(of)) for name, of in names)
        seen = None
        if context is None:
            kernel = "xla" if self.kernel == "cudnn" and head > CUDNN_WIDEST else self.kernel
            y = attend(q, k, v, causal=False, kernel=kernel)
        else:
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
            chance = jax.nn.softmax(scores * head**-0.5)
            y = jnp.einsum("bhqk,bkhd->bqhd", chance.astype(self.dtype), v)
            seen = chance.mean(axis=1)
        return dense("to_out_0", True)(y.reshape(x.shape)), seen


class _Gated(nn.Module):
    """Multiply a value with GELU (erf) of its gate, both made by one product (arXiv 2002.05202)."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        value, gate = jnp.split(nn.Dense(2 * self.width, dtype=self.dtype, name="proj")(x), 2, -1)
        return value * nn.gelu(gate, approximate=False)


class _FeedForward(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _Gated(4 * x.shape[-1], self.dtype, name="net_0")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="net_2")(y)


class _TransformerBlock(nn.Module):
    heads: int
    dtype: Any
    kernel: str | None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array):
        norm = lambda x, name: LayerNorm(1e-5, name=name)(x).astype(self.dtype)
        attention = lambda name: Attention(self.heads, self.dtype, self.kernel, name=name)
        x = x + attention("attn1")(norm(x, "norm1"))[0]
        y, seen = attention("attn2")(norm(x, "norm2"), context)
        x = x + y
        return x + _FeedForward(self.dtype, name="ff")(norm(x, "norm3")), seen


class Transformer(nn.Module):
    """A block of places' attention to each other and to tokens [B, K, D], with a residual.

    float [B, h, w, C] -> the same, and the map of each token, float32 [B, h, w, K]. The two
    projections are 1 x 1 convolutions in files of SD 1.x, matrices in those of 2.x: one and the
    same.
    """

    heads: int
    groups: int
    dtype: Any
    kernel: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array):
        dense = lambda name: nn.Dense(x.shape[-1], dtype=self.dtype, name=name)
        y = dense("proj_in")(group_norm(self.groups, 1e-6, "norm")(x))
        y = y.reshape(len(x), -1, x.shape[-1])
        block = _TransformerBlock(self.heads, self.dtype, self.kernel, name="transformer_blocks_0")
        y, seen = block(y, context)
        return x + dense("proj_out")(y).reshape(x.shape), seen.reshape(*x.shape[:3], -1)


class Sampler(nn.Module):
    """Halve a map, [B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), C], or double it up to `size`.

    With `pad` (0, 1), as a VAE pads, half an odd length is rounded down.
    """

    dtype: Any
    pad: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        if size is None:
            return conv3(x.shape[-1], self.dtype, "conv", stride=2, pad=self.pad)(x)
        x = x.repeat(2, axis=1).repeat(2, axis=2)[:, : size[0], : size[1]]
        return conv3(x.shape[-1], self.dtype, "conv")(x)


class Layers(nn.Module):
    """Resnets, each followed by a transformer where `heads` is not 0: of one level of a UNet.

    Subclasses give `__call__`; `blocks` has functions to apply the pieces by number.
    """

    width: int
    count: int
    heads: int
    groups: int
    eps: float
    dtype: Any
    kernel: str | None = None
    remat: str = "none"

    def resnet(self, number: int) -> nn.Module:
        """Return a resnet."""
        kind = with_remat(Resnet, self.remat)
        return kind(self.width, self.groups, self.eps, self.dtype, name=f"resnets_{number}")

    def transformer(self, number: int) -> nn.Module:
        """Return a transformer."""
        kind, name = with_remat(Transformer, self.remat), f"attentions_{number}"
        return kind(self.heads, self.groups, self.dtype, self.kernel, name=name)
