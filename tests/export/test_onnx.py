"""ONNX files answer as JAX does, for every kind of head, activation and end of text."""

import json

import jax
import numpy as np
import pytest

from clipjax.errors import CheckpointError, ConfigError
from clipjax.export import onnx as ours
from clipjax.model.clip import CLIP, normalize
from clipjax.model.heads import Heads, predict
from tests.conftest import random_params, random_tokens, small_config

onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')
pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')

CLASSES = ("ant", "bee", "cat")
KINDS = [  # of heads, with an activation and the id that ends a text
    ({}, "quick_gelu", 99),
    ({"class_bias": False}, "gelu_new", 2),
    ({"adapter": (8, 8), "classifier": (8,)}, "gelu", 99),
    ({"classifier": (8,), "members": 3}, "silu", 99),
]


def saved(path, config, **options):
    """Writes a random CLIP with random heads; returns their parameters."""
    heads = Heads(len(CLASSES), **options)
    features = np.zeros((1, config.projection_dim))
    head = jax.jit(heads.init)(jax.random.key(1), features)["params"]
    noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape)
    head = jax.jit(lambda head: jax.tree.map(noise, head))(head)
    params = random_params(config)
    ours.save_onnx(path, config, params, heads, head, CLASSES)
    return params, heads, head


def ran(path, **inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, inputs), session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("options, act, end", KINDS)
def test_images_and_texts_are_answered_as_by_jax(tmp_path, options, act, end):
    changes = {"hidden_act": act}
    config = small_config(vision=changes, text=changes | {"eos_token_id": end})
    params, heads, head = saved(tmp_path, config, **options)
    pixels = np.random.default_rng(1).standard_normal((5, 3, 32, 32), np.float32)
    (found, embeds), about = ran(tmp_path / ours.IMAGE, pixel_values=pixels)
    # `save_onnx` has compared embeddings; these are others.
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found, jax.nn.softmax(predict(heads, head, embeds)), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-2  # the images differ, by more than is tolerated
    assert tuple(json.loads(about["classes"])) == CLASSES
    ids = random_tokens(small_config(), 6)[:, :9]  # fewer columns than the tower has
    ids[:, -1] = 99
    (found,), _ = ran(tmp_path / ours.TEXT, input_ids=ids.astype(np.int64))
    apply = jax.jit(CLIP(config).apply, static_argnames="method")
    wanted = normalize(apply({"params": params}, ids, method="encode_text"))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_weights_of_a_large_model_have_a_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "LARGEST", 1000)
    relu = {"hidden_act": "relu"}
    saved(tmp_path, small_config(vision=relu, text=relu))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{file}{end}" for file in (ours.IMAGE, ours.TEXT) for end in ("", ".data")}
    assert (tmp_path / ours.IMAGE).stat().st_size < (tmp_path / f"{ours.IMAGE}.data").stat().st_size


def test_what_has_no_onnx_is_said_before_anything_is_written(tmp_path, monkeypatch):
    whole = small_config()
    for tower, file in (("vision", ours.IMAGE), ("text", ours.TEXT)):
        config = type(whole)(**{**vars(whole), tower: None})
        with pytest.raises(ConfigError, match=f"no (image|text) tower, of which {file}"):
            ours.save_onnx(tmp_path, config, {}, Heads(3), {}, CLASSES)
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="need onnx and onnxruntime: pip install"):
        ours.check_onnx(whole)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "predict", lambda heads, params, x: 2 * predict(heads, params, x))
    with pytest.raises(CheckpointError, match="probabilities of image_classifier.onnx by onnxrunt"):
        saved(tmp_path, small_config())
