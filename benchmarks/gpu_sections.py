"""The sections of `benchmarks.gpu`: generators of rows, one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import encode as encoding
from benchmarks import gpu_torch
from benchmarks import segmentation as dense_maps
from benchmarks.gpu_rows import (
    KINDS,
    STACK,
    STEP,
    Check,
    Place,
    Rate,
    apart,
    filled,
    rate,
    step_call,
)
from clipjax.aot.diffusion import abstract_diffusion_step
from clipjax.aot.step import AbstractStep, abstract_step
from clipjax.configs import dann_two_stage, vpd_driving
from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.diffusion.memory import step_bytes
from clipjax.model.diffusion.vpd import VPDConfig
from clipjax.model.hf.params import abstract_params
from clipjax.study import Segmentation, parse
from clipjax.train.arrays import Epochs, epochs_program

PyTree = Any
Rows = Iterator[Check | Rate]
EXACT, TF32, BF16 = 1e-4, 1e-2, 5e-2  # allowed, of towers; the unit roundoffs are 6e-8, 5e-4, 4e-3
STEPS = 1e-3  # of a loss, and a gradient's norm, where products are exact
RUNS = 8  # stacked


def full_precision(place: Place):
    """Products of float32 in float32: GPUs round their inputs to 10 bits by default (TF32)."""
    return contextlib.nullcontext() if place.dry else jax.default_matmul_precision("highest")


@contextlib.contextmanager
def on_cpu(place: Place):
    """The CPU's numbers: arrays and programs of float32 in full precision; a dry run's own."""
    with full_precision(place), contextlib.ExitStack() as stack:
        if not place.dry:
            stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
        yield


def embedded(shape: CLIPConfig, given: tuple, dtype: str, kernel: str | None = None) -> PyTree:
    """Embeddings of images and texts, with parameters, images and ids `given`."""

    def both(params, images, ids):
        apply = functools.partial(CLIP(shape, jnp.dtype(dtype), kernel).apply, {"params": params})
        return apply(images, method="encode_image"), apply(ids, method="encode_text")

    return jax.tree.map(np.asarray, jax.jit(both)(*given))


def parity(place: Place) -> Rows:
    """Both towers' embeddings of a few images and texts."""
    for model in place.models:
        shape, rng = place.shape(model), np.random.default_rng(0)
        side, text = shape.vision.image_size, shape.text
        images = rng.normal(size=(4, side, side, 3)).astype(np.float32)
        ids = rng.integers(1, 60, (4, text.max_position_embeddings)).astype(np.int32)
        ids[:, -1] = text.eos_token_id or text.vocab_size - 1
        given = filled(abstract_params(shape)), images, ids
        with on_cpu(place):
            wanted = embedded(shape, given, "float32")
        ways = zip(KINDS, ("float32", "float32", "bfloat16", "bfloat16"), strict=True)
        for (kind, dtype), allowed in zip(ways, (EXACT, TF32, BF16, BF16), strict=True):
            cudnn = "cudnn" if kind == KINDS[3] else None
            if cudnn and place.dry:
                continue
            with full_precision(place) if kind == KINDS[0] else contextlib.nullcontext():
                error = apart(embedded(shape, given, dtype, cudnn), wanted)
            yield Check(f"{model}, both towers, {kind}", error, allowed)


def two_stage(place: Place, model: str, phase: str, images: int, dtype: str, pixels: bool = True):
    """A DANN step of `configs/dann_two_stage.py` over shapes; `pixels` if the tower is in it."""
    config = dann_two_stage.get_config()
    if pixels:
        config.methods.two_stage.phases.frozen.augment = {"smallest": 0.5, "flip": True}
    config.batch_size, config.compute_dtype, config.remat = images, dtype, "none"
    return abstract_step(parse(config.to_dict()), place.shape(model), phase=phase)


def same_step(place: Place, name: str, made: AbstractStep) -> Check:
    """The loss and the gradient's norm of one step here, and on the CPU."""
    found = []
    for where in (on_cpu, full_precision):
        with where(place):
            call, metrics = step_call(made)
            call()
            found.append([metrics()[key] for key in ("loss", "grad_norm")])
    return Check(name, apart(found[1], found[0]), STEPS)


def finite(metrics: dict[str, float]) -> None:
    """AssertionError for a step whose numbers are not finite."""
    assert all(np.isfinite(x) for x in metrics.values()), metrics


def dann(place: Place) -> Rows:
    """Steps of DANN with the image tower in them, frozen and free."""
    small = two_stage(place, "ViT-B/16", "unfrozen", 4, "float32")
    yield same_step(place, f"ViT-B/16, {STEP}", small)
    for model in place.models:
        images = place.size(64 if model == "ViT-B/16" else 32, 4)  # 40 GB of activations at most
        for phase in ("frozen", "unfrozen"):
            made = two_stage(place, model, phase, images, "bfloat16")
            call, metrics = step_call(made)
            theirs = [
                functools.partial(
                    gpu_torch.dann_call, place.shape(model), images, phase, place.device, compiled
                )
                for compiled in (False, True)
            ]
            if place.dry or model != "ViT-B/16" or phase == "frozen":  # it compiles for long
                theirs[1] = "torch.compile left out"
            name = f"{model}, {phase} DANN step, bfloat16"
            yield rate(place, name, "images/s", 2 * images, call, *theirs)
            finite(metrics())


def cached(place: Place) -> Rows:
    """Runs on cached features: all stacked on the device, and one after the other."""
    made = two_stage(place, "ViT-B/16", "frozen", place.size(64, 4), "float32", pixels=False)
    width, size = made.batch["target"]["inputs"].shape[1], made.batch["target"]["inputs"].shape[0]
    rng, images = np.random.default_rng(0), place.size(4096, 16)
    part = lambda: {"inputs": rng.normal(size=(images, width)).astype(np.float32)}
    label = rng.integers(0, 3, images).astype(np.int32)
    data = {"source": part() | {"label": label}, "target": part()}
    one = filled(made.state)
    states = jax.tree.map(lambda x: np.stack([x] * RUNS), one)
    states = states._replace(seed=np.arange(RUNS, dtype=np.uint32))
    stacked = epochs_program(lambda _: made.step, Epochs(("dann",), 2, size, 2))
    none = np.zeros(RUNS, np.int32)
    few = jax.tree.map(lambda x: x[: 4 * size], data)  # 8 steps: DANN amplifies rounding

    def losses():
        return np.asarray(stacked(none, states, few, none, 2)[1]["loss"])

    with on_cpu(place):
        wanted = losses()
    with full_precision(place):
        yield Check(STACK, apart(losses(), wanted), STEPS)
    names, steps = (
        ("8 DANN runs on cached features, stacked", "the same one after the other"),
        images // size,
    )
    placed = jax.device_put((none, states, data))

    @functools.partial(jax.jit, static_argnums=4)
    def in_turn(methods, states, data, firsts, count):
        alone = jax.tree.map(lambda x: x[:, None], (methods, states, firsts))
        return jax.lax.map(lambda run: stacked(*run[:2], data, run[2], count), alone)

    def timed(program):
        return lambda: jax.block_until_ready(program(*placed, placed[0], 2))

    theirs = functools.partial(gpu_torch.cached_call, data, size, 2, place.device)
    for name, program in zip(names, (stacked, in_turn), strict=True):
        found = rate(place, name, "run-steps/s", RUNS * 2 * steps, timed(program))
        if program is stacked and place.torch:
            found = found._replace(note=place.torch)
        elif program is stacked:
            other = rate(place, name, "", 2 * steps, theirs())
            found = found._replace(torch=other.ours, note="PyTorch: one run")
        yield found


def encode(place: Place) -> Rows:
    """Images to features, as the feature cache is filled."""
    for kernel in (None, "cudnn"):
        for model in place.models:
            if kernel and place.dry:
                continue
            shape = dataclasses.replace(place.shape(model), text=None)
            side, images = shape.vision.image_size, place.size(256, 4)
            pixels = np.random.default_rng(0).normal(size=(images, side, side, 3))
            given = (shape, pixels.astype(np.float32), "bfloat16", False)
            ours = encoding.jax_call(*given, kernel)
            theirs = [
                functools.partial(encoding.torch_call, *given, place.device, compiled)
                for compiled in (False, True)
            ]
            if place.dry or model != "ViT-B/16" or kernel:
                theirs[1] = "torch.compile left out"
            name = f"{model}, features, bfloat16" + ", cuDNN's attention" * bool(kernel)
            yield rate(place, name, "images/s", images, ours, *theirs)


def dense(place: Place) -> Rows:
    """A segmentation step on the maps of a CLIP that trains."""
    side, images = place.size(512, 64), place.size(8, 2)
    config = place.shape("ViT-B/16").vision
    row = dense_maps.Row(config, images, side, 19, "bfloat16")
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(images, side, side, 3)).astype(np.float32)
    labels = rng.integers(0, 19, pixels.shape[:3]).astype(np.uint8)
    given = (row, pixels, labels, True)
    theirs = [
        functools.partial(dense_maps.torch_call, *given, False, place.device, compiled)
        for compiled in (False, True)
    ]
    if place.dry:
        theirs[1] = "torch.compile left out"
    name = "CLIP ViT-B/16 on 512 x 512, step, bfloat16"
    yield rate(place, name, "images/s", images, dense_maps.jax_call(*given), *theirs)


def vpd(dtype: str, remat: str, images: int, side: int) -> Segmentation:
    """`configs/vpd_driving.py`, its UNet free, with these."""
    config = vpd_driving.get_config()
    config.diffusion.update(compute_dtype=dtype, remat=remat)
    config.data.crop, config.batch_size = (side, side), images
    config.width = 256 if side == 512 else 16
    return parse(config.to_dict())


def diffusion(place: Place) -> Rows:
    """A step of VPD with Domino-Sub on Stable Diffusion."""
    sizes = dataclasses.replace(place, dry=True).diffusion()
    small = abstract_diffusion_step(vpd("float32", "none", 2, 32), sizes, 5)
    yield same_step(
        place, "SD step, small, float32 in full precision: loss and gradient's norm", small
    )
    images, side = place.size(4, 2), place.size(512, 32)
    config, sizes = vpd("bfloat16", "blocks", images, side), place.diffusion()
    made = abstract_diffusion_step(config, sizes, 19)
    call, metrics = step_call(made)
    theirs = functools.partial(gpu_torch.diffusion_call, sizes, images, side, 19, place.device)
    theirs = gpu_torch.no_diffusers() or theirs
    name = "SD 1.5 on 512 x 512, free UNet, step, bfloat16, remat"
    found = rate(place, name, "images/s", images, call, theirs)
    finite(metrics())
    how = {"free": True, "dtype": jnp.bfloat16, "remat": "blocks"}
    planned = step_bytes(VPDConfig(*sizes), images, (side, side), 19, **how).total / 1e9
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    told = f"planned {planned:.1f} GB" + (f", at most {peak / 1e9:.1f} GB in use" if peak else "")
    yield found._replace(note="; ".join(filter(None, (found.note, told))))
