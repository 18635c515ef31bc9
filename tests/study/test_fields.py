"""Config fields reach the result: image size, class names, prompts, revision. In this process."""

import json

import numpy as np
import pytest

from clipjax.configs import dann
from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.hf.hub import find_model
from clipjax.study import model_opened, run
from clipjax.study import plan as plans
from clipjax.study.encode import encode
from tests.conftest import parsed


@pytest.fixture
def config(folder_dataset):
    """The smoke config on 36 plain pictures; no trained method: these fields act before any."""
    config = dann.get_config(f"smoke,root={folder_dataset},source=real,target=sketch,model=tiny")
    config.stages = ()
    return config


def encoded(config):
    return encode(plans.prepare(parsed(config)), lambda line: None)


@pytest.mark.slow
def test_another_image_size_runs_and_changes_features_only(config, tmp_path):
    own = encoded(config)
    config.image_size = 48
    plan = plans.prepare(parsed(config))
    assert plan.clip_config.vision.image_size == plan.preprocess.size == 48
    assert len(plan.params["vision"]["position_embedding"]) == 1 + (48 // 8) ** 2
    other = encode(plan, lambda line: None)
    np.testing.assert_array_equal(other.text_weights, own.text_weights)
    for key, part in own.parts.items():
        assert part.features.shape == other.parts[key].features.shape
        cosine = np.sum(part.features * other.parts[key].features, axis=1)
        assert (cosine > 0.5).all() and (cosine < 0.9999).all(), key
    run(parsed(config), tmp_path / "run", pages=False)
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"zero_shot"}


@pytest.mark.slow
def test_class_names_of_a_file_change_their_zero_shot_weights_only(config, tmp_path):
    own = encoded(config)
    config.class_names = str(tmp_path / "names.json")
    (tmp_path / "names.json").write_text(json.dumps({"red": "fire truck"}))
    assert plans.prepare(parsed(config)).class_names == ("blue", "green", "fire truck")
    cosine = np.sum(np.asarray(own.text_weights * encoded(config).text_weights), axis=1)
    assert (cosine[:2] > 0.9999).all() and cosine[2] < 0.99


def test_a_run_goes_on_and_is_shown_with_its_own_class_names_alone(config, tmp_path):
    """The file may change under the same path: zero-shot would be of other texts than the rest."""
    file = tmp_path / "names.json"
    config.class_names, workdir = str(file), tmp_path / "run"
    file.write_text(json.dumps({"red": "fire truck"}))
    again = lambda: run(parsed(config), workdir, pages=False)
    rows = again().rows
    assert again().rows == rows
    file.write_text(json.dumps({"red": "tomato"}))
    with pytest.raises(ConfigError, match="names.json calls red otherwise than when the run in"):
        again()
    (workdir / "results.json").unlink()  # as of a run that was killed
    with pytest.raises(ConfigError, match="what prompts call the classes, by .*names.json, is not"):
        again()
    file.write_text(json.dumps({"red": "fire truck"}))
    assert again().rows == rows


def test_classes_of_one_name_are_noted_and_nameless_ones_refused(config, tmp_path):
    config.class_names = str(tmp_path / "names.json")
    (tmp_path / "names.json").write_text(json.dumps({"red": "Blue"}))
    assert "same prompts for 'blue' and 'red'" in " ".join(plans.prepare(parsed(config)).notes)
    (tmp_path / "names.json").write_text(json.dumps({"red": "_"}))
    config.model = "no/model"  # is not asked for
    with pytest.raises(ConfigError, match="class name '_' leaves nothing"):
        plans.prepare(parsed(config))


@pytest.mark.slow
def test_prompts_change_zero_shot_weights_and_a_wrong_set_is_one_sentence(config):
    own = encoded(config)
    config.prompts = "a blurry sketch of the {}"
    cosine = np.sum(np.asarray(own.text_weights * encoded(config).text_weights), axis=1)
    assert (cosine < 0.999).all()
    config.prompts = "skech"
    with pytest.raises(ConfigError, match="'skech' .* is no named set; sets: .*sketch") as caught:
        plans.prepare(parsed(config))
    assert len(str(caught.value).splitlines()) == 1


def test_the_revision_reaches_the_hub_and_a_directory_refuses_it(config, monkeypatch):
    asked = []

    def find(name, revision):
        asked.append((name, revision))
        return find_model("tiny")

    with monkeypatch.context() as patch:
        patch.setattr(model_opened, "find_model", find)
        config.model, config.revision = "me/model", "v2"
        plans.prepare(parsed(config))
        config.revision = ""
        plans.prepare(parsed(config))
    assert asked == [("me/model", "v2"), ("me/model", None)]
    for here in ("tiny", str(find_model("tiny"))):
        config.model, config.revision = here, "v2"
        with pytest.raises(CheckpointError, match="which has no revision 'v2'; leave"):
            plans.prepare(parsed(config))
