"""Batches and parameters dealt out over devices: the numbers of one, on 2, 4 and 8 simulated."""

import json
import os

import jax
import numpy as np
import pytest

from clipjax.configs import dann
from clipjax.errors import ConfigError
from clipjax.study.mesh import check_divides, training_mesh
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import (
    batch_mesh,
    deal_out,
    longest_axis,
    make_mesh,
    placed,
    replicate,
    sharing,
)
from tests import forked
from tests.conftest import parsed

# Twenty steps at a usual learning rate, in float32, of DANN on heads alone, of DANN on a CLIP whose
# image tower trains, and of contrastive pairs, several of which share a text, on linear towers. The
# padding falls to some devices alone. The state of the CLIP is saved on 8 devices and read back on
# 1, 2 and 4. One process: the meshes are parts of the same 8 devices.
SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np, optax
from clipjax.adapt import average, contrastive, coral, dann, similarities
from clipjax.adapt.method import Classes, on_backbone, with_head
from clipjax.adapt.preserve import preserved
from clipjax.adapt.step import init_state, make_step
from clipjax.model.backbone import make_backbone, make_head, tower_params
from clipjax.model.clip import CLIP, normalize
from clipjax.model.heads import Heads, as_model
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import DATA, batch_mesh, make_mesh, replicate
from tests.conftest import random_params, small_config
from tests.train import shards

rng = np.random.default_rng(0)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))

apart = []  # of each training, how far the mean of its last epochs lies from its end
programs = {}  # what is compiled serves other batches of the same loss

def train(make_loss, start, batches, count, way="jit", fsdp=1, accumulate=1):
    axis = DATA if way == "pmap" else None
    rule = average.uniform(8, every=4)
    more = {"total_steps": 20, "accumulate": accumulate, "axis_name": axis, "average": rule}
    step = make_step(make_loss(axis), optimizer, **more)
    state = init_state(start, optimizer, average=rule)
    key, mesh = (make_loss, count, way, fsdp, accumulate), make_mesh(jax.devices()[:count], fsdp)
    program = programs[key] = programs.get(key) or make_program(step, state, mesh, way)
    state, losses = program.place_state(jax.tree.map(np.asarray, state)), []
    for one in batches:
        state, metrics = program.run(state, program.place_batch(one))
        losses.append(float(metrics["loss"]))
    ends = jax.device_get((state.average.params, state.params))
    apart.append(float(optax.global_norm(jax.tree.map(np.subtract, *ends))))
    return state._replace(average=()), losses

def labelled(inputs, real=13):
    label, mask = rng.integers(0, 3, 16).astype(np.int32), np.arange(16) < real
    return {"source": {"inputs": inputs(), "label": label, "mask": mask},
            "target": {"inputs": inputs()}}

def share(state):
    held = [x.addressable_shards[0].data.size for x in jax.tree.leaves(state)]
    return sum(held) / sum(x.size for x in jax.tree.leaves(state))

losses, cut = {}, {}
heads = Heads(3, adapter=(64,), classifier=(8,), discriminator=(8,))
start = jax.jit(heads.init)(jax.random.key(0), jnp.zeros((1, 64)))["params"]
adapt = lambda axis: dann.make_loss(as_model(heads), label_smoothing=0.1)
rows = lambda: rng.normal(size=(16, 64)).astype(np.float32)
batches = [labelled(rows) for _ in range(20)]
for variant in HEADS:
    state, losses["heads %s %s %s" % variant] = train(adapt, start, batches, *variant)
    cut["heads %s %s %s" % variant] = share(state)

full = [labelled(rows, real=16) for _ in range(20)]
for name, more in {"whole": {}, "accumulated": {"accumulate": 2}}.items():
    losses[name] = train(adapt, start, full, 1, **more)[1]
losses["accumulated on pmap 4"] = train(adapt, start, full, 4, "pmap", accumulate=2)[1]

config = small_config(vision={"num_hidden_layers": 1})
heads = Heads(3, adapter=(8,), classifier=(8,), discriminator=(8,))
backbone = make_backbone(CLIP(config), lambda pixels, rng: pixels / 255.0)
head = make_head(heads, backbone, Classes(("a", "b", "c"), None, jnp.zeros((3, 16)), 1.0))
start = jax.jit(head.init)(jax.random.key(0))
start = start | {"clip": tower_params(random_params(config), ("image",))}
tune = lambda axis: dann.make_loss(on_backbone(backbone, head))
pixels = lambda: rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
batches = [labelled(pixels) for _ in range(20)]
for variant in TOWER:
    state, losses["tower %s %s %s" % variant] = train(tune, start, batches, *variant)
    cut["tower %s %s %s" % variant] = share(state)

# Covariances of a whole batch, whose padding falls to the second device; and penalties on the
# embeddings that the encoder gave as it came, and on their similarities.
embed = jax.jit(lambda x: backbone.encode["image"](start, x))
beside = lambda part: part | {"embedding": np.asarray(embed(part["inputs"]))}
kept = [{name: beside(part) for name, part in one.items()} for one in batches]
texts = Classes(("a", "b", "c"), None, jnp.zeros((3, 16)), 1.0)
def hold(axis):
    draw = coral.make_loss(on_backbone(backbone, head), weight=10.0)
    made = with_head(backbone, head, draw, reads=("source", "target"))
    factors = {"embedding": 1.0, "similarity": 1.0, "kind": "kl"}
    return preserved(made, backbone, texts, ("image",), **factors).loss
for count in (1, 2):
    losses[f"held {count}"] = train(hold, start, kept, count)[1]

towers = contrastive.TwoTowers(
    lambda p, x, rng: normalize(x @ p["image"]), lambda p, t: normalize(p["text"][t]),
    lambda p: jnp.exp(p["scale"]))
last = init_state(start, optimizer)
linear = {"image": rng.normal(size=(6, 4)), "text": rng.normal(size=(9, 4)), "scale": np.ones(())}
linear = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), linear)

def pairs(size=16):
    ids = rng.integers(0, 9, size).astype(np.int32)
    known = np.stack([ids, rng.integers(-1, 9, size)], 1).astype(np.int32)
    return {"inputs": rng.normal(size=(size, 6)).astype(np.float32), "tokens": ids,
            "text_id": ids, "text_ids": known}

before, compare, batches = linear, lambda axis: contrastive.make_loss(towers, axis), [
    pairs() for _ in range(20)]
for count, way in ((1, "jit"), (4, "jit"), (4, "pmap")):
    losses[f"contrastive {way} {count}"] = train(compare, linear, batches, count, way)[1]

def cited(axis):  # images against the texts of their classes, and near what they were
    everywhere = lambda x: x if axis is None else jax.lax.all_gather(x, axis, tiled=True)
    def loss(p, batch, rng, progress):
        part = batch["source"]
        label, weight = part["label"], part["weight"]
        image, text = (normalize(p[k] + x) for k, x in
                       (("image", part["inputs"]), ("text", p["classes"][label])))
        value = similarities.supervised_contrastive(
            image, text, label, 4.0, "exclude", weight, axis)
        texts, there = everywhere((text, weight != 0))
        taught = normalize(part["inputs"]) @ everywhere(part["inputs"]).T
        return value + 0.1 * similarities.similarity_distillation(
            4.0 * image @ texts.T, taught, "student_teacher", weight, there), {}
    return loss

linear = {"image": jnp.ones(6), "text": jnp.ones(6)}
linear["classes"] = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)
rows = lambda: rng.normal(size=(16, 6)).astype(np.float32)
labels = [labelled(rows) for _ in range(20)]
for count, way in ((1, "jit"), (4, "jit"), (4, "pmap")):
    losses[f"cited {way} {count}"] = train(cited, linear, labels, count, way)[1]

linear, shared = before, {}
small, own, masked = shards.heads_and_batch()
alone = shards.trained(shards.make_dann(small), own, shards.heads_and_batch(1.0, 0)[2])
for variant in SHARED:
    trainer = shards.trainer(shards.make_dann(small), own, *variant)
    shared["dann %s %s %s" % variant] = shards.distance(trainer(masked), alone)
    if variant == ("checked", 8, 1):
        on_eight = trainer
alone = shards.trained(compare, linear, batches[0])
found = shards.trained(compare, linear, batches[0], "checked", 4)
shared["contrastive"] = shards.distance(found, alone)
# Norms and the first products stay as they are, the kernels between them train.
picture, name = labelled(pixels), jax.tree_util.keystr
frozen = jax.tree_util.tree_map_with_path(lambda p, _: "norm" in name(p) or "fc1" in name(p), start)
alone = shards.trained(tune, start, picture, frozen=frozen)
found = shards.trained(tune, start, picture, "checked", 2, frozen=frozen)
shared["tower, partly frozen"] = shards.distance(found, alone)
masked["source"]["label"][3] = 3
spoiled = on_eight(masked)
nan = lambda x: bool(np.isnan(x).all())
told = nan(spoiled[1]) and all(map(nan, spoiled[0]["classifier"]["layer_1"].values()))

same, want = {}, jax.device_get(state)
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(20, state)
for count in (1, 2, 4):
    like = replicate(last, batch_mesh(16, jax.devices()[:count]))
    with Checkpointer(sys.argv[1]) as checkpointer:
        found, _ = checkpointer.restore(like)
    where = {len(x.sharding.device_set) for x in jax.tree.leaves(found)}
    equal = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), want, found)
    same[count] = where == {count} and all(jax.tree.leaves(equal))
found = {"losses": losses, "same": same, "cut": cut, "shared": shared, "told": told}
print(json.dumps(found | {"apart": apart}))
"""
# (devices, way, fsdp), one device first.
HEADS = [(1, "jit", 1), (8, "jit", 1), (4, "pmap", 1), (2, "jit", 2), (8, "jit", 8)]
TOWER = [(1, "jit", 1), (8, "pmap", 1), (8, "jit", 4)]
# (way, devices, microbatches) of a batch whose padding is NaN and lies on some devices alone.
SHARED = [("checked", 4, 2), ("checked", 8, 1), ("unchecked", 4, 2)]
SHARED += [("pmap", 4, 2), ("jit", 1, 4)]


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    script = SCRIPT.replace("HEADS", repr(HEADS)).replace("TOWER", repr(TOWER))
    script = script.replace("SHARED", repr(SHARED))
    words = ["-c", script, tmp_path_factory.mktemp("eight")]
    done = forked.run(words, XLA_FLAGS=flags, PJRT_NPROC="16", timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def close(losses, like):
    one, many = np.array(like), np.array(losses)
    assert one[0] != one[-1]  # it trained
    np.testing.assert_allclose(many, one, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part, count, way, fsdp",
    [("heads", *v) for v in HEADS[1:]] + [("tower", *v) for v in TOWER[1:]],
)
def test_losses_are_those_of_one_device(eight, part, count, way, fsdp):
    close(eight["losses"][f"{part} {count} {way} {fsdp}"], eight["losses"][f"{part} 1 jit 1"])


def test_covariances_and_penalties_on_an_encoder_are_those_of_one_device(eight):
    close(eight["losses"]["held 2"], eight["losses"]["held 1"])


def test_running_means_are_those_of_one_device_without_microbatches(eight):
    groups = np.split(np.array(eight["apart"]), np.cumsum([len(HEADS), 3, len(TOWER), 2, 3]))
    assert len(groups[-1]) == 3
    for one, *others in groups:
        assert one > 1e-5
        np.testing.assert_allclose(others, one, rtol=2e-3)


@pytest.mark.parametrize("name", ["accumulated", "accumulated on pmap 4"])
def test_microbatches_give_the_losses_of_the_whole_batch(eight, name):
    close(eight["losses"][name], eight["losses"]["whole"])


@pytest.mark.parametrize("loss", ["contrastive", "cited"])
@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_pairs_are_compared_over_all_devices(eight, loss, way):
    close(eight["losses"][f"{loss} {way} 4"], eight["losses"][f"{loss} jit 1"])


@pytest.mark.parametrize(
    "what",
    ["dann {} {} {}".format(*v) for v in SHARED] + ["contrastive", "tower, partly frozen"],
)
def test_updates_of_shares_are_that_of_the_whole_batch(eight, what):
    """By `jax.shard_map` with and without its checks; microbatches of padding alone included."""
    assert eight["shared"][what] < 2e-6


def test_a_label_on_one_device_that_is_no_class_spoils_the_step_on_all(eight):
    assert eight["told"]


def test_fsdp_leaves_each_device_its_part(eight):
    """Of parameters and both moments; arrays of fewer than 1024 elements are whole everywhere."""
    cut = eight["cut"]
    assert cut["heads 8 jit 1"] == cut["heads 4 pmap 1"] == cut["tower 8 pmap 1"] == 1
    assert cut["heads 2 jit 2"] < 0.7
    assert cut["heads 8 jit 8"] < 0.4 and cut["tower 8 jit 4"] < 0.4


def test_a_checkpoint_of_eight_devices_opens_on_fewer(eight):
    assert eight["same"] == {"1": True, "2": True, "4": True}


@pytest.mark.parametrize("batch, devices, shared", [(64, 8, 8), (12, 8, 6), (7, 4, 1), (2, 8, 2)])
def test_a_mesh_takes_as_many_devices_as_divide_the_batch(batch, devices, shared):
    assert sharing(batch, devices) == shared


@pytest.mark.parametrize(
    "shape, parts, axis",
    [((64, 32), 4, 0), ((30, 64), 4, 1), ((31, 63), 2, -1), ((8, 8), 4, -1), ((4096,), 1, -1)],
)
def test_fsdp_cuts_the_longest_axis_that_can_be(shape, parts, axis):
    assert longest_axis(shape, parts) == axis


def asked(**changes):
    config = dann.get_config("smoke")
    config.update_from_flattened_dict(changes)
    return parsed(config)


def mesh_of(**changes):
    study = asked(**changes)
    return training_mesh(study.devices, study.training.batch_size)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"parallel": "pmap", "mesh.fsdp": 2}, "pmap keeps parameters whole .* use parallel=jit"),
        ({"parallel": "xmap"}, "'xmap'; known: jit, pmap"),
        ({"mesh.fsdp": 0}, "mesh.fsdp is 0; give a whole number, at least 1"),
        ({"profile": "20:10"}, "profile is .* write 10:20 for steps 10 to 19"),
    ],
)
def test_what_no_devices_could_run_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        asked(**changes)


def test_a_mesh_that_is_asked_for_is_given_or_refused():
    there = len(jax.devices())
    with pytest.raises(ConfigError, match=f"larger than the {there} there"):
        mesh_of(**{"mesh.data": there + 1})
    with pytest.raises(ConfigError, match="batch_size=60 .* 4 devices in acc.*=2 .* take 56 or 64"):
        check_divides(60, 2, 4)
    assert mesh_of(**{"mesh.data": 1}).size == 1
    assert mesh_of(batch_size=7).size == sharing(7, there)  # left to us


def test_pmap_over_parts_of_parameters_is_refused():
    pair = make_mesh([jax.devices()[0]])
    pair = type(pair)(np.array([[pair.devices[0, 0]] * 2]), pair.axis_names)
    with pytest.raises(ValueError, match="no fsdp"):
        make_program(lambda s, b: (s, {}), {}, pair, "pmap")


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
