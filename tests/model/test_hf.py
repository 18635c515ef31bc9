"""Reading and writing Hugging Face directories without torch."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax import CLIP, load_clip, load_tokenizer, save_clip
from clipjax.errors import CheckpointError
from clipjax.io.finite import is_finite
from clipjax.model.hf.config import config_from_hf, config_to_hf
from clipjax.model.hf.params import abstract_params, hf_name, our_path, params_to_hf
from tests.conftest import TINY, random_params, read_json, small_config


@pytest.fixture
def model_dir(tmp_path):
    config = small_config()
    save_clip(tmp_path, config, random_params(config))
    return tmp_path


def rewrite(directory, change):
    tensors = dict(load_file(directory / "model.safetensors"))
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def same_bits(one, two):
    return one.dtype == two.dtype and one.tobytes() == two.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_is_bitwise_in_the_stored_dtype(tmp_path, dtype):
    save_clip(tmp_path, small_config(), random_params(small_config()), dtype)
    config, params = load_clip(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    again = tmp_path / "again"
    save_clip(again, config, params)
    first, second = (load_file(d / "model.safetensors") for d in (tmp_path, again))
    assert first.keys() == second.keys()
    assert all(same_bits(first[k], second[k]) for k in first)
    assert load_clip(again)[0] == config == small_config()
    assert read_json(again / "config.json")["dtype"] == np.dtype(dtype).name


@pytest.mark.slow
def test_half_precision_becomes_float32_when_asked(tmp_path):
    params = random_params(small_config())
    save_clip(tmp_path, small_config(), params, np.float16)
    _, loaded = load_clip(tmp_path, dtype=jnp.float32)
    half = jax.tree.map(lambda x: np.asarray(x).astype(np.float16).astype(np.float32), params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, loaded, half)))
    images = np.ones((1, 32, 32, 3), np.float32)
    one, two = (
        CLIP(small_config()).apply({"params": p}, images, method="encode_image")
        for p in (loaded, load_clip(tmp_path)[1])
    )
    np.testing.assert_array_equal(one, two)  # stored in half precision, computed in float32


def test_shards_with_an_index_are_one_model(model_dir, tmp_path):
    tensors = load_file(model_dir / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, model_dir / file)
    index = {"weight_map": {k: file for file, keys in parts.items() for k in keys}}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    _, whole = load_clip(model_dir)
    (model_dir / "model.safetensors").unlink()
    _, sharded = load_clip(model_dir)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, whole, sharded)))
    (model_dir / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="b.safetensors does not exist"):
        load_clip(model_dir)


@pytest.mark.parametrize("missing", ["vision", "text"])
def test_exports_of_one_tower(tmp_path, missing):
    whole = small_config()
    config = dataclasses.replace(whole, **{missing: None})
    params = {k: v for k, v in random_params(whole).items() if not k.startswith(missing)}
    params.pop("visual_projection" if missing == "vision" else "text_projection", None)
    params.pop("logit_scale")
    save_clip(tmp_path, config, params)
    loaded_config, loaded = load_clip(tmp_path)
    assert loaded_config == config
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, loaded)))
    present = "text" if missing == "vision" else "visual"
    rewrite(tmp_path, lambda t: t.pop(f"{present}_projection.weight"))
    with pytest.raises(CheckpointError, match="WithProjection"):
        load_clip(tmp_path)


def test_configs_nested_doubled_and_silent():
    config = small_config()
    data = config_to_hf(config)
    assert config_from_hf(data) == config
    old = dict(data, vision_config_dict=data["vision_config"], vision_config={"hidden_size": 1})
    assert config_from_hf(old) == config  # as transformers: the _dict wins
    silent = config_from_hf({"model_type": "clip"})
    assert (silent.vision.hidden_size, silent.vision.patch_size) == (768, 32)
    assert (silent.text.hidden_size, silent.text.vocab_size) == (512, 49408)
    spoilt = dict(data, vision_config=dict(data["vision_config"], hidden_act="mish"))
    with pytest.raises(CheckpointError, match="mish"):
        config_from_hf(spoilt)


@pytest.mark.slow
def test_logit_scale_may_be_missing_or_a_vector_of_one(model_dir):
    _, before = load_clip(model_dir)
    rewrite(model_dir, lambda t: t.update(logit_scale=t["logit_scale"].reshape(1)))
    assert load_clip(model_dir)[1]["logit_scale"] == before["logit_scale"]
    rewrite(model_dir, lambda t: t.pop("logit_scale"))
    config, params = load_clip(model_dir)
    assert params["logit_scale"] == np.float32(config.logit_scale_init_value)


@pytest.mark.slow
def test_another_image_size_interpolates_and_a_wrong_one_is_refused(model_dir):
    config, params = load_clip(model_dir, image_size=48)
    assert config.vision.image_size == 48
    images = np.ones((1, 48, 48, 3), np.float32)
    encode = lambda p: CLIP(config).apply({"params": p}, images, method="encode_image")
    assert np.isfinite(jax.jit(encode)(params)).all()
    with pytest.raises(CheckpointError, match="patches of 8"):
        load_clip(model_dir, image_size=50)


LOAD = """
import pathlib, sys, jax
from clipjax import load_clip
# Not getrusage: a child's peak there starts at that of the process it was forked from.
status = lambda: pathlib.Path("/proc/self/status").read_text()
peak = lambda: int(status().split("VmHWM:")[1].split()[0]) * 1024
load_clip(sys.argv[1])  # imports and backend are not the model's memory
before = peak()
config, params = load_clip(sys.argv[2])
size = sum(x.nbytes for x in jax.tree.leaves(params))
print(size, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_needs_little_more_memory_than_the_model(model_dir, tmp_path):
    """A half-precision model of 190 MB: neither two copies nor a float32 one is ever in memory."""
    big = small_config(
        vision={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
        text={"hidden_size": 24},
    )
    save_clip(tmp_path / "big", big, random_params(big), np.float16)
    peaks = []
    for _ in range(3):  # threads and caches only ever add to a peak: the least of three is nearest
        done = subprocess.run(
            [sys.executable, "-c", LOAD, model_dir, tmp_path / "big"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        size, peak = map(int, done.stdout.split())
        peaks.append(peak)
        if peak < 1.3 * size:
            break
    peak = min(peaks)
    assert size > 150e6 and 0.9 * size < peak < 1.3 * size, (size, peak)


def test_names_are_inverse():
    config = small_config()
    for name in params_to_hf(random_params(config), config):
        assert hf_name(our_path(name)) == name


@pytest.mark.parametrize("vision, text", [(3, 2), (1, 4), (2, None), (None, 3)])
def test_abstract_parameters_are_those_of_the_whole_model(vision, text):
    depths = {"vision": vision, "text": text}
    deep = {name: {"num_hidden_layers": count} for name, count in depths.items() if count}
    missing = {name: None for name, count in depths.items() if not count}
    config = dataclasses.replace(small_config(**deep), **missing)

    def both(module):
        if vision:
            module.encode_image(jnp.zeros((1, 32, 32, 3)))
        if text:
            module.encode_text(jnp.zeros((1, 2), jnp.int32))

    init = lambda key: CLIP(config).init(key, method=both)["params"]
    whole, found = jax.eval_shape(init, jax.random.key(0)), abstract_params(config)
    assert jax.tree.structure(found) == jax.tree.structure(whole)
    assert jax.tree.leaves(found) == jax.tree.leaves(whole)


@pytest.mark.slow
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
    with pytest.raises(CheckpointError, match="no/such/model.*neither a directory nor a Hub id"):
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


def spoil(name, value):
    def change(tensors):
        tensors[name] = np.array(tensors[name])
        tensors[name].flat[-1] = value

    return change


@pytest.mark.parametrize(
    "name, value, dtype",
    [
        ("vision_model.encoder.layers.1.mlp.fc2.weight", np.nan, np.float32),
        ("text_model.embeddings.token_embedding.weight", -np.inf, np.float16),
        ("text_model.final_layer_norm.bias", np.inf, ml_dtypes.bfloat16),
        ("logit_scale", np.nan, np.float16),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, dtype, value, name):
    save_clip(tmp_path, small_config(), random_params(small_config()), dtype)
    rewrite(tmp_path, spoil(name, value))
    for wanted in (None, jnp.float32):
        with pytest.raises(CheckpointError, match=rf"model.safetensors: tensor {name} .*\(1 of "):
            load_clip(tmp_path, dtype=wanted)


@pytest.mark.slow
def test_numbers_that_a_dtype_does_not_reach_are_refused(model_dir, tmp_path):
    name = "visual_projection.weight"
    rewrite(model_dir, spoil(name, 70_000.0))  # float16 ends at 65,504
    config, params = load_clip(model_dir)
    assert np.asarray(params["visual_projection"]["kernel"]).max() == 70_000
    load_clip(model_dir, dtype=jnp.bfloat16)
    with pytest.raises(CheckpointError, match=f"{name} reaches 7e.04, which float16 does not"):
        load_clip(model_dir, dtype=jnp.float16)
    with pytest.raises(CheckpointError, match=f"{name} reaches 7e.04"):
        save_clip(tmp_path / "half", config, params, np.float16)
    assert not (tmp_path / "half").exists()
    rewrite(model_dir, lambda t: t.update({name: t[name].astype(np.float64) * 1e300}))
    with pytest.raises(CheckpointError, match="float32 does not hold"):
        load_clip(model_dir)


def test_finite_sums_that_overflow_are_finite_and_unused_tensors_may_be_anything(model_dir):
    assert is_finite(np.full(4, 3e38, np.float32)) and is_finite(np.zeros((0, 3), np.float16))
    assert is_finite(np.full(4, 65504, np.float16)) and not is_finite(np.float32("-inf"))
    assert not is_finite(np.array([3e38, 3e38, np.nan], np.float32))
    ids = {"vision_model.embeddings.position_ids": np.full((1, 17), np.nan, np.float32)}
    rewrite(model_dir, lambda t: t.update(ids))
    load_clip(model_dir)


@pytest.mark.parametrize("prefix", ["clip.", "module.", "model.", "base_model.model.", "net.clip."])
def test_the_prefix_of_a_wrapper_is_left_out_and_said(model_dir, capsys, prefix):
    _, before = load_clip(model_dir)
    assert not capsys.readouterr().err
    tensors = load_file(model_dir / "model.safetensors")
    save_file({prefix + k: v for k, v in tensors.items()}, model_dir / "model.safetensors")
    _, after = load_clip(model_dir)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, after)))
    assert f"all begin with {prefix!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "rename",
    [
        lambda k: "clip." + k if "text" in k else k,  # not all
        lambda k: "somebody." + k,
        lambda k: k.replace("encoder.layers", "transformer.resblocks"),
    ],
)
def test_names_that_do_not_fit_are_refused_in_a_few_lines(model_dir, rename):
    tensors = load_file(model_dir / "model.safetensors")
    save_file({rename(k): v for k, v in tensors.items()}, model_dir / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_clip(model_dir)
    message = str(caught.value)
    wrong = sum(rename(k) != k for k in tensors)
    missing = sum(rename(k) != k for k in tensors if k != "logit_scale")  # that may be missing
    assert f"({missing} missing -, {wrong} unexpected +, 0 of the wrong shape !)" in message
    assert len(message.splitlines()) <= 20


@pytest.mark.parametrize(
    "where, values, word",
    [
        ("", {"projection_dim": "16"}, "projection_dim is '16'"),
        ("", {"logit_scale_init_value": float("nan")}, "logit_scale_init_value is nan"),
        ("text_config", {"max_position_embeddings": None}, "max_position_embeddings is None"),
        ("vision_config", {"hidden_size": 32.0}, "hidden_size is 32.0"),
        ("vision_config", {"layer_norm_eps": float("inf")}, "layer_norm_eps is inf"),
    ],
)
def test_sizes_that_are_no_numbers_are_refused(where, values, word):
    data = config_to_hf(small_config())
    (data[where] if where else data).update(values)
    with pytest.raises(CheckpointError, match=word):
        config_from_hf(data)
