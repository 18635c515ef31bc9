"""Learned prompts: where context stands, what it starts as, what trains, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt import cocoop, coop, kgcoop, maple, promptsrc
from clipjax.adapt.context import in_chunks, lay_out
from clipjax.adapt.method import Classes, Words
from clipjax.adapt.step import init_state, make_step
from clipjax.model.backbone import make_backbone
from clipjax.model.clip import CLIP, normalize
from clipjax.model.shapes import SHAPES
from tests.conftest import random_params, small_config

CONFIG = small_config()
PARAMS = {"clip": random_params(CONFIG) | {"logit_scale": jnp.float32(3.0)}}
BOS, EOS, STOP = 98, 99, 50
WORDS, NAMES = np.array([10, 11, 12, 10]), ("oak", "sea lion", "elm")
TEXTS = {"oak": [20], "sea lion": [21, 22], "elm": [23], "ash": [24], "fir": [25, 26, 27]}
RNG = np.random.default_rng(0)
IMAGES = normalize(jnp.asarray(RNG.normal(size=(6, 16)), jnp.float32))
LABELS = jnp.array([0, 1, 2, 0, 1, 2])


def texts_of(names=NAMES, scale=7.0):
    """Classes of some names, whose prompts are "a photo of a NAME."."""
    pad = lambda ids: (ids + [EOS] * 12)[:12]
    bare = np.array([pad([BOS, *TEXTS[name], STOP]) for name in names], np.int32)
    tokens = np.array([[pad([BOS, *WORDS, *TEXTS[name], STOP])] for name in names], np.int32)
    weights = np.random.default_rng(3).normal(size=(len(names), 16)).astype(np.float32)
    return Classes(tuple(names), tokens, normalize(jnp.asarray(weights)), scale, bare)


def backbone_of(config=CONFIG, cached=("image",)):
    table = np.asarray(PARAMS["clip"]["text"]["token_embedding"])
    width = config.text.hidden_size
    known = table[WORDS] if config is CONFIG else np.zeros((4, width), np.float32)
    words = {"a photo of a": Words(WORDS, known)}
    return make_backbone(CLIP(config), lambda pixels, rng: pixels, cached, words)


def answer(method, params, texts):
    """Logits of the images among some classes, in one program."""
    return jax.jit(lambda params: method.predict(params, IMAGES, texts))(params)


def start(method, seed=0):
    """The method's own parameters beside the frozen towers'."""
    return method.init(jax.random.key(seed)) | PARAMS


@pytest.mark.parametrize(
    ("position", "rows"),
    [
        ("end", [[-1, 0, 1, 2, -1, -1, -1, -1], [-1, 0, 1, 2, -1, -1, -1, -1]]),
        ("middle", [[-1, 0, -1, 1, 2, -1, -1, -1], [-1, 0, -1, -1, 1, 2, -1, -1]]),
        ("front", [[-1, -1, 0, 1, 2, -1, -1, -1], [-1, -1, -1, 0, 1, 2, -1, -1]]),
    ],
)
def test_context_stands_behind_around_and_before_the_name(position, rows):
    found = lay_out(texts_of(NAMES[:2]), 3, position, CONFIG.text)
    np.testing.assert_array_equal(found.rows, rows)
    for ids, at, name in zip(found.ids, found.rows, NAMES, strict=False):
        left = [token for token, row in zip(ids, at, strict=True) if row < 0]
        assert left[: len(TEXTS[name]) + 3] == [BOS, *TEXTS[name], STOP, EOS]
        assert list(ids).index(EOS) == len(TEXTS[name]) + 5  # where the tower pools


@pytest.mark.parametrize("make", [coop.make_method, kgcoop.make_method])
def test_words_before_training_are_zero_shot_to_the_bit(make):
    backbone, texts = backbone_of(), texts_of()
    method = make(backbone, texts, words="a photo of a")
    params = start(method)
    zero_shot = lambda p: backbone.encode["text"](p, jnp.asarray(texts.tokens[:, 0, :9]))
    wanted = jax.jit(lambda p: backbone.scale(p) * IMAGES @ zero_shot(p).T)(params)
    np.testing.assert_array_equal(answer(method, params, texts), wanted)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_permuted_and_new_classes_have_the_same_texts(position):
    method = coop.make_method(backbone_of(), texts_of(), context=3, position=position)
    params = start(method)
    logits = answer(method, params, texts_of())
    order = [2, 0, 1]
    other = answer(method, params, texts_of([NAMES[k] for k in order]))
    np.testing.assert_allclose(other, logits[:, order], rtol=1e-5, atol=1e-5)
    more = answer(method, params, texts_of(("elm", "ash", "oak", "fir")))
    np.testing.assert_allclose(more[:, [2, 0]], logits[:, [0, 2]], rtol=1e-5, atol=1e-5)


def test_class_specific_context_is_of_its_classes_alone():
    method = coop.make_method(backbone_of(), texts_of(), context=2, per_class=True)
    params = start(method)
    assert params["prompt"]["context"].shape == (3, 2, 24)
    shared = start(coop.make_method(backbone_of(), texts_of(), context=2))
    alike = jnp.broadcast_to(shared["prompt"]["context"], (3, 2, 24))
    one = answer(coop.make_method(backbone_of(), texts_of(), context=2), shared, texts_of())
    two = answer(method, params | {"prompt": {"context": alike}}, texts_of())
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"of its 3 classes alone.*'ash'; set per_class=False"):
        method.predict(params, IMAGES, texts_of(("oak", "ash")))


def test_chunks_change_neither_texts_nor_gradients():
    """Of 3 classes in chunks of 2: the last one is filled up."""
    values = {}
    for chunk in (2, 64):
        for per_class in (False, True):
            made = {"context": 2, "per_class": per_class, "chunk": chunk}
            method = coop.make_method(backbone_of(), texts_of(), **made)
            batch = {"source": {"inputs": IMAGES, "label": LABELS}}
            lose = lambda own, m=method, b=batch: m.loss(own | PARAMS, b, None, 0.0)[0]
            own = method.init(jax.random.key(1))
            values[chunk, per_class] = jax.jit(jax.value_and_grad(lose))(own)
    for per_class in (False, True):
        (a, x), (b, y) = values[2, per_class], values[64, per_class]
        np.testing.assert_allclose(a, b, rtol=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), x, y)
    assert in_chunks(lambda part: part[0], (jnp.arange(7),), 3).tolist() == [*range(7)]


@pytest.mark.parametrize("name", ["coop", "kgcoop"])
def test_training_raises_accuracy_and_moves_context_alone(name):
    make = {"coop": coop.make_method, "kgcoop": kgcoop.make_method}[name]
    more = {"knowledge_weight": 0.1} if name == "kgcoop" else {}
    method = make(backbone_of(), texts_of(), words="a photo of a", **more)
    optimizer = optax.adam(0.03)
    own = method.init(jax.random.key(0))
    step = jax.jit(make_step(method.loss, optimizer, total_steps=30))
    batch = {"source": {"inputs": IMAGES, "label": LABELS, "mask": jnp.arange(6) < 5}}
    state, found = init_state(own, optimizer), []
    for _ in range(30):
        state, metrics = step(state, batch, PARAMS)
        found.append(metrics)
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[-1]["source_accuracy"] > found[0]["source_accuracy"]
    assert jax.tree.structure(state.params) == jax.tree.structure(own)
    assert not np.array_equal(state.params["prompt"]["context"], own["prompt"]["context"])
    assert ("knowledge_loss" in metrics) == (name == "kgcoop")


def test_padded_rows_change_nothing():
    method = kgcoop.make_method(backbone_of(), texts_of())
    step = make_step(method.loss, optimizer := optax.sgd(0.1), total_steps=1)
    state = init_state(method.init(jax.random.key(0)), optimizer)
    whole = {"source": {"inputs": IMAGES[:4], "label": LABELS[:4]}}
    mask = jnp.arange(6) < 4
    inputs = jnp.where(mask[:, None], IMAGES, jnp.nan)
    padded = {"source": {"inputs": inputs, "label": LABELS, "mask": mask}}
    (one, _), (two, _) = (jax.jit(step)(state, batch, PARAMS) for batch in (whole, padded))
    context = lambda s: s.params["prompt"]["context"]
    np.testing.assert_allclose(context(two), context(one), rtol=1e-5, atol=1e-7)


def test_knowledge_is_the_mean_distance_of_class_texts():
    texts, batch = texts_of(), {"source": {"inputs": IMAGES, "label": LABELS}}
    plain = coop.make_method(backbone_of(), texts, words="a photo of a")
    method = kgcoop.make_method(backbone_of(), texts, knowledge_weight=8.0)
    params = start(method)
    lose = lambda m: jax.jit(lambda p: m.loss(p, batch, None, 0.0))(params)
    (value, metrics), (bare, _) = lose(method), lose(plain)
    own = backbone_of().encode["text"](params, texts.tokens[:, 0, :9])
    away = 1 - np.mean(np.sum(np.asarray(own) * np.asarray(texts.weights), axis=1))
    np.testing.assert_allclose(metrics["knowledge_loss"], away, rtol=1e-5)
    np.testing.assert_allclose(value, bare + 8 * away, rtol=1e-5)


def count(method):
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


B16 = functools.partial(backbone_of, SHAPES["vit_b16"])
COUNTS = {
    "coop": (coop, {"context": 16}, 8_192),
    "coop of words": (coop, {"words": "a photo of a"}, 2_048),
    "coop of classes": (coop, {"per_class": True}, 3 * 8_192),
    "kgcoop": (kgcoop, {}, 2_048),
    "cocoop": (cocoop, {}, 35_360),
    "maple": (maple, {}, 3_555_072),
    "promptsrc": (promptsrc, {}, 46_080),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_numbers_of_parameters(name):
    module, options, wanted = COUNTS[name]
    bare = np.array([[49406, 320, 269, 49407]] * 3, np.int32)
    classes = texts_of()._replace(bare=bare, weights=jnp.zeros((3, 512)))
    assert count(module.make_method(B16(), classes, **options)) == wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"position": "begin"}, "position is 'begin'; known: end, middle, front"),
        ({"context": 8}, r"8 vectors of context and 'sea lion' are 13 tokens.*takes 12.*at most 7"),
        ({"context": 3, "words": "a photo of a"}, "are 4 tokens, and context is 3"),
        ({"words": "a photo of a", "per_class": True}, "starts from random vectors"),
        ({"words": "  "}, "are no tokens"),
        ({"chunk": 0}, "chunk above 0"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        coop.make_method(backbone_of(), texts_of(), **options)
