"""Heads and the text side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import Heads, zero_shot_classifier
from clipjax.model.clip import CLIP, pool_positions
from clipjax.model.heads import as_model, class_embeddings, fold_affine, init_heads, predict
from clipjax.model.text import without_padding
from tests.conftest import random_params, small_config

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8)), jnp.float32)


@pytest.mark.slow
def test_depths_come_from_the_widths():
    heads = Heads(3, adapter=(6, 6, 4), classifier=(5,), discriminator=(7,))
    params = jax.jit(heads.init)(jax.random.key(0), X)["params"]
    assert {k: len(v) for k, v in params.items()} == {
        "adapter": 3,
        "classifier": 2,
        "discriminator": 2,
    }
    model = as_model(heads)
    features = model.features(params, X, None)
    assert features.shape == (5, 4)
    assert model.discriminate(params, features).shape == (5, 2)
    logits = model.classify(params, features)
    np.testing.assert_allclose(predict(heads, params, X), logits, rtol=1e-6)


def test_without_adapter_and_domain_head_only_the_classifier_has_parameters():
    params = Heads(3).init(jax.random.key(0), X)["params"]
    assert set(params) == {"classifier"} and set(params["classifier"]) == {"layer_0"}


def test_a_linear_head_starts_at_zero_shot():
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(3, 8)), jnp.float32)
    heads = Heads(3)
    params = init_heads(heads, jax.random.key(0), X, weights, 20.0)
    np.testing.assert_allclose(predict(heads, params, X), 20.0 * X @ weights.T, rtol=1e-5)
    random = init_heads(Heads(3, classifier=(4,)), jax.random.key(0), X, weights, 20.0)
    assert set(random["classifier"]) == {"layer_0", "layer_1"}


@pytest.mark.slow
def test_an_ensemble_is_its_members():
    heads = Heads(3, classifier=(4,), members=5)
    params = jax.jit(heads.init)(jax.random.key(0), X)["params"]
    assert params["classifier"]["layer_0"]["kernel"].shape == (5, 8, 4)
    assert len(np.unique(params["classifier"]["layer_0"]["kernel"][:, 0, 0])) == 5
    logits = as_model(heads).classify(params, X)
    assert logits.shape == (5, 5, 3)
    single = Heads(3, classifier=(4,))
    for m in range(5):
        one = jax.tree.map(lambda x, m=m: x[m], params)
        np.testing.assert_allclose(logits[m], predict(single, one, X), rtol=1e-5, atol=1e-6)
    mean = jax.nn.softmax(logits).mean(axis=0)
    np.testing.assert_allclose(jax.nn.softmax(predict(heads, params, X)), mean, rtol=1e-5)


@pytest.mark.slow
def test_dropout_needs_an_rng_and_keeps_the_mean():
    heads = Heads(3, adapter=(64, 64), dropout=0.5)
    params = jax.jit(heads.init)(jax.random.key(0), X)["params"]
    model = as_model(heads)
    assert jnp.array_equal(model.features(params, X, None), model.features(params, X, None))
    one, two = (model.features(params, X, jax.random.key(s)) for s in (0, 1))
    assert not jnp.array_equal(one, two)


@pytest.mark.parametrize(
    "ids, eos, expected",
    [([[5, 9, 3, 9]], 9, 1), ([[5, 7, 99, 1]], 2, 2)],
)
def test_both_pooling_rules(ids, eos, expected):
    assert int(pool_positions(jnp.array(ids), eos)[0]) == expected


def test_zero_shot_classifier_normalises_averages_normalises():
    table = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    order = ["a cat", "the cat", "a dog", "the dog"]
    tokenize = lambda texts: np.array([[order.index(t) if t else 0] for t in texts])
    encode = lambda ids: jnp.asarray(table)[ids[:, 0]]
    weights = zero_shot_classifier(
        encode, tokenize, ["cat", "dog"], ["a {}", "the {}"], batch_size=3
    )
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    mean = unit.reshape(2, 2, 6).mean(axis=1)
    np.testing.assert_allclose(
        weights, mean / np.linalg.norm(mean, axis=1, keepdims=True), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("pad", [99, 0])  # OpenAI pads with EOS, others with a word
@pytest.mark.parametrize("eos", [99, 2])  # 2: the largest id is pooled
def test_texts_mean_the_same_without_padding(pad, eos):
    config = small_config(text={"eos_token_id": eos, "max_position_embeddings": 40})
    module, params = CLIP(config), random_params(config)
    ids = np.full((5, 40), pad, np.int32)
    for row, length in enumerate((3, 5, 9, 12, 17)):
        ids[row, :length] = 1 + np.arange(length)
        ids[row, length] = 99
    cut = without_padding(ids)
    assert cut.shape == (5, 24) and (cut == ids[:, :24]).all()
    encode = lambda x: module.apply({"params": params}, x, method="encode_text")
    np.testing.assert_allclose(encode(cut), encode(ids), rtol=2e-5, atol=1e-6)


def test_a_text_that_fills_the_context_stays_whole():
    ids = np.array([[7, 1, 9, 9], [7, 1, 2, 9]])
    np.testing.assert_array_equal(without_padding(ids, multiple=1), ids)


def test_a_linear_head_without_bias_folds_into_class_embeddings():
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(3, 8)), jnp.float32)
    heads = Heads(3, class_bias=False)
    params = init_heads(heads, jax.random.key(0), X, weights, 20.0)
    np.testing.assert_allclose(class_embeddings(heads, params, 20.0), weights, rtol=1e-6)
    trained = jax.tree.map(lambda x: x + 0.1, params)
    folded = class_embeddings(heads, trained, 20.0)
    np.testing.assert_allclose(20.0 * X @ folded.T, predict(heads, trained, X), rtol=1e-5)
    biased = {"classifier": {"layer_0": {**params["classifier"]["layer_0"], "bias": jnp.arange(3)}}}
    with pytest.raises(ValueError, match="biases differ"):
        class_embeddings(Heads(3), biased, 20.0)
    with pytest.raises(ValueError, match="linear head"):
        class_embeddings(Heads(3, classifier=(4,)), params, 20.0)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize(
    "heads",
    [
        Heads(3, class_bias=False),
        Heads(3, classifier=(4,), members=2, class_bias=False),
        Heads(3, members=2, class_bias=False),
        Heads(3, adapter=(4,), discriminator=(5,)),
    ],
    ids=["linear", "ensemble", "linear ensemble", "adapter"],
)
def test_an_affine_map_folds_into_the_first_layer(heads, diagonal):
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=(7, 6)), rng.normal(size=6)
    matrix = rng.normal(size=6 if diagonal else (6, 6))
    mapped = (x - mean) * matrix if diagonal else (x - mean) @ matrix
    params = heads.init(jax.random.key(0), jnp.zeros((1, 6)))["params"]
    made, folded = fold_affine(heads, params, jnp.float32(mean), jnp.float32(matrix))
    shapes = jax.eval_shape(made.init, jax.random.key(0), jnp.zeros((1, 6)))["params"]
    assert jax.tree.map(jnp.shape, dict(folded)) == jax.tree.map(jnp.shape, dict(shapes))
    wanted = predict(heads, params, jnp.float32(mapped))
    np.testing.assert_allclose(predict(made, folded, jnp.float32(x)), wanted, rtol=1e-4, atol=1e-4)
