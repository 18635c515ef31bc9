"""Images per second of the image tower, against transformers' PyTorch CLIP (sdpa attention).

    python -m benchmarks.encode                                  every row; about an hour on 2 cores
    python -m benchmarks.encode --models=tiny --dtypes=float32   some of them

Both sides run in one process, call by call in alternation, PyTorch with the thread count that is
fastest for it on that row; a row prints the median rate of each and the median of the paired ratios
(above 1: clipjax is faster). Weights are random: speed does not depend on them.

What it printed on two processors is in docs/performance.md ("Unfrozen steps").

What limits float32 are the matrix products: 97 % of ViT-B/32's forward pass and nine tenths of its
training step on an AMD EPYC (Zen 3), where they run at PyTorch's rate; on an Intel Xeon (Sapphire
Rapids) they reach 0.6 to 0.8 of it (`benchmarks/products.py`). What else there was to gain: only
the pooled token in the last block (`run_blocks` of `clipjax.model.transformer`; PyTorch's computes
all), weight gradients without Eigen, whose rate halves for some widths, no transposes of
activations for them (`clipjax.model.layers.dense`), attention with heads in front (`attention.py`),
the gradient of layer norm in one piece (`norm.py`).

What limits bfloat16 is how XLA's CPU backend is asked: by default it converts both sides to float32
(`clipjax.model.layers.dense` tells when not, and asks so: 560 to 1,000 GFLOP/s instead of 100 to
150 where the processor has AMX). What is left runs in float32: norms, softmax, the two products of
attention and the activations' loops.

Tried without gain: one product for q, k and v; saving the activation's slope instead of its input
(0 to 10 %, within the noise); XLA's switches for its matrix libraries and schedulers; transposing
weights or activations beforehand in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.timing import alternate, best, synchronised
from clipjax.model.clip import CLIP, CLIPConfig, VisionConfig
from clipjax.model.hf.config import config_to_hf
from clipjax.model.hf.params import abstract_params
from clipjax.runtime.devices import use_cores
from clipjax.runtime.malloc import keep_memory
from clipjax.train.distributed.sharding import batch_mesh, deal_out, replicate

SIZES = {
    "tiny": CLIPConfig(VisionConfig(192, 768, 6, 3, image_size=64, patch_size=8), None, 128),
    "ViT-B/32": CLIPConfig(VisionConfig(768, 3072, 12, 12, patch_size=32), None, 512),
    "ViT-B/16": CLIPConfig(VisionConfig(768, 3072, 12, 12, patch_size=16), None, 512),
}
BATCHES = {"tiny": (32, 128), "ViT-B/32": (16, 64), "ViT-B/16": (4, 16)}


def define_flags() -> None:
    """The command line."""
    flags.DEFINE_list("models", list(SIZES), "Which sizes.")
    flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "What both sides compute in.")
    flags.DEFINE_list("passes", ["forward", "backward"], "backward includes the forward.")
    flags.DEFINE_integer("rounds", 7, "Timed pairs of calls a row.")
    flags.DEFINE_bool("largest", False, "Only the largest batch of each model.")


def jax_call(
    config: CLIPConfig,
    images: np.ndarray,
    dtype: str,
    backward: bool,
    kernel: str | None = None,
) -> Callable:
    """A call of ours that waits for its result."""
    module = CLIP(config, jnp.dtype(dtype), kernel)
    rng = np.random.default_rng(0)
    make = lambda x: jnp.asarray(rng.normal(0, 0.02, x.shape), jnp.float32)
    params = jax.tree.map(make, abstract_params(config))

    def embed(params, images):
        return module.apply({"params": params}, images, method="encode_image")

    def loss(params, images):
        return jnp.mean(embed(params, images) ** 2)

    mesh = batch_mesh(len(images))
    params, images = replicate(params, mesh), deal_out(images, mesh)
    run = jax.jit(jax.grad(loss) if backward else embed)
    return lambda: jax.block_until_ready(run(params, images))


def torch_call(
    config: CLIPConfig,
    images: np.ndarray,
    dtype: str,
    backward: bool,
    device: str = "cpu",
    compiled: bool = False,
) -> Callable:
    """The same of transformers; `compiled`: through `torch.compile`."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    data = config_to_hf(config)
    kept = {k: v for k, v in data.items() if k not in ("architectures", "model_type")}
    place = {"device": device, "dtype": getattr(torch, dtype)}
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**kept, attn_implementation="sdpa"))
    tower = tower.to(**place)
    model = torch.compile(tower) if compiled else tower
    pixels = torch.tensor(images.transpose(0, 3, 1, 2)).to(**place)

    def forward():
        with torch.inference_mode():
            model(pixel_values=pixels)

    def both():
        tower.zero_grad(set_to_none=True)
        model(pixel_values=pixels).image_embeds.float().square().mean().backward()

    return synchronised(both if backward else forward, device)


def compare(name: str, batch: int, dtype: str, backward: bool, rounds: int) -> str:
    """Times one row."""
    import torch

    config = SIZES[name]
    shape = (batch, config.vision.image_size, config.vision.image_size, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours, theirs = (make(config, images, dtype, backward) for make in (jax_call, torch_call))
    ours()  # compiles
    _, threads = best([theirs])
    torch.set_num_threads(threads)
    pairs = alternate(ours, theirs, rounds)
    rates = [batch / side for side in pairs.seconds]
    what = "forward+backward" if backward else "forward"
    return (
        f"{name:9} {what:17} {dtype:9} {batch:5} {rates[0]:9.1f} {rates[1]:9.1f} "
        f"{pairs.ratio:7.2f}  {pairs.least:.2f}..{pairs.most:.2f}  {threads}"
    )


def main(argv: list[str]) -> None:
    """Prints a row for every combination the flags ask for."""
    del argv
    given = flags.FLAGS
    keep_memory()  # for both sides
    use_cores()
    print(f"{'model':9} {'pass':17} {'dtype':9} batch     jax/s   torch/s   ratio  range  threads")
    for name in given.models:
        for batch in BATCHES[name][-1:] if given.largest else BATCHES[name]:
            for dtype in given.dtypes:
                for what in given.passes:
                    row = compare(name, batch, dtype, what == "backward", given.rounds)
                    print(row, flush=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
