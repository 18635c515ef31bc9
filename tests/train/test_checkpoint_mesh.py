"""States cut up over a mesh of eight devices, read back on meshes of other shapes."""

import json
import os

import pytest

from tests import forked

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from clipjax.adapt.step import init_state
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.restore import restore_params

optimizer = optax.adam(0.1)

def lay_out(state, shape):
    devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    mesh = Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    cut = lambda x: NamedSharding(mesh, P("fsdp") if np.ndim(x) == 2 else P())
    return jax.device_put(state, jax.tree.map(cut, state))

params = {"w": jnp.arange(48.0).reshape(8, 6), "b": jnp.ones(6)}
start = init_state(params, optimizer)
start = start._replace(opt_state=jax.tree.map(lambda x: x + 3, start.opt_state))
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(4, lay_out(start, (2, 4)))

def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == y).all()), a, b)))

said = {}
for shape in ((4, 2), (1, 8), (2, 2), (2, 1), (1, 1)):
    like = lay_out(jax.tree.map(jnp.zeros_like, start), shape)
    with Checkpointer(sys.argv[1]) as checkpointer:
        found, _ = checkpointer.restore(like)
    alone = restore_params(sys.argv[1], like=like.params)
    both = equal(found, start) and equal(alone, params)
    where = lambda a, b: a.sharding == b.sharding
    places = jax.tree.map(where, (found, alone), (like, like.params))
    part = found.params["w"].addressable_shards[0].data.shape[0]
    said[str(shape)] = [both, all(jax.tree.leaves(places)), part]
whole = restore_params(sys.argv[1])
said["alone"] = [equal(whole, params), len(whole["w"].sharding.device_set)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    done = forked.run(["-c", SCRIPT, tmp_path_factory.mktemp("mesh")], XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("data, fsdp", [(4, 2), (1, 8), (2, 2), (2, 1), (1, 1)])
def test_a_state_cut_over_eight_devices_opens_on_another_mesh(said, data, fsdp):
    same_values, same_places, rows = said[str((data, fsdp))]
    assert same_values and same_places and rows == 8 // fsdp


def test_parameters_alone_come_to_one_device(said):
    assert said["alone"] == [True, 1]
