"""The train step of a segmentation run on Stable Diffusion, over shapes instead of arrays."""

import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.aot.step import AbstractStep, pick
from clipjax.data.images.mask_crops import Crops
from clipjax.errors import ConfigError
from clipjax.model.diffusion.sizes import abstract_params
from clipjax.model.diffusion.unet import UNetConfig
from clipjax.model.diffusion.vae import VAEConfig
from clipjax.model.diffusion.vpd import VPDConfig, check_size
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.segmentation_data import Masked
from clipjax.study.segmentation_diffusion import dense_of
from clipjax.study.segmentation_models import Reader
from clipjax.study.segmentation_plan import Plan
from clipjax.study.segmentation_trainer import Trainer

READER = 768  # numbers that the CLIP which reads W makes of an image: ViT-L/14's


def abstract_diffusion_step(
    config: Segmentation, sizes: tuple[UNetConfig, VAEConfig], classes: int, *, method: str = ""
) -> AbstractStep:
    """Make the step of a method (the last by default) as training would, of images of data.crop.

    Neither data nor weights are opened. ConfigError: no diffusion model, no such method, no size of
    images, or one that the model does not take.
    """
    about, size = config.diffusion, config.data.crop or config.data.resize
    if not about.model:
        raise ConfigError(
            "of segmentations only steps on Stable Diffusion are compiled; take vpd_driving."
        )
    if not size:
        raise ConfigError("data.crop and data.resize are empty; give one, data is not opened.")
    decoders = {each.name: each for each in config.decoders}
    chosen = decoders[pick(method, list(decoders), "method")]
    given = chosen.labels, chosen.decoder, chosen.classifier
    if {"teacher", "zero_shot", "text"} & {*given}:
        told = f"methods.{chosen.name} has a teacher, which is not opened here"
        raise ConfigError(f"{told}; name another by --method.")
    vpd = VPDConfig(*sizes, about.scale_latents, about.timestep)
    try:
        check_size(size, vpd.multiple)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    width, described = vpd.unet.cross_attention_dim, len(config.descriptions)
    params = {name: tree for name, tree in abstract_params(vpd).items() if name != "adapter"}
    texts = jnp.zeros((classes, width)), np.zeros((described, width), np.float32)
    dense = dense_of(config, vpd, *texts, params, size)
    names = SimpleNamespace(classes=tuple(map(str, range(classes))))
    data = Masked(names, None, {}, Crops(size), size, size)
    read = (np.zeros((n, READER), np.float32) for n in (described, classes))
    plan = Plan(config, data, dense, Reader(None, None, None, *read, 1.0, None))
    weights = None if config.class_weights == "none" else np.ones(classes, np.float32)
    trainer = Trainer(plan, pathlib.Path(), print, {"masks": weights}, cached=False)
    start, step = trainer.parts(chosen, config.batch_size)
    state = jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.uint32), dense.trained)
    array = lambda kind, *shape: jax.ShapeDtypeStruct((config.batch_size, *shape), kind)
    rows = {"inputs": array(jnp.uint8, *size, 3), "label": array(jnp.uint8, *size)}
    rows |= {name: array(jnp.float32, READER) for name in ("embedding", "other")}
    rows |= {"condition": array(jnp.int32)}
    batch = {"source": rows | {"mask": array(jnp.bool_)}}
    shared = jax.eval_shape(lambda x: x, trainer.shared(chosen))
    return AbstractStep(f"{chosen.name}, UNet {about.unet}", step, state, batch, False, (shared,))
