"""Peak memory: loading a full-size model, encoding 80 prompts for 345 classes, training stages.

    python -m benchmarks.memory                every row; some minutes, the prompts the most
    python -m benchmarks.memory --classes=8    the prompts of fewer classes
    python -m benchmarks.memory --task=stages --shape=vit_b16    the training stages of one model
    python -m benchmarks.memory --task=prompt_step               a step of CoOp with 1,000 classes
    python -m benchmarks.memory --task=diffusion                 what of SD 1.5 fits which device
    python -m benchmarks.memory --task=diffusion_check [--full]  that plan beside XLA's own

Every row is a process of its own, on the CPU, with random weights. Loading counts from where the
imports ended, prompts count everything; Linux only. Of the training stages the compiler's plan is
shown (`benchmarks.stages`), nothing is run.

Measured (jax 0.10.2):

    ViT-L/14 stored in float32                     1.71 GB of parameters, peak 1.95 GB: 1.14 times
    ViT-L/14 stored in float16                     0.86 GB of parameters, peak 1.01 GB: 1.18 times
    ViT-L/14 stored in float16, asked for float32  1.71 GB of parameters, peak 1.99 GB: 1.17 times
    ViT-B/32, 8 classes x 80 prompts               1.30 GB in all
    ViT-B/32, 345 classes x 80 prompts             1.39 GB in all (9 minutes on 2 cores)

Training stages, 8 images a domain, float32, MB: parameters of the encoder, its moments, temporaries
(activations and gradients), and the peak of all:

                                      ViT-B/16                      ViT-L/14
    frozen head, cached features      0, 0, 1: 3                    0, 0, 2: 4
    frozen DANN, cached features      0, 0, 3: 8                    0, 0, 4: 9
    frozen DANN, augmented pixels     345, 0, 88: 440               1216, 0, 169: 1393
    unfrozen two-stage DANN           345, 690, 3866: 4907          1216, 2432, 14377: 18032

So frozen stages hold neither gradients nor moments of the encoder, and no activations for a
backward pass; on cached features not even the encoder.

A step of CoOp with 16 vectors and 1,000 classes on ViT-B/16's text tower, 32 cached images, one
seed: planned at 0.81 GB, 0.56 of it temporary, with 64 classes at a time, and 1.51 GB of memory in
all where it ran; planned at 10.48 GB with all classes at once (`benchmarks.prompt_step`).

The prompts needed 2.8 GB with the parameters as constants of the compiled program, 2.1 GB with
batches of 256 texts, 1.6 GB with 128.
"""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
from absl import app, flags

from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.hf.hub import TINY, copy_tokenizer
from clipjax.model.hf.load import load_clip, save_clip
from clipjax.model.hf.params import abstract_params
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.shapes import SHAPES
from clipjax.model.text import zero_shot_classifier

SIZES = {"ViT-L/14": SHAPES["vit_l14"], "ViT-B/32": SHAPES["vit_b32"]}

_CLASSES = flags.DEFINE_integer("classes", 345, "Classes whose 80 prompts are encoded.")
TASKS = "build", "load", "prompts", "stages", "prompt_step", "diffusion", "diffusion_check"
_TASK = flags.DEFINE_enum("task", "", ["", *TASKS], "Of a started process.")
_MODEL = flags.DEFINE_enum("model", "ViT-B/32", list(SIZES), "What a started process builds.")
_SHAPE = flags.DEFINE_string("shape", "vit_b16", "Whose training stages a started process plans.")
_DIRECTORY = flags.DEFINE_string("directory", "", "Where a started process finds the model.")
_FULL = flags.DEFINE_bool("full", False, "diffusion_check at the sizes of SD 1.5: minutes a row.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "diffusion_check by the compiler of a TPU, v5e:1x1."
)
_DTYPE = flags.DEFINE_string("dtype", "", "What a started process stores or asks for.")


def peak() -> int:
    """Bytes this process ever had in memory at once.

    Not `resource.getrusage`: a child's record there starts at the peak of the process it was
    forked from.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def build(directory: pathlib.Path, config: CLIPConfig, dtype: str) -> None:
    """A random model, with the embedded model's tokenizer."""
    rng = np.random.default_rng(0)
    leaf = lambda x: (0.02 * rng.standard_normal(x.shape, np.float32)).astype(dtype)
    save_clip(directory, config, jax.tree.map(leaf, abstract_params(config)))
    copy_tokenizer(TINY, directory)


def load(directory: pathlib.Path, dtype: str | None) -> str:
    """What loading takes beside the imports."""
    before = peak()
    _, params = load_clip(directory, dtype=dtype)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    took = peak() - before
    return (
        f"{size / 1e9:.2f} GB of parameters, peak {took / 1e9:.2f} GB: {took / size:.2f} times "
        "(below 1.3 is promised)"
    )


def prompts(directory: pathlib.Path, classes: int) -> str:
    """What zero-shot weights take, imports and both towers' parameters included."""
    config, params = load_clip(directory, dtype="float32")
    run = jax.jit(functools.partial(CLIP(config).apply, method="encode_text"))
    names = [f"thing number {i}" for i in range(classes)]
    weights = zero_shot_classifier(
        functools.partial(run, {"params": params}), load_tokenizer(directory), names, "ensemble"
    )
    jax.block_until_ready(weights)
    return f"{classes} classes x 80 prompts: {peak() / 1e9:.2f} GB in all (below 2 is promised)"


def start(task: str, directory: str, *options: str) -> None:
    """Runs a task in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", f"--task={task}"]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, f"--directory={directory}", *options], check=True, env=env)


def measure() -> None:
    """Every row, in processes."""
    for stored, asked in (("float32", ""), ("float16", ""), ("float16", "float32")):
        with tempfile.TemporaryDirectory() as directory:
            start("build", directory, "--model=ViT-L/14", f"--dtype={stored}")
            print(f"ViT-L/14 stored in {stored}, asked for {asked or stored}", flush=True)
            start("load", directory, f"--dtype={asked}")
    with tempfile.TemporaryDirectory() as directory:
        start("build", directory, "--model=ViT-B/32", "--dtype=float32")
        print("ViT-B/32", flush=True)
        start("prompts", directory, f"--classes={_CLASSES.value}")
    for shape in ("vit_b16", "vit_l14"):
        start("stages", "", f"--shape={shape}")
    print("CoOp on ViT-B/16's text tower", flush=True)
    start("prompt_step", "")
    print("Stable Diffusion 1.5 on 512 x 512", flush=True)
    start("diffusion", "")
    start("diffusion_check", "")


def main(argv: list[str]) -> None:
    """Does the task of a started process, or all of them."""
    del argv
    directory = pathlib.Path(_DIRECTORY.value)
    if _TASK.value == "build":
        build(directory, SIZES[_MODEL.value], _DTYPE.value)
    elif _TASK.value == "load":
        print(load(directory, _DTYPE.value or None), flush=True)
    elif _TASK.value == "stages":
        from benchmarks.stages import rows

        for line in rows(_SHAPE.value):
            print(line, flush=True)
    elif _TASK.value == "prompt_step":
        from benchmarks.prompt_step import rows

        for line in rows(peak):
            print(line, flush=True)
    elif _TASK.value in ("diffusion", "diffusion_check"):
        from benchmarks.diffusion_memory import check_rows, plan_rows

        lines = plan_rows()
        if _TASK.value == "diffusion_check":
            lines = check_rows(_FULL.value, _TOPOLOGY.value)
        for line in lines:
            print(line, flush=True)
    elif _TASK.value == "prompts":
        print(prompts(directory, _CLASSES.value), flush=True)
    else:
        measure()


if __name__ == "__main__":
    app.run(main)
