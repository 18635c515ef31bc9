"""Low-rank factors: CLIP itself at the start, merged as branched, and nothing else trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from clipjax.adapt import lora
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes
from clipjax.adapt.step import init_state, make_step
from clipjax.model.backbone import make_backbone
from clipjax.model.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
from clipjax.model.layers.dense import Dense
from tests.conftest import random_params, random_tokens, small_config

ONE = {"num_hidden_layers": 1}  # is quicker to compile
CONFIG = small_config(vision=ONE, text=ONE)
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def given():
    """A backbone over pixels, CLIP's parameters, three classes, and a batch."""
    module, clip = CLIP(CONFIG), {"clip": random_params(CONFIG)}
    backbone = make_backbone(module, lambda pixels, rng: pixels)
    tokens = random_tokens(CONFIG, 3)[:, None]
    texts = jax.jit(backbone.encode["text"])(clip, tokens[:, 0])
    pixels = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    batch = {"inputs": pixels, "label": jnp.array([0, 1, 2, 0]), "mask": jnp.ones(4, bool)}
    return backbone, clip, Classes(NAMES, tokens, texts, 9.0), batch


def made(given, **options):
    """The method, and all parameters with factors away from 0."""
    backbone, clip, classes, _ = given
    method = lora.make_method(backbone, classes, **options)
    noise = lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)
    own = jax.jit(method.init)(jax.random.key(0))
    return method, own, {**clip, **jax.jit(lambda own: jax.tree.map(noise, own))(own)}


def test_the_start_is_clip_itself_with_and_without_dropout(given):
    backbone, clip, classes, batch = given
    method, own, moved = made(given)
    image = jax.jit(backbone.encode["image"])(clip, batch["inputs"])
    text = jax.jit(backbone.encode["text"])(clip, classes.tokens[:, 0])
    compare = jax.jit(lambda params, rng: method.compare(params, batch, rng))
    for rng in (None, jax.random.key(3)):
        seen = compare({**clip, **own}, rng)
        np.testing.assert_allclose(seen.image, image, atol=1e-6)
        np.testing.assert_allclose(seen.text, text, atol=1e-6)
    # Bit for bit: no kernel is another, and what branches add is 0.
    jax.tree.map(
        np.testing.assert_array_equal, method.merged({**clip, **own})["clip"], clip["clip"]
    )
    layer = lora.branched({**clip, **own}, 1.0, jax.random.key(0), 0.25)["clip"]["text"]["block_0"]
    x = jax.random.normal(jax.random.key(0), (9, 24))
    for name, parts in layer["self_attn"].items():
        plain = {"kernel": parts["kernel"], "bias": parts["bias"]}
        one, two = (Dense(24, 0.1).apply({"params": each}, x) for each in (parts, plain))
        np.testing.assert_array_equal(one, two, err_msg=name)
    predict = jax.jit(lambda params: method.predict(params, batch["inputs"], classes))
    logits = backbone.scale(clip) * image @ seen.text.T
    np.testing.assert_allclose(predict({**clip, **own}), logits, rtol=1e-6)
    there = np.asarray(predict(moved))
    assert np.abs(there - np.asarray(logits)).max() > 0.01


@pytest.mark.parametrize(("scaling", "factor"), [("rs", 3 * 2**-0.5), ("standard", 1.5)])
def test_merged_kernels_answer_as_branches_do_and_as_the_published_layer(given, scaling, factor):
    method, _, params = made(given, scaling=scaling, strength=3.0, dropout=0.0)
    image = jax.jit(given[0].encode["image"])
    branches = lora.branched(params, factor, jax.random.key(0), 0.0)
    one = image(method.merged(params), given[3]["inputs"])
    np.testing.assert_allclose(image(branches, given[3]["inputs"]), one, atol=1e-5)
    layer = params["clip"]["vision"]["block_0"]["self_attn"]["v_proj"]
    factors = params["lora"]["vision"]["block_0"]["v_proj"]
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    turned = (layer["kernel"].T, layer["bias"], factors["a"].T, factors["b"].T)
    weight, bias, a, b = (torch.tensor(np.asarray(v)) for v in turned)
    wanted = torch.nn.functional.linear(torch.tensor(x), weight, bias) + factor * (
        torch.tensor(x) @ (b @ a).T
    )
    for tree in (method.merged(params), branches):
        own = tree["clip"]["vision"]["block_0"]["self_attn"]["v_proj"]
        found = Dense(32, 0.1).apply({"params": own}, x)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_dropout_is_of_the_branch_alone_and_right_in_the_mean(given):
    _, _, params = made(given)
    whole = lora.branched(params, 1.0, jax.random.key(0), 0.25)
    layer = whole["clip"]["text"]["block_0"]["self_attn"]["k_proj"]
    keys = [
        np.asarray(whole["clip"][tower][block]["self_attn"][place]["branch"]["key"])
        for (tower, block, place), _ in lora.places(params["lora"])
    ]
    assert len({key.tobytes() for key in keys}) == len(keys) == 6  # masks of their own
    x = jnp.ones((2000, 24))
    plain = {"kernel": layer["kernel"], "bias": layer["bias"]}
    added = Dense(24, 0.1).apply({"params": layer}, x) - Dense(24, 0.1).apply({"params": plain}, x)
    factors = layer["branch"]
    wanted = (factors["a"] @ factors["b"]).sum(axis=0)
    np.testing.assert_allclose(added.mean(axis=0), wanted, atol=0.02)
    assert np.ptp(added, axis=0).min() > 0.01


def test_only_the_factors_train_and_the_towers_are_shared(given):
    _, clip, _, batch = given
    method, own, params = made(given)
    optimizer = optax.sgd(0.1)
    state = init_state(own, optimizer)
    step = jax.jit(make_step(method.loss, optimizer, total_steps=2))
    after, metrics = step(state, {"source": batch}, clip)
    assert set(after.params) == {"lora"} and np.isfinite(metrics["loss"])
    for (place, before), (_, now) in zip(
        lora.places(own["lora"]), lora.places(after.params["lora"]), strict=True
    ):
        # B is 0: no gradient reaches A in the first step.
        np.testing.assert_array_equal(now["a"], before["a"])
        assert np.any(np.asarray(now["b"]) != 0), place
    loss = lambda own: method.loss({**clip, **own}, weigh({"source": batch}), None, 0.0)[0]
    grads = jax.jit(jax.grad(loss))({"lora": params["lora"]})
    assert all(np.any(g) for g in jax.tree.leaves(grads))


def test_padded_rows_change_nothing_and_permuted_classes_permute_logits(given):
    backbone, clip, classes, batch = given
    method, _, params = made(given, dropout=0.0)
    padded = {
        "inputs": jnp.concatenate([batch["inputs"], jnp.full((2, 32, 32, 3), jnp.nan)]),
        "label": jnp.concatenate([batch["label"], jnp.full(2, -1)]),
        "mask": jnp.arange(6) < 4,
    }
    loss = lambda own, rows: method.loss({**clip, "lora": own}, weigh({"source": rows}), None, 0.0)[
        0
    ]
    value = lambda rows: jax.jit(jax.value_and_grad(loss))(params["lora"], rows)
    for one, two in zip(*map(jax.tree.leaves, (value(batch), value(padded))), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-5)
    order = [2, 0, 1]
    moved = classes._replace(
        names=tuple(NAMES[k] for k in order), tokens=classes.tokens[np.array(order)]
    )
    predict = jax.jit(
        lambda tokens: method.predict(params, batch["inputs"], moved._replace(tokens=tokens))
    )
    logits, found = map(predict, (classes.tokens, moved.tokens))  # other classes are other texts
    np.testing.assert_allclose(found, logits[:, np.array(order)], rtol=1e-5)


def test_parameters_are_as_many_as_published_on_vit_b_16(given):
    vision = VisionConfig(768, 3072, 12, 12, patch_size=16)
    sizes = CLIPConfig(vision, TextConfig(512, 2048, 12, 8))
    backbone = Backbone({"image": None}, None, None, {}, sizes=sizes)
    count = lambda **options: sum(
        x.size
        for x in jax.tree.leaves(
            jax.eval_shape(lora.make_method(backbone, given[2], **options).init, jax.random.key(0))
        )
    )
    assert count() == 184_320
    assert count(tower="text") == 73_728 and count(rank=4) == 368_640


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank is 0; give a whole number, 1 or more"),
        ({"rank": 25}, "rank is 25, and the text tower's projections are of rank 24; give a lower"),
        ({"rank": 33, "tower": "image"}, "rank is 33, and the image tower's"),
        ({"scaling": "root"}, "scaling is 'root'; known: rs, standard"),
        ({"tower": "vision"}, "tower is 'vision'; known: both, image, text"),
        ({"projections": ("fc1",)}, "projections is .* give a tuple of q_proj"),
        ({"strength": 0.0}, "strength is 0.0; give a positive number"),
        ({"dropout": 1.0}, "dropout is 1.0; give a share of 0 to below 1"),
    ],
)
def test_wrong_options_are_refused(given, options, words):
    with pytest.raises(ValueError, match=words):
        lora.make_method(given[0], given[2], **options)
