"""Decoders: feature maps to class logits of every place, with norms that a domain may modulate."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.clip import normalize
from clipjax.model.layers.domain_norm import EPS, DomainNorm, standard
from clipjax.model.layers.norm import LayerNorm
from clipjax.model.transformer import Block, TowerConfig


def resize_map(x: jax.Array, size: Sequence[int], method: str = "linear") -> jax.Array:
    """Resize maps [B, h, w, C] to [B, *size, C], bilinear or "nearest", never antialiased.

    As PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), method, antialias=False)


class _Decoder(nn.Module):
    """Attributes of decoders; they give logits float32 [B, h, w, K] of maps [B, h, w, C].

    `domain` float32 [B, P] is the domain embedding or None, `real` bool [B] marks what is no
    padding, for statistics of a batch; None: all.
    """

    classes: int
    width: int = 64  # of its convolutions
    stats: str = "instance"  # of its norms
    domain_width: int = 128  # of the layer between domain embedding and norms, which they share

    def modulation(self, domain: jax.Array | None) -> jax.Array | None:
        """Return the condition of all norms, of domain embeddings float32 [B, P]."""
        if domain is None:
            return None
        return jax.nn.relu(nn.Dense(self.domain_width, name="domain")(domain))

    def norm(self, name: str) -> DomainNorm:
        """Return a norm."""
        return DomainNorm(self.stats, name=name)

    def norms_deep(self, levels: int) -> int:
        """Return how many norms follow each other at most, of maps of so many levels."""
        return 1

    def classify(self, x: jax.Array) -> jax.Array:
        """Return logits of the last map."""
        return nn.Dense(self.classes, name="classifier")(x)


def side_by_side(maps: Sequence[jax.Array]) -> jax.Array:
    """Put maps of several levels side by side, each [B, h, w, C], -> [B, H, W, sum of C].

    Each is standardised over the channels of a place, as their scales differ, and resized to the
    largest. One map alone is left as it is.

    >>> side_by_side([jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 3))]).shape
    (1, 4, 4, 5)
    """
    if len(maps) < 2:
        return maps[-1]
    size = [max(x.shape[axis] for x in maps) for axis in (1, 2)]
    scaled = [standard(x.astype(jnp.float32), (3,)) for x in maps]
    return jnp.concatenate([resize_map(x, size) for x in scaled], axis=-1)


class LinearDecoder(_Decoder):
    """A norm and a linear classifier of the maps side by side (DINOv2's, arXiv 2304.07193)."""

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None, real=None) -> jax.Array:
        return self.classify(self.norm("norm")(side_by_side(maps), self.modulation(domain), real))


class MLPDecoder(_Decoder):
    """SegFormer's head (Xie et al. 2021, arXiv 2105.15203): each level projected, joined, fused."""

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None, real=None) -> jax.Array:
        size = [max(x.shape[axis] for x in maps) for axis in (1, 2)]
        parts = []
        for i, x in enumerate(maps):
            x = nn.Dense(self.width, name=f"level_{i}")(standard(x.astype(jnp.float32), (3,)))
            parts.append(resize_map(x, size))
        x = nn.Dense(self.width, use_bias=False, name="fuse")(jnp.concatenate(parts, axis=-1))
        return self.classify(jax.nn.relu(self.norm("norm")(x, self.modulation(domain), real)))


class UpsamplingDecoder(_Decoder):
    """Convolutions, each followed by upsampling twofold (SETR-PUP, arXiv 2012.15840)."""

    steps: int = 2  # SETR has 4, for patches of 16 pixels

    def norms_deep(self, levels: int) -> int:
        return self.steps

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None, real=None) -> jax.Array:
        x, condition = side_by_side(maps), self.modulation(domain)
        x = LayerNorm(EPS, name="layer_norm")(x)
        for i in range(self.steps):
            x = nn.Conv(self.width, (3, 3), use_bias=False, name=f"conv_{i}")(x)
            x = jax.nn.relu(self.norm(f"norm_{i}")(x, condition, real))
            x = resize_map(x, [2 * length for length in x.shape[1:3]])
        return self.classify(x)


class PyramidDecoder(_Decoder):
    """Semantic FPN (Kirillov et al. 2019, arXiv 1901.02446) of maps from fine to coarse.

    A neck without norms (1 x 1, sums from coarse to fine by nearest neighbours, 3 x 3), then for
    each map convolutions and upsampling up to the finest one's size, and their sum. Maps of one
    size, as a ViT has, are rescaled to 2, 1 and 1/2 of it beforehand: `pyramid`.
    """

    def norms_deep(self, levels: int) -> int:
        return max(1, levels - 1)

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None, real=None) -> jax.Array:
        condition, maps = self.modulation(domain), pyramid(maps)
        neck = [nn.Dense(self.width, name=f"lateral_{i}")(x) for i, x in enumerate(maps)]
        for i in range(len(neck) - 2, -1, -1):
            neck[i] = neck[i] + resize_map(neck[i + 1], neck[i].shape[1:3], "nearest")
        finest, total = neck[0].shape[1:3], 0.0
        for i, x in enumerate(neck):
            x = nn.Conv(self.width, (3, 3), name=f"neck_{i}")(x)
            for step in range(max(1, i)):
                name = f"{i}_{step}"
                x = nn.Conv(self.width, (3, 3), use_bias=False, name=f"conv_{name}")(x)
                x = jax.nn.relu(self.norm(f"norm_{name}")(x, condition, real))
                if i:
                    x = resize_map(x, neck[i - step - 1].shape[1:3])
            total = total + resize_map(x, finest)
        return self.classify(total)


def pyramid(maps: Sequence[jax.Array]) -> list[jax.Array]:
    """Rescale maps of one size to a pyramid of as many, from twice the size down by halves.

    Maps that differ in size are a pyramid already.

    >>> [x.shape[1] for x in pyramid([jnp.zeros((1, 4, 4, 1))] * 3)]
    [8, 4, 2]
    """
    sizes = {x.shape[1:3] for x in maps}
    if len(sizes) > 1 or len(maps) < 2:
        return list(maps)
    scaled = lambda length, i: max(1, int(length * 2.0 ** (1 - i)))
    return [
        resize_map(x, [scaled(length, i) for length in x.shape[1:3]]) for i, x in enumerate(maps)
    ]


class AtrousConvolution(nn.Module):
    """A 3 x 3 convolution of which taps are `dilation` apart, [B, H, W, C] -> [B, H, W, width].

    Padded by zeros to the size of the map. Taps that reach beyond it from every place are left out:
    on a map of 12 x 12 all but the middle one of a dilation of 12 and more.
    """

    width: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(x.dtype)
        reach = [self.dilation * (self.dilation < length) for length in x.shape[1:3]]
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=functools.partial(_products, reach=reach),
            default=functools.partial(_convolution, reach=reach),
        )


def _products(x: jax.Array, kernel: jax.Array, *, reach: Sequence[int]) -> jax.Array:
    """A product for each tap: seeds that train at once would be a grouped convolution."""
    (height, width), (up, left) = x.shape[1:3], reach
    padded = jnp.pad(x, ((0, 0), (up, up), (left, left), (0, 0)))
    found = 0.0
    for i in range(3) if up else (1,):
        for j in range(3) if left else (1,):
            row, column = up and up * i, left and left * j
            found += padded[:, row : row + height, column : column + width] @ kernel[i, j]
    return found


def _convolution(x: jax.Array, kernel: jax.Array, *, reach: Sequence[int]) -> jax.Array:
    kept = kernel[tuple(slice(None) if far else slice(1, 2) for far in reach)]
    names = ("NHWC", "HWIO", "NHWC")
    pad, apart = [(far, far) for far in reach], [max(far, 1) for far in reach]
    return jax.lax.conv_general_dilated(
        x, kept, (1, 1), pad, rhs_dilation=apart, dimension_numbers=names
    )


class AtrousDecoder(_Decoder):
    """DeepLabv2's pyramid of dilated convolutions (Chen et al. 2016, arXiv 1606.00915), summed.

    Each is followed by a norm and ReLU, as MaskCLIP's code has it. With `texts` float32 [K, P] of
    the classes, as MaskCLIP+ (Zhou et al. 2022, arXiv 2112.01071), it is P wide and `texts` are its
    classifier: logits are plain products, without scale and bias, of vectors that are not brought
    to length 1. Texts are no parameters.
    """

    dilations: tuple[int, ...] = (6, 12, 18, 24)

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None, real=None, texts=None) -> jax.Array:
        if texts is not None and len(texts) != self.classes:
            raise ValueError(f"{len(texts)} texts are no classifier of {self.classes} classes.")
        x, condition, total = side_by_side(maps), self.modulation(domain), 0.0
        width = self.width if texts is None else texts.shape[1]
        for dilation in self.dilations:
            y = AtrousConvolution(width, dilation, name=f"conv_{dilation}")(x)
            total = total + jax.nn.relu(self.norm(f"norm_{dilation}")(y, condition, real))
        return self.classify(total) if texts is None else total @ texts.T


class MaskDecoder(_Decoder):
    """Segmenter's mask transformer (Strudel et al. 2021, arXiv 2105.05633) over class texts.

    Its class tokens are `texts` float32 [K, P] through an adapter, as VPD's prompts
    (arXiv 2303.02153): texts + gamma * MLP(texts), gamma 1e-4 at start. `prompt` float32 [B, P], W
    or -W, is added to them: here, in front of attention and norms, it can change the answer, as it
    cannot in front of a linear classifier.
    """

    depth: int = 2
    hidden: int = 64  # of its tokens

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None, real=None, texts=None, prompt=None):
        if texts is None or len(texts) != self.classes:
            raise ValueError(f"the mask decoder needs the texts of its {self.classes} classes.")
        seen = side_by_side(maps)
        batch, rows, columns, _ = seen.shape
        dense = lambda width, name: nn.Dense(width, name=name)
        gamma = self.param("gamma", nn.initializers.constant(1e-4), texts.shape[1:])
        adapted = jax.nn.gelu(dense(texts.shape[1], "adapter_0")(texts), approximate=False)
        tokens = texts + gamma * dense(texts.shape[1], "adapter_1")(adapted)
        tokens = jnp.broadcast_to(tokens, (batch, *tokens.shape))
        if prompt is not None:
            tokens = tokens + prompt[:, None]
        places = dense(self.hidden, "project")(seen).reshape(batch, -1, self.hidden)
        x = jnp.concatenate([places, dense(self.hidden, "project_texts")(tokens)], axis=1)
        # One head for 64 channels, as Segmenter has; narrow ones are slow on CPU.
        heads = max(n for n in range(1, max(self.hidden // 64, 1) + 1) if not self.hidden % n)
        config = TowerConfig(self.hidden, 4 * self.hidden, self.depth, heads, "gelu")
        for i in range(self.depth):
            x = Block(config, False, jnp.float32, name=f"block_{i}")(x)
        # A norm over the channels of tokens, which a domain may modulate.
        x = DomainNorm("layer", name="norm")(x[:, :, None], self.modulation(domain))[:, :, 0]
        places, tokens = x[:, : rows * columns], x[:, rows * columns :]
        cosines = jnp.einsum("bqd,bkd->bqk", normalize(places), normalize(tokens))
        return LayerNorm(EPS, name="class_norm")(cosines).reshape(batch, rows, columns, -1)


DECODERS: dict[str, Any] = {
    "linear": LinearDecoder,
    "mlp": MLPDecoder,
    "pup": UpsamplingDecoder,
    "fpn": PyramidDecoder,
    "aspp": AtrousDecoder,
    "mask": MaskDecoder,
}
