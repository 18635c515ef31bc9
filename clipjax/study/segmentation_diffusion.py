"""Stable Diffusion as what makes the maps of a segmentation run."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import ConfigError
from clipjax.model.clip import TextTower
from clipjax.model.diffusion.memory import check_memory, step_bytes
from clipjax.model.diffusion.random_weights import RANDOM, random_params, random_sizes
from clipjax.model.diffusion.unet import check_text_width
from clipjax.model.diffusion.vpd import VPD, TextAdapter, VPDConfig, check_size, class_states
from clipjax.model.hf.diffusion import load_diffusion, load_text_encoder, read_configs
from clipjax.model.hf.hub import TINY, find_part
from clipjax.model.hf.load import load_clip
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.runtime.peak import device_bytes
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.segmentation_data import Masked
from clipjax.study.segmentation_models import TEMPLATES, Dense
from clipjax.train.distributed.sharding import batch_mesh

UNET_RATE = "backbone/unet/.*"  # parameters whose rate has a factor


def open_diffusion(config: Segmentation, data: Masked) -> Dense:
    """Open a diffusion model for images of a run; a ClipjaxError says what does not fit.

    Texts of classes, and of domains where a prompt reads W, are pooled states of its own text
    encoder, the mean over templates: of classes `diffusion.prompts`, of domains those of
    `clipjax.study.segmentation_models`.
    """
    about, classes = config.diffusion, data.classes
    random = about.model == RANDOM
    sizes = random_sizes() if random else read_configs(about.model)
    vpd = VPDConfig(*sizes, about.scale_latents, about.timestep)
    _check_sizes(config, data, vpd.multiple)
    texts, described = _texts(config, vpd, classes)
    free, dtype = about.unet == "free", jnp.dtype(about.compute_dtype)
    size = config.batch_size // config.accumulate
    devices = getattr(batch_mesh(size), "size", 1)
    batch, parts = math.ceil(size / devices), config.accumulate
    how = {"free": free, "dtype": dtype, "remat": about.remat}
    available, device = device_bytes()
    # Devices of a CPU share its memory.
    share = available and available // (devices if device.startswith("cpu") else 1)
    needed = step_bytes(
        vpd, batch, data.trained, len(classes), accumulate=parts, width=config.width, **how
    )
    note = check_memory(needed, share, device, **how)
    params = random_params(*sizes) if random else load_diffusion(about.model).params
    return dense_of(config, vpd, texts, described, params, data.trained)._replace(note=note)


def dense_of(
    config: Segmentation,
    vpd: VPDConfig,
    texts: jax.Array,
    described: np.ndarray,
    params: Any,
    size: tuple[int, int],
) -> Dense:
    """Return what makes maps of images of `size` in training, by parameters or their shapes.

    Texts are float32 [K, E] of classes and [D, E] of domains.
    """
    about, free = config.diffusion, config.diffusion.unet == "free"
    dtype = jnp.dtype(about.compute_dtype)

    def maps(tree, pixels: jax.Array, shift: jax.Array | None = None) -> tuple:
        images = pixels.astype(jnp.float32) / 127.5 - 1
        prompt = "none" if shift is None else "add"
        module = VPD(dataclasses.replace(vpd, prompt=prompt), dtype, remat=about.remat)
        return module.apply({"params": tree}, images, texts, shift)

    adapter = lambda rng: {"adapter": TextAdapter().init(rng, texts)["params"]}
    trained = {"unet": params["unet"]} if free else {}
    frozen = {name: tree for name, tree in params.items() if name not in trained}
    every = jax.eval_shape(adapter, jax.random.key(0)) | params
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    shapes = tuple(x.shape[1:] for x in jax.eval_shape(maps, every, image))
    rates = ((UNET_RATE, about.factor),) if free else ()
    told = "decoders and text adapter" + f", and the UNet at {about.factor:g} of their rate" * free
    return Dense(frozen, maps, shapes, adapter, trained, rates, described, trains=told)


def _check_sizes(config: Segmentation, data: Masked, multiple: int) -> None:
    """Raise ConfigError for images, crops or windows of a size that the model does not take."""
    given = config.data
    for size, field, set_ in (
        (data.trained, "crop", given.crop), (data.tested, "window", given.window)
    ):  # fmt: skip
        try:
            check_size(size, multiple)
        except ValueError as error:
            told = f"diffusion.model={config.diffusion.model}: {str(error).rstrip('.')}"
            raise ConfigError(f"{told}, by data.{field if set_ else 'resize'}.") from None


def _text_encoder(name: str) -> tuple:
    """Return config, parameters and the tokenizer's folder of a model's text encoder."""
    if name == RANDOM:
        clip, params = load_clip(TINY, dtype=jnp.float32)
        return clip.text, params["text"], TINY
    return *load_text_encoder(name), find_part(name, "tokenizer")


def _texts(config: Segmentation, vpd: VPDConfig, classes: Sequence[str]):
    """Return states of the classes [K, D], and of the descriptions [domains, D]."""
    about = config.diffusion
    text, params, tokenizer = _text_encoder(about.model)
    try:
        check_text_width(text.hidden_size, vpd.unet)
    except ValueError as error:
        raise ConfigError(f"diffusion.model={about.model}: {error}") from None
    tokenize = load_tokenizer(tokenizer, context=text.max_position_embeddings, tower=text)
    encode = jax.jit(lambda params, ids: TextTower(text).apply({"params": params}, ids))
    states = lambda names, prompts: class_states(
        lambda ids: encode(params, ids), tokenize, names, prompts
    )
    described = states(tuple(config.descriptions.values()), TEMPLATES)
    return states(tuple(classes), about.prompts), np.asarray(described)
