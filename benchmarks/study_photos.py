"""From JPEG bytes to features of a ViT-B/32 with random weights: the task photos of the study."""

from __future__ import annotations

import dataclasses
import io
import time

import numpy as np

IMAGES = 10_000  # of each domain, in the study whose time is worked out


def passes() -> int:
    """How often Tables 3 to 5 read a domain where features are computed anew in every epoch."""
    from clipjax.configs import tables
    from clipjax.study import parse

    studies = [parse(tables.get_config(str(number)).to_dict()) for number in (3, 4, 5)]
    return sum(
        len(study.training.seeds) * method.epochs * (2 if method.loss == "dann" else 1)
        for study in studies
        for method in study.trained
    )


def photos(side: str, count: int) -> dict:
    """Images a second from JPEG bytes to features of a random ViT-B/32, and hours of a study."""
    from PIL import Image

    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 255, (47, 63, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((500, 375), Image.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    call = photos_jax(files) if side == "jax" else photos_torch(files)
    call()  # compiles
    before = time.perf_counter()
    call()
    rate = count / (time.perf_counter() - before)
    often = 2 if side == "jax" else passes()  # each domain once, or in every epoch
    return {"images_per_s": rate, "study_h": often * IMAGES / rate / 3600}


def photos_jax(files: list[bytes]):
    """Ours: decode, crop and encode once."""
    import jax

    from clipjax.data.images.preprocess import Preprocess
    from clipjax.model.clip import CLIP
    from clipjax.model.hf.params import abstract_params
    from clipjax.model.shapes import named_shape

    config, preprocess = named_shape("vit_b32"), Preprocess(size=224)
    config = dataclasses.replace(config, text=None)
    rng = np.random.default_rng(0)
    make = lambda x: np.asarray(rng.normal(0, 0.02, x.shape), np.float32)
    params = jax.tree.map(make, abstract_params(config))
    module = CLIP(config)

    @jax.jit
    def encode(params, pixels):
        pixels = preprocess.normalize(pixels)
        return module.apply({"params": params}, pixels, method="encode_image")

    def call():
        pixels = np.stack([preprocess.crop(file) for file in files])
        for at in range(0, len(pixels), 64):
            jax.block_until_ready(encode(params, pixels[at : at + 64]))

    return call


def photos_torch(files: list[bytes]):
    """transformers: PIL, its image processor, its model."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection(CLIPVisionConfig()).eval()
    processor = CLIPImageProcessor()

    def call():
        with torch.no_grad():
            for at in range(0, len(files), 64):
                images = [Image.open(io.BytesIO(f)).convert("RGB") for f in files[at : at + 64]]
                model(**processor(images=images, return_tensors="pt"))

    return call
