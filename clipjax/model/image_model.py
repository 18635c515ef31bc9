"""Image towers without texts behind CLIP's interface: one parameter tree, "vision", no class texts.

A kind of tower is one entry of `TOWERS` here and one of `clipjax.model.hf.image_model.LOADERS`; a
study takes it by `config.model`, whose config.json names the kind.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.errors import ConfigError
from clipjax.model.dinov2 import DINOv2
from clipjax.model.resnet import ResNet
from clipjax.model.vit import ViT

# model_type of a config.json -> its tower: images [B, S, S, C] -> float32 [B, P], P the config's
# projection_dim or hidden_size, made as (config.vision, dtype, kernel, remat), with parameters that
# layer groups cover as "clip/vision/". timm's ResNets, CLIP's among them, are of type "resnet".
TOWERS = {"vit": ViT, "dinov2": DINOv2, "dinov2_with_registers": DINOv2, "resnet": ResNet}


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """A model that has an image tower alone; read as a `CLIPConfig` without texts."""

    kind: str  # of `TOWERS`
    vision: Any  # sizes: image_size, patch_size, hidden_size, num_hidden_layers, ...
    text: None = None

    @property
    def projection_dim(self) -> int:
        """Width of an embedding."""
        return getattr(self.vision, "projection_dim", self.vision.hidden_size)


class ImageModel(nn.Module):
    """The tower of an `ImageConfig`; attributes as of `clipjax.model.clip.CLIP`."""

    config: ImageConfig
    dtype: Any = jnp.float32
    kernel: str | None = None
    remat: str = "none"

    def setup(self):
        tower = TOWERS[self.config.kind]
        self.vision = tower(self.config.vision, self.dtype, self.kernel, self.remat)

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Embed preprocessed images [B, S, S, 3], float32 [B, P], **not** normalised."""
        return self.vision(images)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Embed images, as `encode_image`."""
        return self.encode_image(images)


class NoTexts:
    """Stands for an array of class texts that a model lacks: it has a shape, and no values.

    Whatever reads it raises ConfigError.

    >>> NoTexts(3, 8).shape
    (3, 8)
    """

    def __init__(self, *shape: int):
        self.shape: Sequence[int] = shape

    def absent(self, *_, **__) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(
            "it reads class texts, or CLIP's scale, and the model has no text tower; take a CLIP, "
            "or what images alone suffice for, as heads = {'start': 'random'}."
        )

    T = property(absent)
    __array__ = __jax_array__ = __float__ = __getitem__ = __len__ = absent
    __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = absent

    def __repr__(self) -> str:
        return f"NoTexts{self.shape}"
