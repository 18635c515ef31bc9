"""Matrix products of the image towers alone, XLA's CPU backend against PyTorch, in GFLOP/s.

    python -m benchmarks.products        about a minute

Most of a tower's time is in products, so this is what limits it (`benchmarks/encode.py`): the
forward ones, those for the gradient of the inputs (weights transposed) and those for the gradient
of the weights (activations transposed; as JAX asks for it, and as the towers do, with the narrower
side transposed in memory, `clipjax.model.layers.dense.kernel_gradient`). float32, the shapes of a
batch of 128 through the embedded model and of 32 through ViT-B/32, both sides in one process in
alternation on all cores; medians, and the median of the paired ratios (above 1: XLA is faster).

Measured (2 cores of an Intel Xeon, Sapphire Rapids; jax 0.10.2, torch 2.13.0 with its MKL; four
runs of `--rounds=9` or 15; range of the medians over the runs):

    model     product          XLA GFLOP/s   PyTorch GFLOP/s   ratio
    tiny      forward             71 - 115         102 - 176   0.47 - 0.87
    tiny      input gradient     106 - 126         168 - 177   0.61 - 0.71
    tiny      weight gradient     85 - 116         141 - 159   0.61 - 0.73
    ViT-B/32  forward            125 - 162         192 - 226   0.65 - 0.71
    ViT-B/32  input gradient     126 - 144         188 - 211   0.65 - 0.77
    ViT-B/32  weight gradient    117 - 154         152 - 187   0.74 - 0.81

    2 cores of an AMD EPYC (Zen 3, no AVX-512; `--rounds=15`, two runs):
    tiny      forward              94 - 96         107 - 114   0.84 - 0.87
    tiny      input gradient       77 - 99          98 - 101   0.77 - 0.95
    tiny      weight gradient           82         109 - 118   0.71 - 0.75
    tiny      the same, turned     86 - 90         111 - 118   0.72 - 0.80
    ViT-B/32  forward            118 - 132         111 - 118   1.07 - 1.12
    ViT-B/32  input gradient     102 - 122         117 - 123   0.86 - 0.99
    ViT-B/32  weight gradient    106 - 110         110 - 114   0.90 - 0.96
    ViT-B/32  the same, turned   111 - 122         109 - 111   1.00 - 1.08

On the Xeon PyTorch's products are about 1.5 times as fast as XLA's, and no tower made of them can
be as fast as PyTorch's. (Here each product has both cores; towers train on two devices, each with
half of the batch.) XLA_FLAGS that were tried on the Xeon without a difference beyond this noise:
--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT (the compiled program
shows that it is used), --xla_cpu_use_xnnpack with its fusion types, --xla_cpu_use_onednn.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.timing import alternate
from clipjax.model.layers.dense import kernel_gradient
from clipjax.runtime.malloc import keep_memory

# Examples x tokens, widths of the two sides of the larger layer of a block.
SHAPES = {"tiny": (128 * 65, 192, 768), "ViT-B/32": (32 * 50, 768, 3072)}
KINDS = {
    "forward": "nd,dm->nm",
    "input gradient": "nm,dm->nd",
    "weight gradient": "nd,nm->dm",
    "the same, turned": "nd,nm->dm",
}

_ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed pairs of calls a row.")


def operands(spec: str, sizes: dict[str, int]) -> list[np.ndarray]:
    """Two random matrices, float32."""
    rng = np.random.default_rng(0)
    sides = spec.split("->")[0].split(",")
    return [rng.standard_normal([sizes[axis] for axis in s], np.float32) for s in sides]


def calls(kind: str, sizes: dict[str, int]) -> tuple[Callable, Callable]:
    """The product by XLA and by PyTorch; each call waits for its result."""
    import torch

    spec = KINDS[kind]
    arrays = operands(spec, sizes)
    ours, theirs = [jnp.asarray(x) for x in arrays], [torch.from_numpy(x) for x in arrays]
    turned = kind == "the same, turned"
    run = jax.jit(kernel_gradient if turned else lambda a, b: jnp.einsum(spec, a, b))
    return (
        lambda: jax.block_until_ready(run(*ours)),
        lambda: torch.einsum(spec, *theirs),
    )


def row(name: str, kind: str, rounds: int) -> str:
    """Times one product on both sides."""
    sizes = dict(zip("ndm", SHAPES[name], strict=True))
    sides = calls(kind, sizes)
    pairs = alternate(*sides, rounds)
    work = 2e-9 * sizes["n"] * sizes["d"] * sizes["m"]
    rates = [work / side for side in pairs.seconds]
    return f"{name:9} {kind:16} {rates[0]:8.0f} {rates[1]:8.0f} {pairs.ratio:7.2f}"


def main(argv: list[str]) -> None:
    """Prints a row for every product."""
    del argv
    import torch

    keep_memory()  # for both sides
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{'model':9} {'product':16} {'jax':>8} {'torch':>8}   ratio")
    for name in SHAPES:
        for kind in KINDS:
            print(row(name, kind, _ROUNDS.value), flush=True)


if __name__ == "__main__":
    app.run(main)
