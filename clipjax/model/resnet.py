"""ResNets (He et al. 2015, arXiv 1512.03385) as Hugging Face and timm have them.

timm's are deep stems and means in shortcuts (He et al. 2018, arXiv 1812.01187), ResNet-RS (Bello et
al. 2021, arXiv 2103.07579) and those of CLIP (Radford et al. 2021, arXiv 2103.00020).
"""

import dataclasses
import re
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.layers.convolution import convolve
from clipjax.model.layers.pooling import max_pool
from clipjax.model.resnet_parts import AttentionPool, Squeeze, halved, smoothed
from clipjax.model.transformer import ACTIVATIONS, REMAT

BOTTLENECK = 4  # how much narrower the middle of a bottleneck is
BATCH_NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes, named as Hugging Face's."""

    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    image_size: int = 224  # that images are preprocessed to; any size is taken
    num_channels: int = 3
    # What timm's have: widths of 3 x 3 convolutions in place of one of 7 x 7, the last of them
    # `embedding_size`; what is behind them; shortcuts by a strided 1 x 1, or by means of 2 x 2
    # places; the same behind 3 x 3 that then have no stride; share of channels in gates.
    stem: tuple[int, ...] = ()
    stem_pool: str = "max"
    shortcut: str = "conv"
    antialiased: bool = False
    squeeze: float = 0.0
    # Of a CLIP's ResNet: width of an embedding that attention pools; position embeddings on a side.
    projection: int = 0
    grid: int = 7
    output_stride: int = 0  # pixels that stages do not go beyond, see `stages`; 0: none
    any_size: ClassVar[bool] = True
    patch_size: ClassVar[int] = 32  # pixels that a place of the last map stands for

    def __post_init__(self):
        if self.layer_type not in ("basic", "bottleneck"):
            raise ValueError(f"layer_type {self.layer_type!r} is neither basic nor bottleneck.")
        if self.hidden_act not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            raise ValueError(f"unknown hidden_act {self.hidden_act!r}; known: {known}.")
        if not self.depths or len(self.depths) != len(self.hidden_sizes):
            sizes = f"depths {self.depths} and hidden_sizes {self.hidden_sizes}"
            raise ValueError(f"{sizes} must name as many stages, at least one.")
        if min(*self.depths, *self.hidden_sizes, self.embedding_size) < 1:
            raise ValueError("depths, hidden_sizes and embedding_size must be positive.")
        for name, known in (("stem_pool", ("max", "mean", "conv")), ("shortcut", ("conv", "mean"))):
            if getattr(self, name) not in known:
                told = f"{name} {getattr(self, name)!r} is none of {', '.join(known)}"
                raise ValueError(f"{told}.")
        if not self.stem and self.stem_pool != "max":
            raise ValueError(f"stem_pool {self.stem_pool} needs a stem of 3 x 3 convolutions.")
        if self.stem and (min(self.stem) < 1 or self.stem[-1] != self.embedding_size):
            told = f"stem {self.stem} does not end in embedding_size {self.embedding_size}"
            raise ValueError(f"{told}, or has no widths.")
        if self.projection < 0 or self.grid < 1 or (self.projection and self.hidden_size % 64):
            told = f"projection {self.projection}, grid {self.grid}, width {self.hidden_size}"
            raise ValueError(f"{told} make no attention of heads of 64.")
        least, own = 4, 4 * 2 ** sum(map(self._halves, range(len(self.depths))))
        known = [str(least * 2**i) for i in range(own.bit_length() - least.bit_length())]
        if self.output_stride and str(self.output_stride) not in known:
            told = f"output_stride {self.output_stride} is none that dilation makes"
            some = f"less than its own {own}: {' or '.join(known)}" if known else "none is"
            raise ValueError(f"{told}; {some}, or 0.")

    def _halves(self, number: int) -> bool:
        return number > 0 or self.downsample_in_first_stage

    @property
    def stages(self) -> tuple[tuple[int, int, int], ...]:
        """Return (stride, dilation of the first layer, of the others) of every stage.

        Where `output_stride` is reached a stage has stride 1, and its 3 x 3 convolutions are
        dilated as much as its places are closer: DeepLab (Chen et al. 2017, arXiv 1606.00915), with
        the weights as they are. The first layer sees the places before, as in timm and mmseg.
        """
        reached, dilation, found = 4, 1, []
        for number in range(len(self.depths)):
            before, stride = dilation, 2 if self._halves(number) else 1
            if stride == 2 and self.output_stride and reached >= self.output_stride:
                stride, dilation = 1, 2 * dilation
            reached *= stride
            found.append((stride, before, dilation))
        return tuple(found)

    @property
    def hidden_size(self) -> int:
        """Width of the last stage."""
        return self.hidden_sizes[-1]

    @property
    def projection_dim(self) -> int:
        """Width of an embedding."""
        return self.projection or self.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of stages: "block_0" and on, of which each is a layer group."""
        return len(self.depths)


class Convolution(nn.Module):
    """A convolution and the affine map of its norm, [B, H, W, C] -> [B, h, w, width]."""

    width: int
    size: int
    stride: int
    dtype: Any
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.width)
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        y = convolve(x, kernel, self.stride, self.dilation)
        return y * scale.astype(self.dtype) + bias.astype(self.dtype)


class Residual(nn.Module):
    """A residual layer, basic or bottleneck, [B, H, W, C] -> [B, h, w, width]."""

    config: ResNetConfig
    width: int
    stride: int
    dilations: tuple[int, int]  # of the first 3 x 3 convolution, and of a second; differ at a start
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, width, stride = self.config, self.width, self.stride
        near, far = self.dilations
        if cfg.layer_type == "basic":
            layers = ((width, 3, stride, near), (width, 3, 1, far))
        else:
            narrow = width // BOTTLENECK
            first, middle = (stride, 1) if cfg.downsample_in_bottleneck else (1, stride)
            layers = ((narrow, 1, first, 1), (narrow, 3, middle, near), (width, 1, 1, 1))
        # Shortcuts of dilated stages: timm has this of its two families.
        spread = near if cfg.antialiased else far
        act, y = ACTIVATIONS[cfg.hidden_act], x
        for i, (out, size, step, dilation) in enumerate(layers):
            slow = cfg.antialiased and step == 2
            given = 1 if slow else step, self.dtype, dilation
            y = Convolution(out, size, *given, name=f"conv_{i}")(y)
            y = y if i == len(layers) - 1 else jax.nn.relu(y)  # whatever hidden_act is, there too
            y = halved(y, rest=False) if slow else y
        if cfg.squeeze:
            y = Squeeze(cfg.squeeze, self.dtype, name="squeeze")(y)
        if x.shape[-1] != width or stride != 1 or near != far:
            # A last odd row: CLIP's own code leaves it out on both ways, timm's takes no such map.
            if cfg.shortcut == "mean" and stride == 2:
                x, stride = halved(x, rest=not cfg.antialiased), 1
            elif cfg.shortcut == "mean" and spread > 1:
                x = smoothed(x)
            x = Convolution(width, 1, stride, self.dtype, name="shortcut")(x)
        return act(x + y)


class Stem(nn.Module):
    """Convolutions before the first stage, and a pool, [B, H, W, C] -> [B, h, w, width]."""

    config: ResNetConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg = self.config
        for i, width in enumerate(cfg.stem):
            x = Convolution(width, 3, 1 if i else 2, self.dtype, name=f"conv_{i}")(x)
            x = ACTIVATIONS[cfg.hidden_act](x)
        if cfg.stem_pool == "conv":
            x = Convolution(cfg.embedding_size, 3, 2, self.dtype, name="pool")(x)
            return ACTIVATIONS[cfg.hidden_act](x)
        return halved(x, rest=False) if cfg.stem_pool == "mean" else max_pool(x)


class Stage(nn.Module):
    """Residual layers of one width, [B, H, W, C] -> [B, h, w, width]."""

    config: ResNetConfig
    number: int
    dtype: Any
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, layer = self.config, Residual if self.remat == "none" else nn.remat(Residual)
        width, (stride, first, dilation) = cfg.hidden_sizes[self.number], cfg.stages[self.number]
        for i in range(cfg.depths[self.number]):
            sizes = (stride, (first, dilation)) if i == 0 else (1, (dilation, dilation))
            x = layer(cfg, width, *sizes, self.dtype, name=f"layer_{i}")(x)
        return x


class ResNet(nn.Module):
    """Images to the mean over places of the last stage, float [B, H, W, 3] -> float32 [B, D].

    Where `projection` is set, attention pools them: CLIP's embedding. With `levels`, numbers of
    stages counted from 1 (0: the stem), it also returns a tuple of their maps, float32
    [B, h, w, width]; with `last="value"` the last stage's is in the space of such embeddings, see
    `clipjax.model.resnet_parts.AttentionPool`. Batch statistics stay those of the checkpoint: they
    are folded into `scale` and `bias`, which train (mmseg's `norm_eval`), so that a step is pure
    and no example depends on another.
    """

    config: ResNetConfig
    dtype: Any = jnp.float32
    kernel: str | None = None  # of attention: there is none
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array, *, levels: tuple[int, ...] = (), last: str = "state"):
        cfg = self.config
        if images.ndim != 4 or images.shape[3] != cfg.num_channels:
            wanted = f"[batch, height, width, {cfg.num_channels}]"
            raise ValueError(f"images of shape {images.shape} do not fit: give {wanted}.")
        if wrong := [level for level in levels if not 0 <= level <= len(cfg.depths)]:
            raise ValueError(f"level {wrong[0]} is none of 0 to {len(cfg.depths)}.")
        if self.remat not in REMAT:
            raise ValueError(f"there is no remat {self.remat!r}; known: {', '.join(REMAT)}.")
        if last != "state" and not (last == "value" and cfg.projection):
            raise ValueError(f"last={last!r} is neither state nor, where attention pools, value.")
        x = images.astype(self.dtype)
        if cfg.stem:
            x = Stem(cfg, self.dtype, name="stem")(x)
        else:
            x = Convolution(cfg.embedding_size, 7, 2, self.dtype, name="stem")(x)
            x = max_pool(ACTIVATIONS[cfg.hidden_act](x))
        kept = [x]
        for number in range(len(cfg.depths)):
            x = Stage(cfg, number, self.dtype, self.remat, name=f"block_{number}")(x)
            kept.append(x)
        pooled = x.astype(jnp.float32).mean(axis=(1, 2))
        if cfg.projection:
            pool = AttentionPool(cfg.grid, cfg.projection, self.dtype, name="attention_pool")
            pooled, values = pool(x)
            kept[-1] = values if last == "value" else x
        maps = tuple(kept[level].astype(jnp.float32) for level in levels)
        return (pooled, maps) if levels else pooled


def resnet_path(name: str) -> str | None:
    """Return the path of a Hugging Face tensor in our tree; None for those that are not used.

    >>> resnet_path("resnet.encoder.stages.1.layers.0.layer.2.normalization.running_var")
    'block_1/layer_0/conv_2/var'
    >>> resnet_path("embedder.embedder.convolution.weight")
    'stem/kernel'
    """
    name = name.removeprefix("resnet.")
    if name.startswith("classifier.") or name.endswith("num_batches_tracked"):
        return None
    name = re.sub(r"^embedder\.embedder\.", "stem/", name)
    name = re.sub(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"block_\1/layer_\2/", name)
    name = re.sub(r"/layer\.(\d+)\.", r"/conv_\1/", name).replace("/shortcut.", "/shortcut/")
    ends = {"convolution.weight": "kernel", "normalization.weight": "scale"}
    ends |= {"normalization.bias": "bias", "normalization.running_mean": "mean"}
    ends |= {"normalization.running_var": "var"}
    where, _, end = name.rpartition("/")
    return f"{where}/{ends.get(end, end)}"
