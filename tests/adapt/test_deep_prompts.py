"""CoCoOp, MaPLe, PromptSRC: what their prompts are, what trains, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt import cocoop, coop, maple, promptsrc
from clipjax.adapt.step import init_state, make_step
from clipjax.model.clip import normalize
from tests.adapt.test_coop import (
    B16,
    IMAGES,
    LABELS,
    NAMES,
    PARAMS,
    answer,
    backbone_of,
    start,
    texts_of,
)

DEEP = {"maple": maple, "promptsrc": promptsrc}
RNG = np.random.default_rng(1)
PIXELS = jnp.asarray(RNG.normal(size=(6, 32, 32, 3)), jnp.float32)
SHARED = PARAMS | {"teacher": PARAMS["clip"]}
HALF = {"words": "a photo of a", "depth": 2, "tokens": 2}


def seeing(name, **options):
    return DEEP[name].make_method(backbone_of(cached=()), texts_of(), **HALF | options)


def test_cocoop_compares_each_image_with_texts_of_its_own():
    """As CoOp with the image's context, image by image; in chunks too, with the same gradient."""
    texts, found = texts_of(), {}
    batch = {"source": {"inputs": IMAGES, "label": LABELS}}
    for chunk in (4, 64):
        method = cocoop.make_method(backbone_of(), texts, chunk=chunk)
        own = method.init(jax.random.key(0))
        run = lambda own, m=method: m.loss(own | PARAMS, batch, None, 0.0)[0]
        found[chunk] = jax.jit(jax.value_and_grad(run))(own)
    np.testing.assert_allclose(found[4][0], found[64][0], rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, found[4][1], found[64][1])
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(found[4][1]))
    logits = answer(method, params := own | PARAMS, texts)
    one, two = (own["meta"][f"layer_{i}"] for i in range(2))
    bias = np.maximum(IMAGES[3] @ one["kernel"] + one["bias"], 0) @ two["kernel"] + two["bias"]
    plain = coop.make_method(backbone_of(), texts, words="a photo of a")
    mine = {"prompt": {"context": own["prompt"]["context"] + bias}}
    np.testing.assert_allclose(logits[3], answer(plain, params | mine, texts)[3], rtol=1e-4)
    order = [2, 0, 1]
    other = answer(method, params, texts_of([NAMES[k] for k in order]))
    np.testing.assert_allclose(other, logits[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DEEP)
def test_deep_prompts_train_alone_and_the_loss_falls(name):
    method, optimizer = seeing(name), optax.adam(0.02)
    own = method.init(jax.random.key(0))
    step = jax.jit(make_step(method.loss, optimizer, total_steps=8))
    inputs = PIXELS.at[5].set(jnp.nan)
    batch = {"source": {"inputs": inputs, "label": LABELS, "mask": jnp.arange(6) < 5}}
    state, losses = init_state(own, optimizer), []
    for _ in range(8):
        state, metrics = step(state, batch, SHARED)
        losses.append(float(metrics["class_loss"]))
    assert losses[-1] < losses[0]
    moved = lambda a, b: bool(np.isfinite(a).all() and not np.array_equal(a, b))
    assert all(jax.tree.leaves(jax.tree.map(moved, state.params, own)))
    if name == "maple":  # padded rows change nothing
        whole = {"source": {"inputs": PIXELS[:5], "label": LABELS[:5]}}
        _, other = step(init_state(own, optimizer), whole, SHARED)
        np.testing.assert_allclose(other["loss"], losses[0], rtol=1e-5)


def test_maple_of_depth_one_with_silent_couplings_adds_tokens_of_zeros():
    method = seeing("maple", depth=1)
    params = start(method)
    assert "deep" not in params["prompt"] and params["coupling"]["kernel"].shape == (1, 24, 32)
    silent = params | {"coupling": jax.tree.map(jnp.zeros_like, params["coupling"])}
    towers, zeros = backbone_of(cached=()), jnp.zeros((2, 32))
    wanted = jax.jit(towers.encode["image"])(PARAMS, PIXELS, None, zeros)
    np.testing.assert_allclose(jax.jit(method.embed)(silent, PIXELS), wanted, rtol=1e-5, atol=1e-6)
    # The text side is zero-shot: its two tokens still are the words.
    cached = maple.make_method(backbone_of(), texts_of(), **HALF | {"depth": 1})
    plain = coop.make_method(backbone_of(), texts_of(), words="a photo of a")
    expected = answer(plain, start(plain), texts_of())
    np.testing.assert_array_equal(answer(cached, params, texts_of()), expected)


def test_promptsrc_adds_its_three_distances():
    method = seeing("promptsrc")
    params = method.init(jax.random.key(0)) | SHARED
    batch = {"source": {"inputs": PIXELS, "label": LABELS}}
    value, found = jax.jit(lambda p: method.loss(p, batch, None, 0.0))(params)
    towers, texts = backbone_of(cached=()), texts_of()
    image = jax.jit(towers.encode["image"])(PARAMS, PIXELS)
    own = jax.jit(method.embed)(params, PIXELS)
    np.testing.assert_allclose(found["image_distance"], np.abs(own - image).mean(), rtol=1e-4)
    zero_shot = jax.nn.log_softmax(texts.scale * image @ texts.weights.T)
    cached = promptsrc.make_method(backbone_of(), texts, **HALF)
    predict = jax.jit(lambda params, image: cached.predict(params, image, texts))
    answers = jax.nn.log_softmax(predict(params, own))
    apart = np.sum(np.exp(zero_shot) * (zero_shot - answers)) / answers.size
    np.testing.assert_allclose(found["logit_distance"], apart, rtol=1e-3)
    more = 25 * found["text_distance"] + 10 * found["image_distance"] + found["logit_distance"]
    np.testing.assert_allclose(value, found["class_loss"] + more, rtol=1e-5)
    grown = lambda p: method.loss(params | {"teacher": p}, batch, None, 0.0)[0]
    still = jax.jit(jax.grad(grown))(PARAMS["clip"])
    assert not any(np.any(x) for x in jax.tree.leaves(still))


def test_couplings_begin_as_copies_of_one():
    kernel = seeing("maple").init(jax.random.key(0))["coupling"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])
    three = maple.make_method(B16(), texts_of()._replace(weights=jnp.zeros((3, 512))), depth=4)
    shapes = jax.eval_shape(three.init, jax.random.key(0))["coupling"]
    assert shapes["kernel"].shape == (4, 512, 768) and shapes["bias"].shape == (4, 768)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 3}, "depth=3 is beyond the 2 blocks of the text tower; give at most 2"),
        ({"tokens": 5}, "words='a photo of a' are 4 tokens, and 5 are learned"),
        ({"words": ""}, "and the words that the tokens start as"),
        ({"depth": 0}, "give whole numbers above 0"),
    ],
)
@pytest.mark.parametrize("name", DEEP)
def test_what_cannot_be_is_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        seeing(name, **options)


def test_images_of_a_prompted_tower_have_length_one():
    method = seeing("promptsrc")
    own = jax.jit(method.embed)(start(method), PIXELS)
    np.testing.assert_allclose(normalize(own), own, rtol=1e-5)
