"""Opens a study's model: a CLIP, or an image tower without texts."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from clipjax.data.features.identity import identity_of
from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import ConfigError
from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.image_model import load_model
from clipjax.model.hf.load import check_size
from clipjax.model.image_model import ImageConfig, ImageModel
from clipjax.study.config import Study
from clipjax.study.parts import Encoder


def open_model(study: Study) -> dict[str, Any]:
    """Return what a `Plan` holds of a study's model, with float32 parameters."""
    encoder = study.encoder
    directory = find_model(encoder.model, encoder.revision or None)
    preprocess = load_preprocess(directory)
    size = encoder.image_size or None
    clip_config, params = load_model(directory, image_size=size, preprocessed=preprocess.size)
    if isinstance(clip_config, CLIPConfig) and None in (clip_config.text, clip_config.vision):
        raise ConfigError(f"model {encoder.model!r} holds one tower of a CLIP; a study needs both.")
    preprocess = preprocess.with_size(size or preprocess.size)
    check_size(clip_config, preprocess, directory)
    preprocess = dataclasses.replace(preprocess, decoder=study.data.decoder)
    return {
        "model": directory,
        "module": make_module(encoder, clip_config),
        "params": params,
        "preprocess": preprocess,
        "identity": identity_of(directory, clip_config, params, preprocess),
    }


def make_module(encoder: Encoder, config: CLIPConfig | ImageConfig) -> CLIP | ImageModel:
    """Return the encoder of these sizes, computing as the config says."""
    kind = CLIP if isinstance(config, CLIPConfig) else ImageModel
    return kind(config, getattr(jnp, encoder.compute_dtype), remat=encoder.remat)
