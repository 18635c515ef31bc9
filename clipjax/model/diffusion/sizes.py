"""Sizes of published Stable Diffusions by name, and the shapes of their parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.errors import ConfigError
from clipjax.model.diffusion.unet import UNetConfig
from clipjax.model.diffusion.vae import VAEConfig
from clipjax.model.diffusion.vpd import VPD, VPDConfig

PyTree = Any
# config.json of unet/ and vae/ of stable-diffusion-v1-5 and stable-diffusion-2-1.
SIZES = {
    "sd15": (UNetConfig(), VAEConfig()),
    "sd21": (UNetConfig(heads=(5, 10, 20, 20), cross_attention_dim=1024), VAEConfig()),
}


def named_sizes(name: str) -> tuple[UNetConfig, VAEConfig]:
    """Return the sizes of a published Stable Diffusion; raise ConfigError for an unknown name."""
    if name not in SIZES:
        raise ConfigError(f"there is no diffusion model {name!r}; known: {', '.join(SIZES)}.")
    return SIZES[name]


def abstract_params(config: VPDConfig) -> PyTree:
    """Return the shapes of {"unet", "vae", "adapter"} of a `VPD`; nothing is computed."""
    array = lambda *shape: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    image = array(config.multiple, config.multiple, config.vae.in_channels)
    texts = array(config.unet.cross_attention_dim)
    domain = None if config.prompt == "none" else texts
    init = lambda *inputs: VPD(config).init(jax.random.key(0), *inputs)["params"]
    return jax.eval_shape(init, image, texts, domain)
