"""Memory of a step of CoOp with many classes: as XLA's CPU compiler plans it, and as it runs.

    python -m benchmarks.memory --task=prompt_step

16 vectors for 1,000 classes on ViT-B/16's text tower, with random weights, a batch of 32 cached
image features, one seed, float32. Part of `benchmarks.memory`, which has the figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax.adapt import coop
from clipjax.adapt.context import CHUNK
from clipjax.adapt.method import Classes
from clipjax.adapt.step import init_state, make_step
from clipjax.model.backbone import make_backbone, tower_params
from clipjax.model.clip import CLIP
from clipjax.model.hf.params import abstract_params
from clipjax.model.shapes import named_shape

CLASSES, CONTEXT, BATCH, NAME = 1000, 16, 32, 4  # NAME: tokens of a name


def classes_of(config) -> Classes:
    """Classes of random names."""
    names = np.random.default_rng(0).integers(1, 40_000, (CLASSES, NAME + 3))
    names[:, 0], names[:, -1] = config.text.bos_token_id, config.text.eos_token_id
    weights = np.zeros((CLASSES, config.projection_dim), np.float32)
    return Classes(tuple(map(str, range(CLASSES))), None, weights, 100.0, names.astype(np.int32))


def rows(peak: Callable[[], int], shape: str = "vit_b16") -> Iterator[str]:
    """A line for all classes at once, planned, and for chunks of them, planned and run."""
    config = named_shape(shape)
    backbone = make_backbone(CLIP(config), lambda pixels, rng: pixels, ("image",))
    towers = {"clip": tower_params(abstract_params(config), ("text",))}
    inputs = jnp.zeros((BATCH, config.projection_dim)).at[:, 0].set(1.0)
    batch = {"source": {"inputs": inputs, "label": jnp.zeros(BATCH, jnp.int32)}}
    for chunk in (CLASSES, CHUNK):
        made = coop.make_method(backbone, classes_of(config), context=CONTEXT, chunk=chunk)
        optimizer = optax.sgd(2e-3)
        step = make_step(made.loss, optimizer, total_steps=1)
        state = init_state(made.init(jax.random.key(0)), optimizer)
        program = jax.jit(step).lower(state, batch, towers).compile()
        memory = program.memory_analysis()
        whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        text = f"{CLASSES} classes x {CONTEXT} vectors, {chunk} at a time"
        yield (
            f"{text}: planned {whole / 1e9:.2f} GB, {memory.temp_size_in_bytes / 1e9:.2f} of it "
            f"temporary; estimated {made.step_bytes(BATCH) / 1e9:.2f} GB for texts"
        )
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32))
    params, began = jax.tree.map(draw, towers), time.perf_counter()
    _, metrics = jax.block_until_ready(program(state, batch, params))
    took, loss = time.perf_counter() - began, float(metrics["loss"])
    assert np.isfinite(loss), loss
    yield f"{text}: {took:.0f} s a step, {peak() / 1e9:.2f} GB of memory in all"
