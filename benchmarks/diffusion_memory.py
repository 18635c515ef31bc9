"""Memory of a step on Stable Diffusion 1.5: what fits a device, and the plan beside XLA's own.

    python -m benchmarks.memory --task=diffusion          the plan, from shapes; a minute or two
    python -m benchmarks.memory --task=diffusion_check    the plan beside XLA's, at small sizes
    python -m benchmarks.memory --task=diffusion_check --full    and at 512 x 512, SD 1.5
    python -m benchmarks.memory --task=diffusion_check --topology=v5e:1x1    by a TPU's compiler

The plan (`clipjax.model.diffusion.memory`) is what a run is refused by before it starts. XLA's is
`memory_analysis` of the step that `clipjax run vpd_driving` takes, compiled for a CPU: nothing is
run, there are no weights. Part of `benchmarks.memory`, which has the figures.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from clipjax.aot.compiled import compile_step
from clipjax.aot.diffusion import abstract_diffusion_step
from clipjax.aot.topology import open_topology
from clipjax.configs import vpd_driving
from clipjax.model.diffusion.memory import GB, step_bytes
from clipjax.model.diffusion.sizes import named_sizes
from clipjax.model.diffusion.unet import UNetConfig
from clipjax.model.diffusion.vae import VAEConfig
from clipjax.model.diffusion.vpd import VPDConfig
from clipjax.study import Segmentation, parse

DEVICES = (16, 24, 40, 80)  # GB
# Of a device: XLA keeps some; a TPU's needs 1.18 of what is planned with remat, and 0.69 without.
ROOM = {"none": 0.9, "blocks": 0.75}
BATCH, CLASSES = 16, 19  # of configs/vpd_driving.py, and of Cityscapes
# Two levels of SD 1.5 with a layer each, and a VAE of which 128 pixels are 64 latents, as 512 are.
LEVELS = (UNetConfig((320, 640), (True, True), (8, 8), 1), VAEConfig((128, 256), 1))
SMALL = (
    UNetConfig((32, 64, 64), (True, True, False), (2, 4, 4), 1, 48, norm_num_groups=8),
    VAEConfig((8, 16, 16, 16), 1, norm_num_groups=8),
)


class Line(NamedTuple):
    """Bytes of a step as a line over images: of a step at once, and of one of several parts."""

    fixed: int
    image: int
    summed: int  # more where gradients of parts are added up

    def images(self, device: float, parts: bool = False) -> int:
        """How many images a step, or a part of one, has room for."""
        return max(0, int((device - self.fixed - parts * self.summed) // self.image))


def line(sizes: tuple, side: int, **how) -> Line:
    """The plan of square images; it is a line, as a test checks."""
    plan = lambda images, **more: (
        step_bytes(VPDConfig(*sizes), images, (side, side), CLASSES, **how, **more).total
    )
    one, two, part = plan(1), plan(2), plan(1, accumulate=2)
    return Line(2 * one - two, two - one, part - one)


def cell(found: Line, device: float) -> str:
    """How many images a step has room for, and in how many parts `BATCH` images go."""
    count = found.images(device)
    if count >= BATCH:
        return f"{count}"
    most = found.images(device, parts=True)
    parts = next((n for n in range(2, BATCH + 1) if not BATCH % n and BATCH // n <= most), 0)
    return f"{count or 'none'}" + (f" ({parts} parts)" if parts else "")


def plan_rows() -> Iterator[str]:
    """The plan as a Markdown table."""
    yield (
        "| UNet | computes in | remat | GB without images | GB an image | "
        + " | ".join(f"{device} GB" for device in DEVICES)
        + " |"
    )
    yield "| --- | --- | --- |" + " ---: |" * (2 + len(DEVICES))
    sizes = named_sizes("sd15")
    for unet, dtype, remat in itertools.product(
        ("frozen", "free"), ("float32", "bfloat16"), ("none", "blocks")
    ):
        found = line(sizes, 512, free=unet == "free", dtype=jnp.dtype(dtype), remat=remat)
        cells = [f"{part / GB:.1f}" for part in found[:2]]
        cells += [cell(found, ROOM[remat] * device * GB) for device in DEVICES]
        yield f"| {unet} | {dtype} | {remat} | {' | '.join(cells)} |"


def config(unet: str, dtype: str, remat: str, images: int, side: int, parts: int) -> Segmentation:
    """`configs/vpd_driving.py` with these."""
    made = vpd_driving.get_config()
    made.diffusion.update(unet=unet, compute_dtype=dtype, remat=remat)
    made.data.crop, made.batch_size, made.accumulate = (side, side), images * parts, parts
    made.width = 256 if side == 512 else 8
    return parse(made.to_dict())


def beside_xla(sizes: tuple, study: Segmentation, topology: str = "") -> tuple[float, float, float]:
    """GB of a step as planned and as XLA says, for a CPU or a TPU, and the seconds that it took."""
    began, about, side = time.perf_counter(), study.diffusion, study.data.crop
    made = abstract_diffusion_step(study, sizes, CLASSES)
    given = made.state, made.batch, *made.shared
    if topology:
        there = open_topology(topology)
        peak = compile_step(made.step, *given[:2], there, *made.shared, fast=True).peak
    else:
        program = jax.jit(made.step, donate_argnums=0).lower(*given).compile()
        memory = program.memory_analysis()
        beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + beside
    how = {"free": about.unet == "free", "dtype": jnp.dtype(about.compute_dtype)}
    how |= {"remat": about.remat, "accumulate": study.accumulate, "width": study.width}
    images = study.batch_size // study.accumulate
    planned = step_bytes(VPDConfig(*sizes), images, side, CLASSES, **how).total
    return planned / GB, peak / GB, time.perf_counter() - began


def check_rows(full: bool, topology: str = "") -> Iterator[str]:
    """The plan and XLA's, row by row.

    On a CPU in float32, as it computes in bfloat16 through copies. Rows with `remat` show that it
    does not recompute: its compiler takes the barriers out, and keeps what is computed twice. A
    TPU's does both, and its optimiser is told to be quick, which costs memory (`FAST`).
    """
    cases = [("small", SMALL, 128, 4, "none", 1), ("small", SMALL, 128, 2, "none", 2)]
    cases += [("small", SMALL, 128, 4, "blocks", 1)]
    if full:
        sizes = named_sizes("sd15")
        cases = [("SD 1.5", sizes, 512, 1, "none", 1)]
    if topology and not full:
        cases = [("two levels", LEVELS, 128, 4, remat, 1) for remat in ("blocks", "none")]
    dtype = "bfloat16" if topology else "float32"
    for name, sizes, side, images, remat, parts in cases:
        for unet in ("free",) if topology else ("frozen", "free"):
            study = config(unet, dtype, remat, images, side, parts)
            planned, found, seconds = beside_xla(sizes, study, topology)
            yield (
                f"{name}, {dtype}, {side} x {side}, UNet {unet}, remat {remat}, "
                f"{parts} x {images} images: planned {planned:.3f} GB, XLA {found:.3f} GB, "
                f"ratio {found / planned:.2f} ({seconds:.0f} s)"
            )
