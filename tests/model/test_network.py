"""Encoder and heads as one model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.images.augment import random_resized_crop
from clipjax.data.images.preprocess import Preprocess
from clipjax.model.clip import CLIP, normalize
from clipjax.model.heads import Heads, predict
from clipjax.model.network import as_linear, make_network, needed_clip
from tests.conftest import random_params, random_tokens, small_config

# One layer a tower: little here depends on depth.
ONE = {"num_hidden_layers": 1}
CONFIG = small_config(vision=ONE, text=ONE)
CROP = Preprocess(size=32)


def look(images, rng):
    return CROP.normalize(images)


def augmented(images, rng):
    crop = lambda x: random_resized_crop(rng, x, smallest=0.3)  # noqa: E731
    return CROP.normalize(images if rng is None else crop(images))


@pytest.fixture(scope="module")
def clip():
    return random_params(CONFIG)


def pixels(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def prompts(classes=4, each=3):
    return random_tokens(CONFIG, classes * each).reshape(classes, each, -1)


def start(heads):
    """Parameters of heads; as one program, not one for each of its operations."""
    return jax.jit(heads.init)(jax.random.key(0), jnp.zeros((1, 16)))["params"]


def test_pixels_and_features_meet(clip):
    heads = Heads(4, adapter=(6,), classifier=(5,), discriminator=(3,))
    network = make_network(CLIP(CONFIG), look, heads)
    own = start(heads)
    params = {"clip": needed_clip(heads, clip), **own}
    assert set(params["clip"]) == {"vision", "visual_projection"}  # nothing idle in the tree
    features = jax.jit(network.encode)(params, pixels())
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    direct = jax.jit(network.pixel_model.features)(params, pixels(), None)
    np.testing.assert_allclose(direct, network.model.features(params, features, None), rtol=1e-5)
    np.testing.assert_allclose(
        network.predict(params, features), predict(heads, own, features), rtol=1e-6
    )


def test_augmentation_needs_a_key_and_changes_the_features(clip):
    heads = Heads(4, adapter=(6,))
    network = make_network(CLIP(CONFIG), augmented, heads)
    own = start(heads)
    params = {"clip": needed_clip(heads, clip), **own}
    features = jax.jit(network.pixel_model.features)
    looked = make_network(CLIP(CONFIG), look, heads).pixel_model.features
    plain = jax.jit(looked)(params, pixels(), None)
    np.testing.assert_array_equal(features(params, pixels(), None), plain)
    assert not np.allclose(features(params, pixels(), jax.random.key(1)), plain, atol=1e-3)


def test_the_text_classifier_is_zero_shot_clip_and_folds_into_a_linear_head(clip):
    heads, tokens = Heads(4, text=True), prompts()
    module = CLIP(CONFIG)
    network = make_network(module, look, heads, tokens=tokens)
    params = {"clip": clip}
    features = jax.jit(network.encode)(params, pixels())
    embed = jax.jit(lambda t: module.apply({"params": clip}, t, method="encode_text"))
    texts = [normalize(embed(t)) for t in tokens]
    weights = np.stack([normalize(t.mean(axis=0)) for t in texts])
    scale = float(module.apply({"params": clip}, method="scale"))
    logits = jax.jit(network.predict)(params, features)
    np.testing.assert_allclose(logits, scale * features @ weights.T, rtol=1e-4, atol=1e-5)
    linear, own = as_linear(module, clip, tokens)
    np.testing.assert_allclose(predict(linear, own, features), logits, rtol=1e-4, atol=1e-5)


def test_the_text_tower_learns_through_it(clip):
    network = make_network(CLIP(CONFIG), look, Heads(4, text=True), tokens=prompts())
    features = jax.jit(network.encode)({"clip": clip}, pixels())
    grads = jax.jit(jax.grad(lambda p: network.predict({"clip": p}, features)[0, 0]))(clip)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["text_projection"]))
    assert grads["logit_scale"] != 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["visual_projection"]))


def test_texts_are_needed_for_a_text_classifier():
    with pytest.raises(ValueError, match="prompts as tokens"):
        make_network(CLIP(CONFIG), look, Heads(4, text=True))
    with pytest.raises(ValueError, match="no adapter"):
        Heads(4, text=True, adapter=(3,))


@pytest.mark.parametrize("cpu", [True, False])
def test_remat_changes_memory_and_nothing_else(cpu):
    config, images = small_config(), CROP.normalize(pixels())  # the last block is one token's only
    clip = random_params(config)

    def gradient(policy):
        module = CLIP(config, remat=policy, cpu=cpu)
        loss = lambda p: jnp.sum(module.apply({"params": p}, images, method="encode_image") ** 2)  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(clip).compile()
        return compiled(clip), compiled.cost_analysis()["flops"]

    (plain, kept), (one, dots), (two, blocks) = map(gradient, ("none", "dots", "blocks"))
    for again in (one, two):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), plain, again)
    # What is not kept, twice. Of the CPU's way XLA finds some done before, and does it once.
    assert kept * 1.001 < dots < blocks and blocks > (1.05 if cpu else 1.15) * kept


def test_an_unknown_remat_is_refused(clip):
    with pytest.raises(ValueError, match="no remat 'all'; known: none, dots, blocks"):
        CLIP(CONFIG, remat="all").apply(
            {"params": clip}, CROP.normalize(pixels()), method="encode_image"
        )
