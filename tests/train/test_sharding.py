"""Batches dealt out over devices: the numbers of one device, on 2, 4 and 8 simulated ones."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from clipjax.train.checkpoint import Checkpointer
from clipjax.train.sharding import batch_mesh, deal_out, placed, replicate, sharing
from tests.conftest import REPO

# Twenty steps of DANN on a CLIP whose image tower trains, then the state saved on 8 devices and
# read back on 1, 2 and 4. One process: the meshes are parts of the same 8 devices.
SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np, optax
from clipjax.adapt.dann import make_loss
from clipjax.adapt.step import init_state, make_step
from clipjax.model.clip import CLIP
from clipjax.model.heads import Heads, init_heads
from clipjax.model.network import make_network, needed_clip
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.sharding import batch_mesh, deal_out, placed, replicate, sharing
from tests.conftest import random_params, small_config

config = small_config()
params = random_params(config)
heads = Heads(3, adapter=(8,), classifier=(8,), discriminator=(8,))
network = make_network(CLIP(config), lambda pixels, rng: pixels / 255.0, heads, tokens=None)
start = init_heads(heads, jax.random.key(0), jnp.zeros((1, 16)), jnp.zeros((3, 16)), 1.0)
start = start | {"clip": needed_clip(heads, params)}
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.02, momentum=0.9))
loss = make_loss(network.pixel_model)
rng = np.random.default_rng(0)

def batch(size=16):
    pixels = lambda: rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8)
    label, mask = rng.integers(0, 3, size).astype(np.int32), np.arange(size) < size - 3
    return {"source": {"inputs": pixels(), "label": label, "mask": mask},
            "target": {"inputs": pixels()}}

batches, losses = [batch() for _ in range(20)], {}
for count in (1, 2, 4, 8):
    mesh = batch_mesh(16, jax.devices()[:count])
    step = jax.jit(make_step(loss, optimizer, total_steps=20))
    state = replicate(init_state(start, optimizer), mesh)
    losses[count] = []
    for one in batches:
        state, metrics = step(state, deal_out(one, mesh))
        losses[count].append(float(metrics["loss"]))
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(20, state)
want, same = jax.device_get(state), {}
for count in (1, 2, 4):
    like = replicate(init_state(start, optimizer), batch_mesh(16, jax.devices()[:count]))
    with Checkpointer(sys.argv[1]) as checkpointer:
        found, _ = checkpointer.restore(like)
    where = {len(x.sharding.device_set) for x in jax.tree.leaves(found)}
    equal = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), want, found)
    same[count] = where == {count} and all(jax.tree.leaves(equal))
print(json.dumps({"losses": losses, "same": same}))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("eight"))],
        env=os.environ | {"XLA_FLAGS": flags, "PJRT_NPROC": "16", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("count", ["2", "4", "8"])
def test_losses_are_those_of_one_device(eight, count):
    one, many = np.array(eight["losses"]["1"]), np.array(eight["losses"][count])
    assert one[0] != one[-1]  # it trained
    np.testing.assert_allclose(many, one, rtol=1e-5)


def test_a_checkpoint_of_eight_devices_opens_on_fewer(eight):
    assert eight["same"] == {"1": True, "2": True, "4": True}


@pytest.mark.parametrize("batch, devices, shared", [(64, 8, 8), (12, 8, 6), (7, 4, 1), (2, 8, 2)])
def test_a_mesh_takes_as_many_devices_as_divide_the_batch(batch, devices, shared):
    assert sharing(batch, devices) == shared


def test_numbers_are_not_cut():
    mesh = batch_mesh(4)
    batch = deal_out({"x": np.ones((4, 2)), "step": np.int32(3)}, mesh)
    assert batch["step"].shape == () and batch["x"].shape == (4, 2)


def test_what_has_no_place_goes_to_the_first_device(tmp_path):
    tree = {"a": np.arange(3.0, dtype=np.float32)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, replicate(tree, batch_mesh(1)))
    with Checkpointer(tmp_path) as checkpointer:
        found, _ = checkpointer.restore(tree)
    assert found["a"].devices() == {jax.local_devices()[0]}
    assert placed(tree)["a"].sharding.device_set == {jax.local_devices()[0]}
