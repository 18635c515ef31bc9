"""What a model is told from another by, and who refuses to go on with another one."""

import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax import Heads, load_adapted, save_adapted
from clipjax.commands import suite
from clipjax.configs import dann
from clipjax.data.features.identity import differences, identity_of
from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import CheckpointError, NonFiniteError
from clipjax.export.adapted import Trained
from clipjax.model.hf.load import load_clip
from clipjax.study.model_record import (
    TEACHER,
    check_finished,
    check_one_model,
    check_recorded,
    check_same_model,
    open_identity,
)
from tests.conftest import parsed, read_json


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def other_weights(directory, name="visual_projection.weight", file="model.safetensors"):
    tensors = load_file(directory / file)
    tensors[name] = np.array(tensors[name])
    tensors[name].flat[0] += 1
    save_file(tensors, directory / file, metadata={"format": "pt"})


def same_in_two_files(directory):
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, directory / file)
    index = {"weight_map": {k: file for file, keys in parts.items() for k in keys}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()


def seen(directory):
    config, params = load_clip(directory, dtype=jnp.float32)
    return identity_of(directory, config, params, load_preprocess(directory))


@pytest.fixture
def model(wee_clip, tmp_path):
    return shutil.copytree(wee_clip, tmp_path / "model")


@pytest.mark.parametrize(
    "replace, changed",
    [
        (other_weights, "weights"),
        (lambda d: other_weights(d, "text_projection.weight"), "weights"),
        (
            lambda d: rewrite(d / "config.json", "quick_gelu", "gelu"),
            "config.json: vision_config.hidden_act quick_gelu -> gelu",
        ),
        (
            lambda d: rewrite(d / "preprocessor_config.json", "0.26862954", "0.5"),
            "preprocessor_config.json: std",
        ),
        (lambda d: rewrite(d / "merges.txt", "\nt h\n", "\n"), "merges.txt"),
        (lambda d: (d / "added_tokens.json").write_text("{}"), "added_tokens.json"),
        (lambda d: (d / "special_tokens_map.json").unlink(), "special_tokens_map.json"),
        (same_in_two_files, ""),
        (lambda d: (d / "README.md").write_text("hello"), ""),
        (lambda d: rewrite(d / "config.json", "{", '{"transformers_version": "9", '), None),
    ],
)
def test_what_decides_embeddings_is_part_of_the_identity(model, replace, changed):
    before = json.loads(json.dumps(seen(model)))  # as a record is read back
    if changed is None:  # the first brace only
        text = (model / "config.json").read_text()
        (model / "config.json").write_text(text.replace("{", '{"transformers_version": "9",', 1))
        changed = ""
    else:
        replace(model)
    found = differences(before, seen(model))
    assert found.startswith(changed) if changed else found == ""


def test_a_run_goes_on_with_its_model_alone(tmp_path):
    one = {"weights": "a", "config.json: x": 1, "vocab.json": "v"}
    for workdir in (tmp_path / "run", tmp_path / "old"):
        workdir.mkdir()
    assert check_same_model(tmp_path / "run", one, "m") == ""
    assert check_same_model(tmp_path / "run", one, "moved, and the same") == ""
    assert check_recorded(tmp_path / "run", one, "m") == ""
    for other in ({**one, "weights": "b"}, {**one, "merges.txt": "n"}, {"weights": "a"}):
        for check in (check_same_model, check_recorded):
            with pytest.raises(CheckpointError, match="is not the one that the run in") as caught:
                check(tmp_path / "run", other, "m")
            assert len(str(caught.value).splitlines()) == 1
    check_same_model(tmp_path / "run", one, "t", TEACHER)
    with pytest.raises(CheckpointError, match="the teacher in t is not the one that"):
        check_same_model(tmp_path / "run", {**one, "weights": "b"}, "t", TEACHER)
    assert check_recorded(tmp_path / "run", {**one, "config.json: new field": 1}, "m") == ""
    (tmp_path / "old" / "images.json").write_text("{}")  # of a clipjax before records
    assert "taken for granted" in check_recorded(tmp_path / "old", one, "m")
    assert "taken for granted" in check_same_model(tmp_path / "old", one, "m")
    assert check_same_model(tmp_path / "old", one, "m") == ""
    (tmp_path / "old" / "model.json").write_text("[")
    with pytest.raises(CheckpointError, match="is damaged"):
        check_recorded(tmp_path / "old", one, "m")


def test_a_finished_run_of_another_model_is_not_passed_off(model, tmp_path):
    config = dann.get_config("smoke")
    config.model = str(model)
    config = parsed(config)
    directory, identity = open_identity(config)
    check_same_model(tmp_path, identity, directory)
    assert check_finished(tmp_path, config) == ""
    other_weights(model)
    with pytest.raises(CheckpointError, match=r"changed: weights\)"):
        check_finished(tmp_path, config)
    shutil.rmtree(model)
    assert "cannot be told" in check_finished(tmp_path, config)


def test_a_suite_is_of_one_model(tmp_path, monkeypatch):
    def run(study, place, say):
        place.mkdir(parents=True)
        check_same_model(place, {"weights": study}, "m")
        return types.SimpleNamespace(results={})

    monkeypatch.setattr("clipjax.study.run", run, raising=False)
    monkeypatch.setattr("clipjax.evaluate.results.markdown", lambda results: "")
    with pytest.raises(CheckpointError, match=r"table3 were made with different models"):
        suite.run_suite(tmp_path, {"2": "old", "3": "new"}, domainnet=False)
    check_one_model(tmp_path / "nothing", tmp_path / "table3")  # an earlier clipjax's


@pytest.fixture(scope="module")
def adapted(wee_clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted")
    config, params = load_clip(wee_clip)
    heads = Heads(num_classes=2)
    features = jnp.zeros((1, config.projection_dim))
    trained = jax.jit(heads.init)(jax.random.key(0), features)["params"]
    save_adapted(
        out,
        config=config,
        params=params,
        preprocess=load_preprocess(wee_clip),
        trained=Trained(heads, trained, ("a", "b")),
        tokenizer=wee_clip,
        card="",
    )
    return out


def no_identity(directory):
    data = read_json(directory / "heads.json")
    del data["identity"]
    (directory / "heads.json").write_text(json.dumps(data))


def nan_head(directory):
    tensors = load_file(directory / "heads.safetensors")
    tensors = {name: np.full_like(value, np.nan) for name, value in tensors.items()}
    save_file(tensors, directory / "heads.safetensors")


@pytest.mark.parametrize(
    "replace, words",
    [
        (other_weights, "changed: weights"),
        (
            lambda d: other_weights(d, "classifier/layer_0/bias", "heads.safetensors"),
            "changed: heads.safetensors",
        ),
        (lambda d: rewrite(d / "preprocessor_config.json", "0.26862954", "0.5"), "std"),
        (lambda d: rewrite(d / "config.json", "quick_gelu", "gelu"), "quick_gelu -> gelu"),
        (nan_head, "heads.safetensors: tensor classifier/layer_0/.* holds NaN"),
        (lambda d: other_weights(d, "text_projection.weight"), None),  # no part of predictions
        (no_identity, None),  # an earlier clipjax's
    ],
)
def test_heads_go_with_the_model_they_were_exported_with(adapted, tmp_path, replace, words):
    place = shutil.copytree(adapted, tmp_path / "adapted")
    load_adapted(place)
    replace(place)
    if words is None:
        load_adapted(place)
        return
    with pytest.raises(CheckpointError, match=words):
        load_adapted(place)


def test_answers_that_overflow_are_refused(adapted):
    model = load_adapted(adapted)._replace(probabilities=lambda x: np.full((len(x), 2), np.nan))
    with pytest.raises(NonFiniteError, match="overflow"):
        model.predict([np.zeros((40, 40, 3), np.uint8)])
