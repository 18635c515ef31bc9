"""Methods of every kind as heads: what is affine in CLIP's embedding is exported as that."""

import jax
import numpy as np
import pytest
from huggingface_hub import metadata_load
from safetensors.numpy import load_file

from clipjax import load_adapted
from clipjax.adapt.step import merge
from clipjax.errors import ConfigError
from clipjax.study import export, run
from clipjax.study.encode import encode, encode_texts
from clipjax.study.folded import folded
from clipjax.study.plan import prepare
from clipjax.study.trainer import trainers
from tests.conftest import parsed
from tests.study.test_study import config_of

AFFINE = {
    "coral": {"loss": "finetune", "heads": {}, "epochs": 1, "align": "coral"},
    "blend": {"loss": "blend", "folds": 2},
    # Answers with more than its heads.
    "centred": {"loss": "tests.contract.centred", "heads": {}, "epochs": 1},
    "prior": {"loss": "tests.contract.prior", "epochs": 1},  # has heads of its own
    "prompts": {"loss": "tests.contract.prompts", "epochs": 1},
    "low_rank": {"loss": "tests.contract.low_rank", "epochs": 1},
}
OTHERS = {"stata": {"loss": "stata"}}  # is quadratic


@pytest.fixture(scope="module")
def finished(photos, wee_clip, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("folded") / "run"
    config = config_of(photos, wee_clip, **AFFINE, **OTHERS)
    config.prompts = "a photo of a {}"
    run(parsed(config), workdir, pages=False)
    plan = prepare(parsed(config))
    texts, source = encode_texts(plan), plan.dataset.source("sketch", "test")
    found = {k: v for each in trainers(texts, workdir) for k, v in each.restored().items()}
    features = encode(plan, lambda line: None).parts["sketch", "test"].features
    return workdir, found, texts, [source[i].image for i in range(len(source))], features


def exported(finished, out, name):
    """Exports a method's second seed; returns its answers, and those of the method itself."""
    workdir, found, texts, images, features = finished
    export.export(workdir, out, name, 1)
    if name == "zero_shot":
        logits = texts.zero_shot(features)
    else:
        params = jax.tree.map(lambda x: x[1], found[name].params)
        logits = found[name].answer(merge(params, found[name].shared), features)[0]
    return load_adapted(out).predict(images), np.asarray(jax.nn.softmax(logits))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero_shot", *AFFINE])
def test_what_is_affine_in_the_embedding_is_one_weight_and_one_bias(finished, tmp_path, name):
    answers, wanted = exported(finished, tmp_path / "out", name)
    np.testing.assert_allclose(answers, wanted, rtol=1e-3, atol=1e-4)
    head = load_file(tmp_path / "out" / "classifier.safetensors")
    logits = finished[4] @ head["weight"].T + head["bias"]
    np.testing.assert_allclose(jax.nn.softmax(logits), wanted, rtol=1e-3, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # the images differ, by more than is tolerated
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "Method `zero_shot`: CLIP as it came" if name == "zero_shot" else "seed 1 (as a"
    ) in card
    about = metadata_load(tmp_path / "out" / "README.md")
    tagged = "zero-shot-image-classification" if name == "zero_shot" else None
    assert about.get("pipeline_tag") == tagged
    assert "## With transformers\n\n`classifier" in card


@pytest.mark.slow
def test_what_no_export_holds_is_refused(finished, tmp_path):
    with pytest.raises(ConfigError, match="'stata' answers with more than its heads.*quadratic"):
        export.export(finished[0], tmp_path / "out", "stata")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_where_no_export_holds_the_verdict_s_method_the_next_best_is_taken(
    finished, tmp_path, monkeypatch
):
    results = export.report.read(finished[0])
    results["verdict"]["method"] = "stata"
    score = lambda value: {"source_val": [value, value]}
    scores = {"zero_shot": score(0.5), "stata": score(0.9), "coral": score(0.6)}
    scores |= {"blend": score(0.8), "centred": score(0.85)}
    results["choice"] |= {"scores": scores, "refused": {"centred": "answers 10 %"}}
    monkeypatch.setattr(export.report, "read", lambda _: results)
    said = []
    export.export(finished[0], tmp_path / "out", say=said.append)
    why = "the next best by source_val: the run's rule takes stata, which no export holds"
    assert said[0].startswith("blend, seed ") and said[0].endswith(f"\nwhy blend: {why}")
    assert why in (tmp_path / "out" / "README.md").read_text()
    results["choice"]["scores"]["blend"] = results["choice"]["scores"]["coral"] = score(0.4)
    names = [each.method for each in export.next_best(results, [*AFFINE, "stata"], "stata")]
    assert names == ["zero_shot"]  # it beats the others


def test_an_image_tower_that_a_method_alters_is_refused(photos, wee_clip, tmp_path):
    altered = {"loss": "tests.contract.low_rank", "tower": "image", "widths": (32,), "epochs": 1}
    texts = encode_texts(prepare(parsed(config_of(photos, wee_clip, altered=altered))))
    with pytest.raises(ConfigError, match="'altered' alters the image tower"):
        folded(texts, tmp_path, "altered", 0)
