"""DANN steps under `jax.shard_map` and their like, for tests of several devices and processes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.adapt import dann
from clipjax.adapt.step import init_state, make_step
from clipjax.model.heads import Heads, as_model
from clipjax.train.distributed.sharding import DATA, fetch, place

BATCH, STEPS = 16, 3


def heads_and_batch(padding=np.nan, label=-100):
    """Heads with parameters, and a batch of which 9 source and 5 target rows count.

    The others hold `padding`, and the source's `label`.
    """
    heads, rng = (
        Heads(3, adapter=(8,), classifier=(8,), discriminator=(4,)),
        np.random.default_rng(0),
    )
    params = jax.jit(heads.init)(jax.random.key(0), jnp.zeros((1, 6)))["params"]

    def part(real):
        mask = np.arange(BATCH) < real
        inputs = rng.normal(size=(BATCH, 6)).astype(np.float32)
        return {"inputs": np.where(mask[:, None], inputs, np.float32(padding)), "mask": mask}

    source = part(9)
    labels = np.where(source["mask"], rng.integers(0, 3, BATCH), label).astype(np.int32)
    return heads, jax.device_get(params), {"source": source | {"label": labels}, "target": part(5)}


def make_dann(heads):
    """axis -> DANN on heads."""
    return lambda axis: dann.make_loss(
        as_model(heads), schedule="constant", lam_max=0.7, label_smoothing=0.1
    )


def trainer(make_loss, params, way="jit", devices=1, accumulate=1, frozen=None):
    """batch -> parameters and mean loss after steps of plain SGD, scanned, which shows any factor.

    `way` is "jit", "pmap", "checked" or "unchecked": `jax.shard_map` with or without its checks.
    """
    axis, optimizer = None if way == "jit" else DATA, optax.sgd(0.1)
    step = make_step(
        make_loss(axis),
        optimizer,
        total_steps=STEPS,
        accumulate=accumulate,
        axis_name=axis,
        frozen=frozen,
    )

    def run(state, batch):
        once = lambda s, _: step(s, batch)
        state, metrics = jax.lax.scan(once, state, None, length=STEPS)
        return state.params, metrics["loss"].mean()

    taken = jax.devices()[:devices]
    state = jax.device_get(init_state(params, optimizer, frozen=frozen))
    if way == "jit":
        alone = jax.jit(run)
        return lambda batch: jax.device_get(alone(state, batch))
    if way == "pmap":
        cut = lambda x: x.reshape(devices, -1, *x.shape[1:])
        mapped = jax.pmap(run, DATA, in_axes=(None, 0), out_axes=None, devices=taken)
        return lambda batch: jax.device_get(mapped(state, jax.tree.map(cut, batch)))
    mesh, whole, part = Mesh(np.array(taken), (DATA,)), PartitionSpec(), PartitionSpec(DATA)
    placed = lambda tree, spec: place(tree, jax.tree.map(lambda _: NamedSharding(mesh, spec), tree))
    specs, checked = (whole, part), way == "checked"
    shared = jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=checked)
    )
    return lambda batch: fetch(shared(*map(placed, (state, batch), specs)))


def trained(make_loss, params, batch, *how, **more):
    """What `trainer` gives of one batch."""
    return trainer(make_loss, params, *how, **more)(batch)


def distance(one, other):
    """The largest difference of any two numbers of two trees; NaN where one is."""
    apart = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), one, other)
    return float(np.max(jax.tree.leaves(apart)))
