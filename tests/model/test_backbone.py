"""Encoder and heads as the pure functions that methods take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt.method import Classes, on_backbone
from clipjax.data.images.augment import random_resized_crop
from clipjax.data.images.preprocess import Preprocess
from clipjax.model.backbone import as_linear, make_backbone, make_head, tower_params
from clipjax.model.clip import CLIP, normalize
from clipjax.model.heads import Heads, member_logits, predict
from tests.conftest import random_params, random_tokens, small_config

# One layer a tower: little here depends on depth.
ONE = {"num_hidden_layers": 1}
CONFIG = small_config(vision=ONE, text=ONE)
CROP = Preprocess(size=32)


def look(images, rng):
    return CROP.normalize(images)


def augmented(images, rng):
    crop = lambda x: random_resized_crop(rng, x, smallest=0.3)
    return CROP.normalize(images if rng is None else crop(images))


@pytest.fixture(scope="module")
def clip():
    return random_params(CONFIG)


def pixels(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def prompts(classes=4, each=3):
    return random_tokens(CONFIG, classes * each).reshape(classes, each, -1)


def texts_of(tokens=None):
    """Four classes; of tokens where a text tower reads them."""
    return Classes(("a", "b", "c", "d"), tokens, jnp.zeros((4, 16)), 1.0)


def start(head):
    """Parameters of a head; as one program, not one for each of its operations."""
    return jax.jit(head.init)(jax.random.key(0))


@pytest.mark.slow
def test_pixels_and_features_meet(clip):
    heads, classes = Heads(4, adapter=(6,), classifier=(5,), discriminator=(3,)), texts_of()
    seeing, cached = (make_backbone(CLIP(CONFIG), look, towers) for towers in ((), ("image",)))
    head = make_head(heads, seeing, classes)
    own = start(head)
    params = {"clip": tower_params(clip, ("image", *head.towers)), **own}
    assert set(params["clip"]) == {"vision", "visual_projection"}  # nothing idle in the tree
    features = jax.jit(seeing.encode["image"])(params, pixels())
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    direct = jax.jit(on_backbone(seeing, head).features)(params, pixels(), None)
    again = on_backbone(cached, make_head(heads, cached, classes)).features(own, features, None)
    np.testing.assert_allclose(direct, again, rtol=1e-5)
    for function, one in ((head.predict, predict), (head.members, member_logits)):
        np.testing.assert_allclose(
            function(params, features, classes), one(heads, own, features), rtol=1e-6
        )


@pytest.mark.slow
def test_augmentation_needs_a_key_and_changes_the_features(clip):
    def features_of(look):
        backbone = make_backbone(CLIP(CONFIG), look)
        head = make_head(Heads(4, adapter=(6,)), backbone, texts_of())
        params = {"clip": tower_params(clip, ("image",)), **start(head)}
        return functools.partial(jax.jit(on_backbone(backbone, head).features), params, pixels())

    features, plain = features_of(augmented), features_of(look)(None)
    np.testing.assert_array_equal(features(None), plain)
    assert not np.allclose(features(jax.random.key(1)), plain, atol=1e-3)


@pytest.mark.slow
def test_the_text_classifier_is_zero_shot_clip_and_folds_into_a_linear_head(clip):
    tokens, module = prompts(), CLIP(CONFIG)
    backbone, classes = make_backbone(module, look), texts_of(tokens)
    head = make_head(Heads(4, text=True), backbone, classes)
    assert head.towers == ("text",) and start(head) == {}
    params = {"clip": tower_params(clip, ("image", *head.towers))}
    jax.tree.map(np.testing.assert_array_equal, params["clip"], dict(clip))  # all of CLIP
    features = jax.jit(backbone.encode["image"])(params, pixels())
    embed = jax.jit(lambda t: module.apply({"params": clip}, t, method="encode_text"))
    texts = [normalize(embed(t)) for t in tokens]
    weights = np.stack([normalize(t.mean(axis=0)) for t in texts])
    scale = float(module.apply({"params": clip}, method="scale"))
    logits = jax.jit(lambda p, x: head.predict(p, x, classes))(params, features)
    np.testing.assert_allclose(logits, scale * features @ weights.T, rtol=1e-4, atol=1e-5)
    trained = jax.jit(head.model.classify)(params, features)  # what losses see
    np.testing.assert_allclose(trained, logits, rtol=1e-6)
    linear, own = as_linear(module, clip, classes)
    np.testing.assert_allclose(predict(linear, own, features), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_text_tower_learns_through_it(clip):
    backbone, classes = make_backbone(CLIP(CONFIG), look), texts_of(prompts())
    head = make_head(Heads(4, text=True), backbone, classes)
    features = jax.jit(backbone.encode["image"])({"clip": clip}, pixels())
    answer = lambda p: head.predict({"clip": p}, features, classes)[0, 0]
    grads = jax.jit(jax.grad(answer))(clip)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["text_projection"]))
    assert grads["logit_scale"] != 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["visual_projection"]))


def test_text_heads_have_no_layers_of_their_own():
    with pytest.raises(ValueError, match="no adapter"):
        Heads(4, text=True, adapter=(3,))


def test_heads_refuse_classes_that_they_have_no_parameters_for():
    head = make_head(Heads(4), make_backbone(CLIP(CONFIG), look, ("image",)), texts_of())
    params, others = start(head), texts_of()._replace(names=("a", "b", "c", "e"))
    with pytest.raises(ValueError, match="cannot name 'e'"):
        head.predict(params, jnp.zeros((1, 16)), others)


@pytest.mark.slow
def test_remat_changes_memory_and_nothing_else():
    config, images = small_config(), CROP.normalize(pixels())  # the last block is one token's only
    clip = random_params(config)

    def gradient(policy):
        module = CLIP(config, remat=policy)
        loss = lambda p: jnp.sum(module.apply({"params": p}, images, method="encode_image") ** 2)
        compiled = jax.jit(jax.grad(loss)).lower(clip).compile()
        return compiled(clip), compiled.cost_analysis()["flops"]

    (plain, kept), (one, dots), (two, blocks) = map(gradient, ("none", "dots", "blocks"))
    for again in (one, two):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), plain, again)
    # What is not kept, twice. Of the CPU's way XLA finds some done before, and does it once.
    assert kept * 1.001 < dots < blocks and blocks > 1.05 * kept


def test_an_unknown_remat_is_refused(clip):
    with pytest.raises(ValueError, match="no remat 'all'; known: none, dots, blocks"):
        CLIP(CONFIG, remat="all").apply(
            {"params": clip}, CROP.normalize(pixels()), method="encode_image"
        )
