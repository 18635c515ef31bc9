"""Where states and batches lie on a mesh of data and fsdp."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from clipjax.errors import ConfigError
from clipjax.train.distributed.sharding import make_mesh, place_batch, place_state


def mesh(data, fsdp):
    return AbstractMesh((data, fsdp), ("data", "fsdp"))


def specs(tree):
    return jax.tree.map(lambda x: x.sharding.spec, tree)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_large_parameters_are_cut_along_their_longest_axis():
    state = {"fc1": shape(512, 2048), "fc2": shape(2048, 512), "bias": shape(512), "step": shape()}
    assert specs(place_state(state, mesh(2, 4))) == {
        "fc1": PartitionSpec(None, "fsdp"),
        "fc2": PartitionSpec("fsdp"),
        "bias": PartitionSpec(),  # not worth gathering
        "step": PartitionSpec(),
    }


def test_an_axis_that_cannot_be_cut_evenly_is_passed_over():
    state = {"odd": shape(1022, 512), "whole": shape(1022, 511)}
    found = specs(place_state(state, mesh(2, 4)))
    assert found == {"odd": PartitionSpec(None, "fsdp"), "whole": PartitionSpec()}


def test_without_fsdp_parameters_are_whole():
    assert specs(place_state(shape(512, 2048), mesh(8, 1))) == PartitionSpec()


def test_batches_are_cut_over_every_device():
    batch = place_batch({"inputs": shape(64, 8, 8, 3), "lam": shape()}, mesh(2, 4))
    assert specs(batch) == {"inputs": PartitionSpec(("data", "fsdp")), "lam": PartitionSpec()}
    assert batch["inputs"].sharding.shard_shape((64, 8, 8, 3)) == (8, 8, 8, 3)


@pytest.mark.parametrize("fsdp", [0, 3])
def test_fsdp_must_divide_the_devices(fsdp):
    with pytest.raises(ConfigError, match=f"fsdp={fsdp} does not divide the 4 devices"):
        make_mesh(jax.devices()[:1] * 4, fsdp)
