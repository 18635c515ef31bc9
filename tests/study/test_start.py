"""Methods that start from the training features, and features aligned by their statistics."""

import os
import shutil
import signal

import jax
import numpy as np
import pytest

from clipjax import load_adapted
from clipjax.adapt import align
from clipjax.adapt.align import domain_maps
from clipjax.aot.step import abstract_step
from clipjax.errors import ConfigError
from clipjax.study import export, run, training
from clipjax.study import trainer as train
from clipjax.study.encode import encode, encode_texts
from clipjax.study.examples import Examples
from clipjax.study.methods import group_runs
from clipjax.study.plan import prepare
from clipjax.study.trainer import trainers
from clipjax.train.preemption import Preempted
from tests.conftest import methods_of, parsed, read_json
from tests.study.test_study import TRUNK, config_of, trained

PRIOR = {"loss": "tests.contract.prior", "epochs": 2}
PIXELS = {"augment": {"smallest": 1.0, "flip": False}}
DANN = {"loss": "dann", "heads": TRUNK, "epochs": 2, "align": "standardise"}


def of_first(tree):
    return jax.tree.map(lambda x: np.asarray(x)[0], tree)


def features(config):
    """Training features of source and target, as cached."""
    encoded = encode(prepare(parsed(config)), lambda line: None)
    return encoded, Examples((parsed(config).data,), encoded).features(("target", "zero_shot"))


@pytest.mark.slow
def test_a_method_starts_from_its_features_and_keeps_its_constants(photos, wee_clip, tmp_path):
    """From cached features and from pixels, with decay and a running mean."""
    average = {"average": {"kind": "uniform"}, "optim": {"weight_decay": 1.0, "lr": 0.01}}
    entries = {"cached": PRIOR | average, "pixels": PRIOR | average | PIXELS}
    config = config_of(photos, wee_clip, **entries)
    config.data.shots = 2
    results = run(parsed(config), tmp_path / "run", pages=False)
    encoded, data = features(config)
    logits = encoded.zero_shot(data["target"]["inputs"])
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    prior = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    for name in entries:
        found = results.trained[name]
        own, mean = (found.variants[key] for key in ("last", "average"))
        for params in (own, mean):
            for seed in range(2):
                known = jax.tree.map(lambda x: x[seed], params["known"])  # noqa: B023
                np.testing.assert_allclose(known["prior"], prior, rtol=1e-4)
                np.testing.assert_allclose(
                    known["mean"], data["target"]["inputs"].mean(axis=0), rtol=1e-4, atol=1e-6
                )
        np.testing.assert_allclose(own["size"], 1.0)  # two images of each of three classes
        assert np.abs(own["classifier"] - mean["classifier"]).max() > 0
    sizes = prepare(parsed(config)).clip_config
    state = abstract_step(parsed(config), sizes, method="cached").state
    assert set(state.params) == {"classifier", "known", "size"}
    assert {str(x.shape) for x in jax.tree.leaves(state.average.params)} == {"(16, 3)"}


@pytest.mark.slow
def test_each_target_of_a_sweep_starts_from_its_own_features(photos, wee_clip, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    shutil.copytree(root / "real", root / "drawn")  # another one than the sketches
    config = config_of(root, wee_clip, prior=PRIOR, dann=DANN)
    config.seeds = (0,)
    config.sweep = ({"data.target": ("sketch", "drawn")},)
    plan = prepare(parsed(config))
    assert sorted(len(t.names) for t in trainers(encode_texts(plan), tmp_path)) == [2, 2]
    results = run(parsed(config), tmp_path / "run", pages=False)
    encoded, _ = features(config)
    for method, target in ((m, t) for m in ("prior", "dann") for t in ("sketch", "drawn")):
        params = of_first(results.params[f"{method} target={target}"])
        found = params["known"] if method == "prior" else params["align"]["target"]
        wanted = encoded.parts[target, "train"].features.mean(axis=0)
        np.testing.assert_allclose(found["mean"], wanted, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def finished(photos, wee_clip, tmp_path_factory, programs):
    """A finished run of three aligned methods, one in closed form."""
    workdir = tmp_path_factory.mktemp("aligned") / "run"
    linear = {"loss": "finetune", "heads": {"class_bias": False}, "align": "coral", "epochs": 2}
    ridge = {"loss": "tests.contract.ridge", "align": "centre", "strengths": (1.0,)}
    config = config_of(photos, wee_clip, dann=DANN, linear=linear, ridge=ridge)
    run(parsed(config), workdir, print, programs=programs)
    return config, workdir


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dann", "linear", "ridge"])
def test_maps_are_of_the_training_features_and_exports_hold_them(
    finished, tmp_path, name, programs
):
    config, workdir = finished
    texts, (encoded, data) = encode_texts(prepare(parsed(config))), features(config)
    (trainer,) = (t for t in trainers(texts, workdir, programs) if name in t.names)
    found = trainer.restored()[name]
    maps = domain_maps(data, parsed(config).methods[name]["align"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        of_first(found.params)["align"],
        maps,
    )
    export.export(workdir, tmp_path / "out", name, 1)
    source = prepare(parsed(config)).dataset.source("sketch", "test")
    images = [source[i].image for i in range(len(source))]
    logits, *_ = found.answer(
        jax.tree.map(lambda x: x[1], found.params), encoded.parts["sketch", "test"].features
    )
    answers = load_adapted(tmp_path / "out").predict(images)
    np.testing.assert_allclose(answers, jax.nn.softmax(logits), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_its_maps(finished, tmp_path, programs):
    config, workdir = finished
    place, original = tmp_path / "run", train.fit_arrays

    def told(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted, match="dann, saved"):
        patch.setattr(train, "fit_arrays", told)
        run(parsed(config), place, print, programs=programs)
    run(parsed(config), place, pages=False, programs=programs)
    assert read_json(workdir / "results.json")["rows"] == read_json(place / "results.json")["rows"]
    both = (trained(config, at, programs=programs).params for at in (workdir, place))
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize("change", [{"freeze": ("clip/text/.*",)}, PIXELS])
def test_alignment_is_refused_where_pixels_are_read(photos, wee_clip, change):
    config = config_of(photos, wee_clip, dann=DANN | change)
    with pytest.raises(ConfigError, match="dann: align=standardise is of cached embeddings, and"):
        prepare(parsed(config))


def test_alignments_are_known_by_name_and_are_programs_of_their_own():
    config = config_of("", "tiny", one=DANN, two=DANN, three=DANN | {"align": "coral"})
    assert group_runs(methods_of(config), lambda m: True) == [("one", "two"), ("three",)]
    assert training.ALIGN == align.KINDS
    config.methods.one.align = "standardize"
    with pytest.raises(ConfigError, match="one.align is 'standardize'; .*Did you mean standardise"):
        parsed(config)
