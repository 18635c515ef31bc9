"""Prediction as a program that JAX alone runs: `predict.jaxexport` beside an adapted model.

The weights are its arguments, with the names and layout of the safetensors files beside it, so that
a large model is stored once and not compiled as constants.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import export

from clipjax.data.images.preprocess import Preprocess
from clipjax.io import ASSETS
from clipjax.model.clip import CLIP, CLIPConfig, normalize
from clipjax.model.heads import Heads, predict
from clipjax.model.hf.params import flat, hf_name, hf_shape, params_from_hf

PyTree = Any
FILE = "predict.jaxexport"
PLATFORMS = ("cpu", "cuda", "tpu")


def usage(size: int, classes: int) -> str:
    """Write the section of a model card on calling the program without clipjax."""
    text = (ASSETS / "export" / "usage.md").read_text(encoding="utf-8")
    return text.format(platforms=", ".join(PLATFORMS), size=size, classes=classes)


def make_forward(
    config: CLIPConfig, preprocess: Preprocess, heads: Heads, dtype: Any = jnp.float32
) -> Callable[[PyTree, PyTree, jax.Array], jax.Array]:
    """Make (params of the CLIP, of the heads, uint8 [B, S, S, 3]) -> float32 [B, K]."""
    module = CLIP(config, dtype)

    def forward(params, head_params, pixels):
        images = preprocess.normalize(pixels)
        features = normalize(module.apply({"params": params}, images, method="encode_image"))
        return jax.nn.softmax(predict(heads, head_params, features))

    return forward


def save_program(
    directory: str | os.PathLike,
    config: CLIPConfig,
    preprocess: Preprocess,
    heads: Heads,
    clip: PyTree,
    head: PyTree,
) -> None:
    """Write `predict.jaxexport`: (clip, head, uint8 [B, S, S, 3]) -> float32 [B, K], any B.

    `jax.export.deserialize` of the same jax, or of one up to six months newer (what jax promises),
    reads it on CPUs, NVIDIA GPUs and TPUs. The program normalises, but does not resize or crop.
    `clip` are the CLIP's parameters as stored in model.safetensors, or their shapes and dtypes,
    `head` the heads', as in heads.safetensors.
    """
    vision = dataclasses.replace(config, text=None)
    forward = make_forward(vision, preprocess, heads)
    names = {path: hf_name(path) for path in flat(clip)}

    def run(clip, head, pixels):
        tree = unflatten_dict(head, sep="/")
        return forward(params_from_hf(names, clip.__getitem__, vision), tree, pixels)

    stored = {
        names[path]: jax.ShapeDtypeStruct(hf_shape(path, leaf.shape, config), leaf.dtype)
        for path, leaf in flat(clip).items()
    }
    side, channels = vision.vision.image_size, vision.vision.num_channels
    shape = export.symbolic_shape(f"b, {side}, {side}, {channels}")
    pixels = jax.ShapeDtypeStruct(shape, jnp.uint8)
    exported = export.export(jax.jit(run), platforms=PLATFORMS)(stored, flat(head), pixels)
    (pathlib.Path(directory) / FILE).write_bytes(exported.serialize())
