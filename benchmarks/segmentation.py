"""Images per second of dense backbones, against transformers' PyTorch (sdpa attention), float32.

    python -m benchmarks.segmentation                     every row; about 3 minutes on 2 cores
    python -m benchmarks.segmentation --models=ResNet-50  one of them

Rows are the embedded CLIP on scenes of 96 pixels, DINOv2-S/14 and ResNet-50 on 224; "forward" is
images to the last map, "step" a whole training step: map, linear classifier, logits brought to the
size of the images (bilinear), cross-entropy of pixels, gradients of all parameters, AdamW. Batch
norms keep their statistics on both sides. Weights are random: speed does not depend on them.

Both sides run in one process, call by call in alternation, PyTorch with the thread count that is
fastest for it on that row and channels last where that is faster; a row prints the median rate of
each and the median of the paired ratios (above 1: clipjax is faster).

Measured on 2 cores of an AMD EPYC (Zen 4) that other work shared (--rounds=5; the rates are of that
company, the ratios of pairs in turn):

    tiny CLIP  forward    123.5 images/s, PyTorch 93.9, ratio 1.36 (1.18 to 1.50)
    tiny CLIP  step        38.6 images/s, PyTorch 30.1, ratio 1.34 (1.16 to 1.53)
    DINOv2-S   forward     11.2 images/s, PyTorch  8.7, ratio 1.28 (1.15 to 1.39)
    DINOv2-S   step         3.2 images/s, PyTorch  2.7, ratio 1.17 (1.14 to 1.20)
    ResNet-50  forward     16.3 images/s, PyTorch 14.5, ratio 1.15 (1.11 to 1.24)
    ResNet-50  step         4.3 images/s, PyTorch  4.0, ratio 1.07 (1.06 to 1.18)

What limits them are products: of the devices' time YNNPACK has 90 to 93 % in forward passes, 80 to
85 % in the ViTs' steps and three quarters in the ResNet's, whose convolutions and products reach 70
to 80 GFLOP/s a core (90 alone). The rest of that step: sums of gradients over devices
and waiting for them 7 %, transposing for gradients of kernels 7 %, AdamW 3 %, elementwise loops.
`docs/performance.md` says what brought the ResNet here from 0.98 and 0.53. Resizing the logits and
the loss of pixels, gradient included, take 10 ms of a core for the tiny CLIP's 32 scenes; they were
15 with a gather in place of a sum over classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.timing import alternate, best, synchronised
from clipjax.adapt.pixels import pixel_cross_entropy
from clipjax.model.clip import VisionConfig
from clipjax.model.decoders import resize_map
from clipjax.model.dinov2 import DINOv2, DINOv2Config
from clipjax.model.maps import DenseTower
from clipjax.model.resnet import ResNet, ResNetConfig
from clipjax.runtime.devices import use_cores
from clipjax.runtime.malloc import keep_memory
from clipjax.train.distributed.sharding import batch_mesh, deal_out, replicate

PyTree = Any


class Row(NamedTuple):
    """What is timed."""

    config: Any
    batch: int
    size: int  # of the images, in pixels
    classes: int
    dtype: str = "float32"  # of the computation; parameters are float32


ROWS = {
    "tiny CLIP": Row(VisionConfig(192, 768, 6, 3, image_size=64, patch_size=8), 32, 96, 6),
    "DINOv2-S": Row(
        DINOv2Config(384, 1536, 12, 6, "gelu", 1e-6, image_size=518, grid=37, patch_size=14),
        8, 224, 19,
    ),
    "ResNet-50": Row(ResNetConfig(), 8, 224, 19),
}  # fmt: skip


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_list("models", list(ROWS), "Which backbones.")
    flags.DEFINE_list("passes", ["forward", "step"], "What is timed.")
    flags.DEFINE_integer("rounds", 7, "Timed pairs of calls a row.")


class Ours(nn.Module):
    """A backbone's last map, [B, H, W, 3] -> [B, h, w, C], and a linear classifier of it."""

    row: Row

    def setup(self):
        kinds = {VisionConfig: DenseTower, DINOv2Config: DINOv2, ResNetConfig: ResNet}
        self.tower = kinds[type(self.row.config)](self.row.config, jnp.dtype(self.row.dtype))
        self.classifier = nn.Dense(self.row.classes)

    def maps(self, images: jax.Array) -> jax.Array:
        if isinstance(self.row.config, VisionConfig):
            return self.tower(images)[1]
        return self.tower(images, levels=(self.row.config.num_hidden_layers,))[1][0]

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.classifier(self.maps(images))


def jax_call(row: Row, images: np.ndarray, labels: np.ndarray, step: bool) -> Callable:
    """A call of ours that waits for its result."""
    module = Ours(row)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    make = lambda x: jnp.asarray(rng.normal(0, 0.02, x.shape), jnp.float32)
    params, optimizer = jax.tree.map(make, shapes["params"]), optax.adamw(1e-4)
    mesh = batch_mesh(len(images))
    images, labels = deal_out((images, labels), mesh)
    if not step:
        params = replicate(params, mesh)
        forward = jax.jit(lambda p, x: module.apply({"params": p}, x, method="maps"))
        return lambda: jax.block_until_ready(forward(params, images))

    def loss(params, images, labels):
        logits = module.apply({"params": params}, images)
        return pixel_cross_entropy(resize_map(logits, labels.shape[1:]), labels)

    @jax.jit(donate_argnums=0)
    def update(state, images, labels):
        value, gradients = jax.value_and_grad(loss)(state[0], images, labels)
        changes, kept = optimizer.update(gradients, state[1], state[0])
        return (optax.apply_updates(state[0], changes), kept), value

    state = replicate((params, optimizer.init(params)), mesh)

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(update(state, images, labels))

    return call


def torch_maps(row: Row) -> tuple[Any, Callable]:
    """A model of transformers, and its last map [B, C, h, w] of pixels [B, 3, H, W]."""
    import transformers

    config, side = row.config, row.size // row.config.patch_size
    if isinstance(config, ResNetConfig):
        model = transformers.ResNetModel(transformers.ResNetConfig())
        return model, lambda pixels: model(pixel_values=pixels).last_hidden_state
    shared = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.hidden_act,
        "attn_implementation": "sdpa",
    }
    if isinstance(config, DINOv2Config):
        model = transformers.Dinov2Model(transformers.Dinov2Config(**shared))
        states = lambda pixels: model(pixel_values=pixels).last_hidden_state
    else:
        sizes = shared | {"intermediate_size": config.intermediate_size}
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes))
        whole = lambda pixels: model(pixel_values=pixels, interpolate_pos_encoding=True)
        states = lambda pixels: model.post_layernorm(whole(pixels).last_hidden_state)
    return model, lambda x: states(x)[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def torch_call(
    row: Row,
    images: np.ndarray,
    labels: np.ndarray,
    step: bool,
    last: bool,
    device: str = "cpu",
    compiled: bool = False,
) -> Callable:
    """The same of transformers; `last`: channels last in memory; `compiled`: `torch.compile`."""
    import torch

    torch.manual_seed(0)
    model, maps = torch_maps(row)
    layout = torch.channels_last if last else torch.contiguous_format
    place = {"device": device, "memory_format": layout}
    model = model.eval().to(**place)  # no dropout; norms keep their statistics
    pixels = torch.tensor(images.transpose(0, 3, 1, 2)).to(**place)
    targets = torch.tensor(labels.astype(np.int64), device=device)
    classifier = torch.nn.Conv2d(row.config.hidden_size, row.classes, 1).to(**place)
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=1e-4)
    half = row.dtype == "bfloat16"
    cast = lambda: torch.autocast(device, torch.bfloat16, enabled=half)
    maps = torch.compile(maps) if compiled else maps

    def forward():
        with torch.inference_mode(), cast():
            maps(pixels)

    def update():
        optimizer.zero_grad(set_to_none=True)
        with cast():
            logits = classifier(maps(pixels))
        logits = torch.nn.functional.interpolate(
            logits.float(), size=targets.shape[1:], mode="bilinear"
        )
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()

    return synchronised(update if step else forward, device)


def compare(name: str, row: Row, step: bool, rounds: int) -> str:
    """Times one row."""
    import torch

    rng = np.random.default_rng(0)
    images = rng.normal(size=(row.batch, row.size, row.size, 3)).astype(np.float32)
    labels = rng.integers(0, row.classes, images.shape[:3]).astype(np.uint8)
    ours = jax_call(row, images, labels, step)
    ours()  # compiles
    layouts = (False, True) if isinstance(row.config, ResNetConfig) else (False,)
    ways = [torch_call(row, images, labels, step, last) for last in layouts]
    theirs, threads = best(ways)
    torch.set_num_threads(threads)
    pairs = alternate(ours, theirs, rounds)
    rates = [row.batch / side for side in pairs.seconds]
    return (
        f"{name:10} {'step' if step else 'forward':8} {row.batch:5} {rates[0]:9.1f} "
        f"{rates[1]:9.1f} {pairs.ratio:7.2f}  {pairs.least:.2f}..{pairs.most:.2f}  {threads}"
    )


def main(argv: list[str]) -> None:
    """Prints a row for every combination the flags ask for."""
    del argv
    keep_memory()  # for both sides
    use_cores()
    print(f"{'model':10} {'pass':8} batch     jax/s   torch/s   ratio  range  threads")
    for name in flags.FLAGS.models:
        for what in flags.FLAGS.passes:
            print(compare(name, ROWS[name], what == "step", flags.FLAGS.rounds), flush=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
