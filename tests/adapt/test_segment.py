"""A segmentation step: what a decoder is told of the domain, as numbers; two devices equal one."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt.domain import CONTROLS, controlled, domain_embedding
from clipjax.adapt.losses import weigh
from clipjax.adapt.segment import cut, make_segmenter, told
from clipjax.model.decoders import MaskDecoder, resize_map
from clipjax.study.segmentation_answers import answered
from clipjax.study.segmentation_maps import Encoded
from tests import forked

RNG = np.random.default_rng(0)
SHAPES = ((4, 4, 6), (2, 2, 8))
DESCRIPTIONS, TEXTS = (jnp.array(RNG.normal(size=(n, 5)), jnp.float32) for n in (3, 4))
ROWS = {
    "inputs": RNG.normal(size=(4, 4 * 4 * 6 + 2 * 2 * 8)).astype(np.float16),
    "embedding": RNG.normal(size=(4, 5)).astype(np.float32),
    "condition": np.array([0, 1, 2, 1]),
}


def test_numbers_say_what_a_decoder_is_told():
    decoder, key = MaskDecoder(classes=4, hidden=8, depth=1), jax.random.key(1)
    given = {"descriptions": DESCRIPTIONS, "texts": TEXTS, "prompt": True}
    made = make_segmenter(decoder, resize_map, SHAPES, **given)
    params = jax.jit(made.init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), params)
    seen = domain_embedding(ROWS["embedding"], DESCRIPTIONS, 3.0)
    maps, answer = cut(jnp.array(ROWS["inputs"]), SHAPES), jax.jit(made.logits)
    own = {"params": params["decoder"]}
    wanted = jax.jit(lambda w, prompt: decoder.apply(own, maps, w, texts=TEXTS, prompt=prompt))
    for control in CONTROLS:
        w = controlled(seen, DESCRIPTIONS, control, key, ROWS["condition"])
        for shift in (1, -1):
            found = answer(params | {"told": told(control, 3.0, shift)}, ROWS, key)
            np.testing.assert_allclose(found, wanted(w, shift * w), atol=1e-4)


class Told:
    """A decoder whose answer is the W that it is given."""

    stats, norms_deep = "image", lambda self, levels: 1

    def apply(self, variables, maps, domain, mutable=False):
        return domain


@pytest.mark.parametrize("real", [4, 2, 1])
def test_shuffled_w_is_that_of_another_image_and_never_of_padding(real):
    made = make_segmenter(Told(), resize_map, SHAPES, descriptions=DESCRIPTIONS)
    mask = np.random.default_rng(1).permutation(4) < real
    embedding = np.where(mask[:, None], ROWS["embedding"], np.nan)
    other = RNG.normal(size=(4, 5)).astype(np.float32)
    given = ROWS | {"embedding": embedding, "other": other, "mask": mask}
    rows = weigh({"source": given})["source"]
    params = {"decoder": {}, "told": told("shuffled", 3.0)}
    w = lambda x: np.asarray(domain_embedding(x, DESCRIPTIONS, 3.0).embedding)
    lent = w(ROWS["embedding"] if real > 1 else np.roll(other, 1, axis=0))
    answer, seen = jax.jit(made.logits), set()
    for seed in range(12):
        found = np.asarray(answer(params, rows, jax.random.key(seed)))
        near = np.abs(found[:, None] - lent[None]).max(-1) < 1e-5  # row, whose W it has
        for row in np.flatnonzero(mask):
            (giver,) = np.flatnonzero(near[row])
            assert giver != row and (mask[giver] or real == 1), (seed, row, giver)
            seen.add(giver)
    assert len(seen) == real


def test_every_image_knows_another_ones_embedding_and_padding_is_marked_in_tests():
    images = Encoded(None, None, None, ROWS["embedding"][:3], ROWS["condition"][:3])
    np.testing.assert_array_equal(images.about([0, 2])["other"], ROWS["embedding"][[1, 0]])
    example = SimpleNamespace(image=np.zeros((8, 8, 3)), mask=np.zeros((8, 8), np.uint8))
    test, given = dataclasses.replace(images, source=[example] * 3), []

    def answer(params, rows, rng, size):
        given.append(rows)
        return np.zeros((1, len(rows["inputs"]), *size, 2))

    config = SimpleNamespace(data=SimpleNamespace(window=()), seeds=(0,))
    plan = SimpleNamespace(config=config, data=SimpleNamespace(tested=(8, 8)))
    trainer = SimpleNamespace(plan=plan, answers=lambda method, logits: answer)
    assert len(list(answered(trainer, None, {}, test))) == 3
    assert given[0]["weight"].tolist() == [1] * 3 + [0] * (len(given[0]["inputs"]) - 3)


SCRIPT = """
import json, re, jax, jax.numpy as jnp, numpy as np
from clipjax.adapt.pixels import pixel_cross_entropy
from clipjax.adapt.segment import make_segmenter, told
from clipjax.adapt.step import init_state, make_step
from clipjax.model.decoders import DECODERS, resize_map
from clipjax.train.optim import make_optimizer
from clipjax.train.distributed.program import make_program
from clipjax.train.distributed.sharding import batch_mesh, deal_out, replicate

rng = np.random.default_rng(0)
rows = {"inputs": rng.normal(size=(8, 4, 4, 3)), "embedding": rng.normal(size=(8, 5)),
        "condition": np.zeros(8, np.int32), "label": rng.integers(0, 4, (8, 8, 8)).astype(np.uint8)}
rows["label"][:, :3] = 255
rows["mask"] = np.arange(8) < 5  # padding lies on the second device alone
descriptions, texts = (jnp.array(rng.normal(size=(n, 5)), jnp.float32) for n in (3, 4))
kernel, said = {"kernel": jnp.array(rng.normal(size=(3, 6)), jnp.float32)}, []
by_batch = DECODERS["aspp"](4, stats="batch")  # of which padding is no part
for devices, decoder in [(n, d) for d in (DECODERS["mask"](4, hidden=8, depth=1), by_batch)
                         for n in (1, 2)]:
    made = make_segmenter(
        decoder, resize_map, [(4, 4, 6)],
        descriptions=descriptions, texts=texts, prompt=decoder is not by_batch,
        class_weights=jnp.array([1.0, 2.0, 0.5, 1.0]),
        features=lambda tree, x: [jnp.tanh(x @ tree["kernel"])], begin=lambda rng: {},
    )
    optimizer = make_optimizer(lambda _: 1e-2, lr_mults=[("backbone/.*", 0.5)])
    step = make_step(made.loss, optimizer, total_steps=4)
    state = init_state(jax.jit(made.init)(jax.random.key(0), kernel), optimizer)
    mesh = batch_mesh(8, jax.devices()[:devices])
    assert mesh.size == devices
    program = make_program(step, state, mesh, "jit", {"told": told("shuffled", 2.0, -1)})
    state, losses = program.place_state(state), []
    for _ in range(4):
        state, metrics = program.run(state, program.place_batch({"source": rows}))
        losses.append(float(metrics["loss"]))
    moved = float(abs(state.params["backbone"]["kernel"] - kernel["kernel"]).max())
    said.append([*losses, moved])
loss = lambda kernel, x, labels: pixel_cross_entropy(x @ kernel, labels)
batch = deal_out((np.zeros((8, 4, 4, 3)), rows["label"][:, :4, :4]), mesh)
program = jax.jit(jax.value_and_grad(loss)).lower(replicate(jnp.ones((3, 4)), mesh), *batch)
waits = re.findall(r"= (\\S+?)(?:{\\S*)? all-reduce\\(", program.compile().as_text())
print(json.dumps([*said, waits]))
"""


@pytest.mark.slow
def test_two_devices_train_a_segmenter_as_one_does():
    done = forked.run(["-c", SCRIPT], JAX_NUM_CPU_DEVICES="2")
    assert done.returncode == 0, done.stderr[-3000:]
    *said, waits = json.loads(done.stdout.splitlines()[-1])
    assert waits[0] == "f32[2]" and len(waits) == 2, waits  # none for a number of labels alone
    for one, two in (said[:2], said[2:]):  # of the second decoder with statistics of a batch
        assert one[-2] < one[0] and 0 < one[-1] < 0.021  # a backbone at half the rate moves, too
        np.testing.assert_allclose(two, one, rtol=1e-5)
