"""Reading and writing Hugging Face directories without torch."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax import load_clip, load_tokenizer, save_clip
from clipjax.errors import CheckpointError
from clipjax.model.hf import hf_name, our_path, params_to_hf
from tests.conftest import REPO, random_params, small_config

TINY = REPO / "clipjax" / "assets" / "tiny_clip"


@pytest.fixture
def model_dir(tmp_path):
    config = small_config()
    save_clip(tmp_path, config, random_params(config))
    return tmp_path


def rewrite(directory, change):
    tensors = dict(load_file(directory / "model.safetensors"))
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_round_trip_is_bitwise(model_dir, tmp_path):
    config, params = load_clip(model_dir)
    again = tmp_path / "again"
    save_clip(again, config, params)
    first, second = (load_file(d / "model.safetensors") for d in (model_dir, again))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert load_clip(again)[0] == config == small_config()


def test_names_are_inverse():
    config = small_config()
    for name in params_to_hf(random_params(config), config):
        assert hf_name(our_path(name)) == name


def test_position_ids_are_ignored(model_dir):
    _, before = load_clip(model_dir)
    rewrite(
        model_dir,
        lambda t: t.update({"text_model.embeddings.position_ids": np.arange(12)[None]}),
    )
    _, after = load_clip(model_dir)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, after)))


def test_wrong_tensors_are_listed_as_a_diff(model_dir):
    def spoil(tensors):
        del tensors["visual_projection.weight"]
        tensors["surprise.weight"] = np.zeros(3, np.float32)
        name = "vision_model.encoder.layers.1.mlp.fc1.weight"
        tensors[name] = np.zeros((5, 7), np.float32)

    rewrite(model_dir, spoil)
    with pytest.raises(CheckpointError) as caught:
        load_clip(model_dir)
    message = str(caught.value)
    assert "- visual_projection.weight" in message
    assert "+ surprise.weight (3,)" in message
    assert "! vision_model.encoder.layers.1.mlp.fc1.weight is (5, 7)" in message
    assert "(64, 32)" in message


def test_half_precision_is_read_as_float32(model_dir):
    rewrite(model_dir, lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    _, params = load_clip(model_dir)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda d: (d / "config.json").unlink(), "config.json"),
        (lambda d: (d / "config.json").write_text("{"), "JSON"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors"),
        (
            lambda d: (d / "model.safetensors").write_bytes(
                (d / "model.safetensors").read_bytes()[:5000]
            ),
            "damaged or cut short",
        ),
        (
            lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
            "pickle",
        ),
        (
            lambda d: (d / "config.json").write_text(json.dumps({"model_type": "bert"})),
            "bert",
        ),
    ],
)
def test_damaged_directories_are_explained(model_dir, damage, word):
    damage(model_dir)
    with pytest.raises(CheckpointError, match=word):
        load_clip(model_dir)


def test_missing_directory_is_named():
    with pytest.raises(CheckpointError, match="no/such/model"):
        load_clip("no/such/model")


def test_tokenizer_pads_and_keeps_eos_of_long_texts():
    config, _ = load_clip(TINY)
    tokenize = load_tokenizer(TINY)
    ids = tokenize(["cat", "word " * 100])
    assert ids.shape == (2, config.text.max_position_embeddings)
    assert (ids[:, 0] == config.text.bos_token_id).all()
    assert ids[1, -1] == config.text.eos_token_id != ids[1, -2]
    assert (ids[0, 2:] == config.text.eos_token_id).sum() >= 10


def test_embedded_model_is_small():
    assert sum(f.stat().st_size for f in TINY.glob("*") if f.suffix != ".parquet") <= 8_000_000
