"""What `benchmarks.gpu` works with: the machine, sizes, random states, and its rows as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.timing import alternate, median
from clipjax.model.clip import CLIPConfig, TextConfig, VisionConfig
from clipjax.model.diffusion.sizes import named_sizes
from clipjax.model.diffusion.unet import UNetConfig
from clipjax.model.diffusion.vae import VAEConfig
from clipjax.model.shapes import named_shape

PyTree = Any
NOT_RUN = "not run yet"
MODELS = {"ViT-B/16": "vit_b16", "ViT-L/14": "vit_l14"}
TINY = CLIPConfig(
    VisionConfig(64, 128, 2, 2, image_size=32, patch_size=16),
    TextConfig(64, 128, 2, 2, vocab_size=64, max_position_embeddings=16, eos_token_id=63),
    32,
)
TINY_DIFFUSION = (
    UNetConfig((16, 32), (False, True), (2, 4), 1, 24, norm_num_groups=8),
    VAEConfig((8, 16), 1, norm_num_groups=8),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where it runs: a GPU at full sizes, or a CPU at tiny ones."""

    dry: bool
    torch: str  # why PyTorch is not there; "" if it is
    rounds: int = 15  # timed calls of a row

    @property
    def models(self) -> Sequence[str]:
        """The names of the CLIPs; a dry run takes one."""
        return list(MODELS)[: 1 if self.dry else None]

    @property
    def device(self) -> str:
        """What PyTorch calls the device."""
        return "cpu" if self.dry else "cuda"

    def shape(self, model: str) -> CLIPConfig:
        """The sizes of a CLIP."""
        return TINY if self.dry else named_shape(MODELS[model])

    def diffusion(self) -> tuple[UNetConfig, VAEConfig]:
        """The sizes of a Stable Diffusion."""
        return TINY_DIFFUSION if self.dry else named_sizes("sd15")

    def size(self, full: int, tiny: int) -> int:
        """One of two numbers."""
        return tiny if self.dry else full


class Check(NamedTuple):
    """A number on the device beside the CPU's in float32."""

    name: str
    error: float
    allowed: float

    @property
    def good(self) -> bool:
        """Whether it holds; NaN does not."""
        return self.error <= self.allowed


class Rate(NamedTuple):
    """How fast something is on both sides; more is better."""

    name: str
    unit: str
    ours: float
    torch: float | None = None  # as it stands, with sdpa attention
    compiled: float | None = None  # through `torch.compile`
    note: str = ""  # why a number is missing, and what else there is to say


# Section -> names of its rows, for the tables of a run that has not been.
KINDS = (
    "float32, products in full precision",
    "float32, JAX's default (TF32)",
    "bfloat16",
    "bfloat16, cuDNN's attention",
)
STEP = "unfrozen DANN step, float32 in full precision: loss and gradient's norm"
STACK = "8 runs stacked: losses of 8 steps"
CHECKS = {
    "parity": [f"{model}, both towers, {kind}" for model in MODELS for kind in KINDS],
    "dann": [f"ViT-B/16, {STEP}"],
    "cached": [STACK],
    "diffusion": ["SD step, small, float32 in full precision: loss and gradient's norm"],
}
RATES = {
    "cached": [
        "8 DANN runs on cached features, stacked",
        "the same one after the other",
    ],
    "encode": [
        *(f"{model}, features, bfloat16" for model in MODELS),
        *(f"{model}, features, bfloat16, cuDNN's attention" for model in MODELS),
    ],
    "dann": [
        f"{model}, {how} DANN step, bfloat16" for model in MODELS for how in ("frozen", "unfrozen")
    ],
    "dense": ["CLIP ViT-B/16 on 512 x 512, step, bfloat16"],
    "diffusion": ["SD 1.5 on 512 x 512, free UNet, step, bfloat16, remat"],
}


def filled(shapes: PyTree, seed: int = 0) -> PyTree:
    """Arrays of some shapes: small random parameters and inputs, zeros for an optimizer's state."""
    rng = np.random.default_rng(seed)
    block = rng.standard_normal(1 << 20, np.float32)

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        kind = np.dtype(x.dtype)
        if name.endswith("['mask']"):
            return np.ones(x.shape, kind)
        if name.endswith("['inputs']") and kind == np.uint8:
            return rng.integers(0, 256, x.shape, np.uint8)
        if name.endswith("['label']"):
            return rng.integers(0, 2, x.shape).astype(kind)
        if ".opt_state" in name or not np.issubdtype(kind, np.floating):
            return np.zeros(x.shape, kind)
        if "scale" in name:
            return np.ones(x.shape, kind)
        spread = 1.0 if name.endswith(("['inputs']", "['embedding']")) else 0.02
        return (spread * np.resize(np.roll(block, x.size), x.shape)).astype(kind)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def step_call(made: Any) -> tuple[Callable, Callable]:
    """A call that takes one step of an `AbstractStep`, from a random state, and waits.

    Also what gives the metrics of the last one.
    """
    run = jax.jit(made.step, donate_argnums=0)
    state, batch = jax.device_put((filled(made.state), filled(made.batch, 1)))
    shared, found = jax.device_put(filled(made.shared, 2)), {}

    def call():
        nonlocal state, found
        state, found = jax.block_until_ready(run(state, batch, *shared))

    return call, lambda: {name: float(x) for name, x in found.items()}


def apart(found: PyTree, wanted: PyTree) -> float:
    """The norm of the difference of two trees over that of the second."""
    flat = lambda tree: np.concatenate(
        [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
    )
    found, wanted = flat(found), flat(wanted)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def rate(
    place: Place, name: str, unit: str, amount: float, ours: Callable, *theirs: Callable | str
) -> Rate:
    """Time a call beside PyTorch's, as it stands and compiled, or say why these are missing."""
    found, notes = [], []
    for make in theirs:
        if place.torch or isinstance(make, str):
            notes.append(place.torch or make)
            found.append(None)
            continue
        pairs = alternate(ours, make(), place.rounds)
        found.append(amount / pairs.seconds[1])
        mine = amount / pairs.seconds[0]
    if not any(found):
        mine = amount / median(ours, place.rounds)
    note = "; ".join(dict.fromkeys(filter(None, notes)))  # each reason once
    return Rate(name, unit, mine, *found, *[None] * (2 - len(found)), note)


def tables(found: dict[str, dict]) -> str:
    """The rows of `benchmarks.gpu`'s JSON as two Markdown tables; `NOT_RUN` where there is none."""
    lines = [
        "| on the device, against the CPU in float32 | error | allowed |",
        "| --- | ---: | ---: |",
    ]
    for name, row, missing in _rows(found, CHECKS):
        told = missing if row is None else f"{row['error']:.1e}"
        allowed = "" if row is None else f"{row['allowed']:.0e}"
        lines.append(f"| {name} | {told} | {allowed} |")
    lines += [
        "",
        "| | clipjax | PyTorch, sdpa | ratio | with `torch.compile` | ratio | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, row, missing in _rows(found, RATES):
        if row is None:
            lines.append(f"| {name} | {' | '.join([missing] * 5)} | |")
            continue
        cells = [f"{row['ours']:,.1f} {row['unit']}"]
        for key in ("torch", "compiled"):
            other = row[key]
            cells += ["", ""] if other is None else [f"{other:,.1f}", f"{row['ours'] / other:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['note']} |")
    return "\n".join(lines)


def _rows(found: dict[str, dict], names: dict[str, list[str]]) -> Iterator[tuple]:
    """Name, row or None, and what stands in its place."""
    for section, each in names.items():
        part = found.get(section, {})
        rows = {row["name"]: row for row in part.get("rows", ())}
        missing = part.get("skipped") or ("failed" if part.get("error") else NOT_RUN)
        for name in each:
            yield name, rows.get(name), missing
