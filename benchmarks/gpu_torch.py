"""PyTorch's side of `benchmarks.gpu`: the same work, as a competent user writes it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.study_torch import losses, make_parts
from benchmarks.timing import synchronised
from clipjax.configs import dann_two_stage
from clipjax.model.clip import CLIPConfig
from clipjax.model.hf.config import config_to_hf
from clipjax.study import parse

CLASSES = 6


def heads() -> dict[str, tuple[int, ...]]:
    """Those of `configs/dann_two_stage.py`."""
    (method,) = parse(dann_two_stage.get_config().to_dict()).trained
    return method.heads


def no_diffusers() -> str:
    """Why Stable Diffusion is not timed in PyTorch; "" if it can be."""
    return "" if importlib.util.find_spec("diffusers") else "diffusers is not installed"


def trained_by(torch: Any, parameters: Any, loss: Callable, device: str) -> Callable:
    """A step of AdamW on a loss."""
    parameters = [x for x in parameters if x.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=1e-3, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return synchronised(step, device)


def dann_call(shape: CLIPConfig, images: int, phase: str, device: str, compiled: bool) -> Callable:
    """A DANN step through transformers' image tower, under bfloat16's autocast."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    given = config_to_hf(shape)
    data = given["vision_config"] | {"projection_dim": shape.projection_dim}
    data.pop("model_type", None)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**data, attn_implementation="sdpa"))
    tower = tower.to(device).requires_grad_(phase == "unfrozen")
    parts = make_parts(torch, heads(), shape.projection_dim, CLASSES).to(device)
    embed = torch.compile(tower) if compiled else tower
    side, loss = shape.vision.image_size, losses(torch)
    pixels = torch.randn(2 * images, 3, side, side, device=device)
    labels = torch.randint(0, CLASSES, (images,), device=device)
    reverse = torch.tensor(0.3, device=device)

    def value():
        with torch.autocast(device, torch.bfloat16):
            seen = embed(pixel_values=pixels).image_embeds
        x, z = seen.float().split(images)
        return loss(parts, x, labels, z, reverse)

    return trained_by(torch, [*tower.parameters(), *parts.parameters()], value, device)


def cached_call(data: dict, size: int, epochs: int, device: str) -> Callable:
    """Epochs of one DANN run on features that lie on the device."""
    import torch

    torch.manual_seed(0)
    there = lambda part, key: torch.tensor(data[part][key], device=device)
    x, y, z = there("source", "inputs"), there("source", "label").long(), there("target", "inputs")
    parts, loss = make_parts(torch, heads(), x.shape[1], CLASSES).to(device), losses(torch)
    rows, reverse = [slice(0, size)], torch.tensor(0.3, device=device)
    value = lambda: loss(parts, x[rows[0]], y[rows[0]], z[rows[0]], reverse)
    step = trained_by(torch, parts.parameters(), value, "cpu")  # waits once, after all of them

    def run():
        for _ in range(epochs):
            order = torch.randperm(len(x), device=device)
            for at in range(0, len(x), size):
                rows[0] = order[at : at + size]
                step()

    return synchronised(run, device)


def diffusion_call(sizes: tuple, images: int, side: int, classes: int, device: str) -> Callable:
    """A step through diffusers' VAE encoder and UNet, blocks computed again, bfloat16's autocast.

    Its loss is the square of what the UNet predicts, in place of a decoder's: the layers that VPD
    leaves out and the decoder that it adds are small beside the rest.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    unet, vae = sizes
    kinds = lambda way: tuple(
        f"CrossAttn{way}Block2D" if seen else f"{way}Block2D" for seen in unet.attends
    )
    shared = {"layers_per_block": unet.layers_per_block, "norm_num_groups": unet.norm_num_groups}
    model = UNet2DConditionModel(
        block_out_channels=unet.block_out_channels,
        down_block_types=kinds("Down"),
        up_block_types=kinds("Up")[::-1],
        attention_head_dim=unet.heads,
        cross_attention_dim=unet.cross_attention_dim,
        **shared,
    ).to(device)
    model.enable_gradient_checkpointing()
    model.train()
    count = len(vae.block_out_channels)
    encoder = AutoencoderKL(
        block_out_channels=vae.block_out_channels,
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        layers_per_block=vae.layers_per_block,
        norm_num_groups=vae.norm_num_groups,
    )
    encoder = encoder.to(device).requires_grad_(False)
    pixels = torch.tensor(np.random.default_rng(0).normal(size=(images, 3, side, side)))
    pixels = pixels.float().to(device)
    prompts = torch.randn(images, classes, unet.cross_attention_dim, device=device)

    def value():
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                latents = encoder.encode(pixels).latent_dist.mode()
            found = model(latents, 1, prompts).sample
        return found.float().square().mean()

    return trained_by(torch, model.parameters(), value, device)
