"""A small diffusion backbone of random weights, to see whether a run works: it knows nothing."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from clipjax.model.diffusion.unet import UNet, UNetConfig
from clipjax.model.diffusion.vae import VAEConfig, VAEEncoder
from clipjax.model.hf.trees import shapes

PyTree = Any
RANDOM = "random"  # its name where another model has a Hub id or a directory
RANDOM_TOLD = "random weights: a smoke test, its numbers mean nothing"
# Strides of 8, 16 and 32 pixels; one level reads the texts, so that little is compiled.
_UNET = dict(
    block_out_channels=(16, 32, 32),
    attends=(False, True, False),
    heads=(2, 2, 2),
    layers_per_block=1,
    cross_attention_dim=128,  # width of the embedded CLIP's texts
    norm_num_groups=8,
)
_VAE = dict(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=8)


def random_sizes() -> tuple[UNetConfig, VAEConfig]:
    """Return the sizes of a UNet that reads the embedded CLIP's texts, and of its VAE."""
    return UNetConfig(**_UNET), VAEConfig(**_VAE)


def random_params(unet: UNetConfig, vae: VAEConfig, seed: int = 0) -> PyTree:
    """Draw parameters {"unet": ..., "vae": ...} as of `clipjax.model.hf.diffusion.load_diffusion`.

    float32; kernels are normal with variance 1 / inputs, biases 0, norms' factors 1: a function of
    `seed`, the same everywhere.
    """
    rng, side = np.random.default_rng(seed), vae.stride
    parts = {
        "unet": (UNet(unet), (8, 8, unet.in_channels), (1, unet.cross_attention_dim)),
        "vae": (VAEEncoder(vae), (side, side, vae.in_channels)),
    }

    def drawn(path: str, shape: tuple[int, ...]) -> jax.Array:
        values = np.full(shape, path.endswith("/scale"))
        if path.endswith("/kernel"):
            values = rng.normal(0, math.prod(shape[:-1]) ** -0.5, shape)
        return jnp.asarray(values.astype(np.float32))  # numpy's: nothing is compiled

    return {
        name: unflatten_dict(
            {tuple(p.split("/")): drawn(p, x.shape) for p, x in sorted(shapes(*part).items())}
        )
        for name, part in parts.items()
    }
