"""Decoders: feature maps to class logits of every place, with norms that a domain may modulate."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.clip import normalize
from clipjax.model.layers.norm import LayerNorm
from clipjax.model.transformer import Block, TowerConfig

STATISTICS = ("instance", "group", "layer")
EPS = 1e-5


class DomainNorm(nn.Module):
    """Domino's normalisation, (f - mean) / std * (1 + G(h)) + B(h), [B, H, W, C] -> float32.

    `condition` h float32 [B, M] is what a decoder made of the domain embedding W; G and B are
    linear and start at zero, so that at the first step it is the plain norm for every W. Without a
    condition it has a learned scale and shift of its own, which is what a constant W would be.
    Statistics are over the places of one image ("instance"), over places and channels of a group
    ("group"), or over the channels of a place ("layer"), in float32, epsilon inside the root. The
    paper's are over a batch, which makes examples depend on each other; and what it calls gamma_f
    must be a standard deviation (Kaplan et al. 2024, equation 1).
    """

    stats: str = "instance"
    groups: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        width, x = x.shape[-1], x.astype(jnp.float32)
        if condition is None:
            factor = self.param("scale", nn.initializers.ones, (width,))
            shift = self.param("bias", nn.initializers.zeros, (width,))
        else:
            zero = lambda name: nn.Dense(width, kernel_init=nn.initializers.zeros, name=name)
            factor = 1 + zero("factor")(condition)[:, None, None]
            shift = zero("shift")(condition)[:, None, None]
        return self._standardised(x) * factor + shift

    def _standardised(self, x: jax.Array) -> jax.Array:
        if self.stats not in STATISTICS:
            known = ", ".join(STATISTICS)
            told = (
                "statistics of a batch are no part of a pure step" if self.stats == "batch" else ""
            )
            raise ValueError(f"stats={self.stats!r} is unknown; known: {known}. {told}".strip())
        if self.stats == "group":
            if x.shape[-1] % self.groups:
                told = f"{x.shape[-1]} channels cannot be cut into {self.groups} groups"
                raise ValueError(f"{told}; give a number that divides them.")
            cut = x.reshape(*x.shape[:3], self.groups, -1)
            return _standard(cut, (1, 2, 4)).reshape(x.shape)
        return _standard(x, (3,) if self.stats == "layer" else (1, 2))


def _standard(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + EPS)


def resize_map(x: jax.Array, size: Sequence[int], method: str = "linear") -> jax.Array:
    """Resize maps [B, h, w, C] to [B, *size, C], bilinear or "nearest", never antialiased.

    As PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), method, antialias=False)


class _Decoder(nn.Module):
    """Attributes of decoders; they give logits float32 [B, h, w, K] of maps [B, h, w, C]."""

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
    scaled = [_standard(x.astype(jnp.float32), (3,)) for x in maps]
    return jnp.concatenate([resize_map(x, size) for x in scaled], axis=-1)


class LinearDecoder(_Decoder):
    """A norm and a linear classifier of the maps side by side (DINOv2's, arXiv 2304.07193)."""

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None) -> jax.Array:
        return self.classify(self.norm("norm")(side_by_side(maps), self.modulation(domain)))


class MLPDecoder(_Decoder):
    """SegFormer's head (Xie et al. 2021, arXiv 2105.15203): each level projected, joined, fused."""

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None) -> jax.Array:
        size = [max(x.shape[axis] for x in maps) for axis in (1, 2)]
        parts = []
        for i, x in enumerate(maps):
            x = nn.Dense(self.width, name=f"level_{i}")(_standard(x.astype(jnp.float32), (3,)))
            parts.append(resize_map(x, size))
        x = nn.Dense(self.width, use_bias=False, name="fuse")(jnp.concatenate(parts, axis=-1))
        return self.classify(jax.nn.relu(self.norm("norm")(x, self.modulation(domain))))


class UpsamplingDecoder(_Decoder):
    """Convolutions, each followed by upsampling twofold (SETR-PUP, arXiv 2012.15840)."""

    steps: int = 2  # SETR has 4, for patches of 16 pixels

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None) -> jax.Array:
        x, condition = side_by_side(maps), self.modulation(domain)
        x = LayerNorm(EPS, name="layer_norm")(x)
        for i in range(self.steps):
            x = nn.Conv(self.width, (3, 3), use_bias=False, name=f"conv_{i}")(x)
            x = jax.nn.relu(self.norm(f"norm_{i}")(x, condition))
            x = resize_map(x, [2 * length for length in x.shape[1:3]])
        return self.classify(x)


class PyramidDecoder(_Decoder):
    """Semantic FPN (Kirillov et al. 2019, arXiv 1901.02446) of maps from fine to coarse.

    A neck without norms (1 x 1, sums from coarse to fine by nearest neighbours, 3 x 3), then for
    each map convolutions and upsampling up to the finest one's size, and their sum. Maps of one
    size, as a ViT has, are rescaled to 2, 1 and 1/2 of it beforehand: `pyramid`.
    """

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], domain=None) -> jax.Array:
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
                x = jax.nn.relu(self.norm(f"norm_{name}")(x, condition))
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
    def __call__(self, maps: Sequence[jax.Array], domain=None, texts=None, prompt=None):
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
    "mask": MaskDecoder,
}
