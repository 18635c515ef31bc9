"""From JPEG bytes to features of a ViT-B/32 with random weights: the task photos of the study."""

from __future__ import annotations

import io
import time

import numpy as np


def photos(side: str, count: int) -> dict:
    """Images a second from JPEG bytes to features of a random ViT-B/32."""
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
    return {"images_per_s": count / (time.perf_counter() - before)}


def photos_jax(files: list[bytes]):
    """Ours: decode, crop and encode once."""
    import jax

    from benchmarks.encode import SIZES
    from clipjax.data.preprocess import Preprocess
    from clipjax.model.clip import CLIP
    from clipjax.model.hf_params import abstract_params

    config, preprocess = SIZES["ViT-B/32"], Preprocess(size=224)
    rng = np.random.default_rng(0)
    make = lambda x: np.asarray(rng.normal(0, 0.02, x.shape), np.float32)  # noqa: E731
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
