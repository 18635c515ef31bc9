"""Few-shot methods through a study: from features and pixels, exported, refused."""

import jax
import numpy as np
import pytest
from clipjax.configs.recipes import clip_adapter, gda_few_shot, linear_probe, lp_plus, tip_adapter

from clipjax import load_adapted
from clipjax.data.dataset import ArrayDataset, ArraySource
from clipjax.errors import ConfigError, DataError
from clipjax.study import export, run
from clipjax.study.encode import encode
from clipjax.study.plan import prepare
from clipjax.study.prepared import Opened
from tests.conftest import methods_of, parsed
from tests.study.test_study import config_of, row_of

RECIPES = (clip_adapter, gda_few_shot, lp_plus, tip_adapter)
PIXELS = {"augment": {"smallest": 0.9, "flip": False}}


def entries():
    """All entries of the recipes, made short, and the adapter from pixels."""
    found = {name: entry for recipe in RECIPES for name, entry in recipe.methods().items()}
    found["tip"] = found["tip"] | {"steps": (4, 3)}
    found["tip_f"] = found["tip_f"] | {"steps": (4, 3), "epochs": 1, "batch_size": 4}
    del found["lp_plus_code"]
    found["clip_adapter"] = found["clip_adapter"] | {"epochs": 2}
    found["clip_adapter_pixels"] = found["clip_adapter"] | {"epochs": 1} | PIXELS
    return found


@pytest.fixture(scope="module")
def finished(photos, wee_clip, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("few") / "run"
    config = config_of(photos, wee_clip, **entries())
    config.data.shots = 2
    return config, workdir, run(parsed(config), workdir, pages=False)


@pytest.mark.slow
def test_all_train_on_cached_features_and_keep_what_they_are_made_of(finished):
    config, workdir, found = finished
    for name in entries():
        row = row_of({"rows": found.rows}, name)
        assert len(row["accuracies"]) == 2 and 0 <= row["accuracy_mean"] <= 1
    keys = found.params["tip_f"]["keys"]
    assert keys.shape == (2, 6, 16) and np.isfinite(keys).all()
    cache = found.params["tip"]["keys"]
    assert cache.shape == (2, 6, 16) and 1e-6 < np.abs(keys[0] - keys[1]).max()  # other batches
    plan = prepare(parsed(config))
    source = encode(plan, lambda line: None).parts["real", "train"]
    near = np.linalg.norm(cache[0][:, None] - source.features, axis=-1).min(axis=1)
    np.testing.assert_allclose(near, 0, atol=1e-5)  # the cache holds training images
    moved = [found.params[name]["adapter"] for name in ("clip_adapter", "clip_adapter_pixels")]
    assert all(np.any(a["down"] != b["down"]) for a, b in [moved])
    # Parts that never train, and the encoder, are in no optimizer's state.
    assert set(found.params["tip_f"]) == {"keys", "cache"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gda_few_shot", "lp_plus"])
def test_affine_ones_are_exported_as_linear_heads(finished, tmp_path, name):
    config, workdir, found = finished
    export.export(workdir, tmp_path / "out", name, 0)
    plan = prepare(parsed(config))
    source = plan.dataset.source("sketch", "test")
    answers = load_adapted(tmp_path / "out").predict([source[i].image for i in range(len(source))])
    layer = jax.tree.map(lambda x: x[0], found.params[name]["classifier"]["layer_0"])
    features = encode(plan, lambda line: None).parts["sketch", "test"].features
    wanted = jax.nn.softmax(features @ layer["kernel"] + layer["bias"])
    np.testing.assert_allclose(answers, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tip", "tip_f", "clip_adapter"])
def test_others_are_refused_by_an_export(finished, tmp_path, name):
    with pytest.raises(ConfigError, match=f"'{name}' answers with more .* not affinely"):
        export.export(finished[1], tmp_path / "out", name)


def test_recipes_have_what_is_published():
    built = methods_of(tip_adapter.get_config())
    assert not built["tip"].trains and built["tip"].kind.reads == ("source", "validation")
    (phase,) = built["tip_f"].phases
    assert (phase.epochs, built["tip_f"].config.batch_size) == (20, 256)
    optim = phase.optim
    assert (optim.name, optim.lr, optim.eps, optim.weight_decay) == ("adamw", 1e-3, 1e-4, 1e-2)
    assert optim.schedule == "cosine" and not optim.clip_norm
    assert built["tip_f"].config.data.shots == 16
    (phase,) = methods_of(clip_adapter.get_config())["clip_adapter"].phases
    assert (phase.options["ratio"], phase.optim.lr, phase.epochs) == (0.2, 1e-5, 200)
    assert linear_probe.methods()["probe_coop"]["strengths"][0] == 1e6
    for recipe in RECIPES:
        assert set(methods_of(recipe.get_config("smoke"))) == set(recipe.methods())


def arrays(counts):
    """A dataset of one domain pair with so many images a split."""
    part = lambda domain, split, n: ArraySource(
        np.zeros((n, 8, 8, 3), np.uint8),
        np.arange(n) % 4,
        classes="abcd",
        domain=domain,
        split=split,
    )
    return ArrayDataset(
        {d: {s: part(d, s, n) for s, n in counts.items()} for d in ("real", "sketch")}
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "tip_f"}, "methods.m: it keeps a key for each labelled image.*set data.shots"),
        ({"loss": "clip_adapter", "ratio": 2.0}, "methods.m: ratio is 2.0; give a share"),
        ({"loss": "tip", "ratios": (-1.0,)}, "methods.m: ratios is"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_opened(changes, words, photos, wee_clip):
    with pytest.raises(ConfigError, match=words):
        prepare(parsed(config_of(photos, wee_clip, m=changes)))


def test_shots_and_validation_images_that_are_not_there_are_refused_at_the_start(photos, wee_clip):
    config = config_of(photos, wee_clip, tip={"loss": "tip"})
    config.data.shots = 20
    with pytest.raises(ConfigError, match="examples.*data.shots_missing=all"):
        prepare(parsed(config))
    bare = Opened(arrays({"train": 4, "val": 0, "test": 4}))
    with pytest.raises(DataError, match="split 'val' of domain 'real' has no images"):
        prepare(parsed(config_of(photos, wee_clip, tip={"loss": "tip"})), opened=bare)


def test_new_classes_are_answered_through_texts_and_refused_where_keys_hold_theirs(
    photos, wee_clip
):
    opened = Opened(arrays({"train": 8, "val": 4, "test": 4}))

    def asked(**methods):
        config = config_of(photos, wee_clip, **methods)
        config.data.classes, config.data.shots = "base", 2
        config.evaluations = {"new": {"classes": "new"}}
        return prepare(parsed(config), opened=opened)

    through = ("clip_adapter", "gda_few_shot", "lora")
    found = asked(**{name: {"loss": name} for name in through})
    assert found.others["new"].dataset.classes == ("c", "d")
    for entry in ({"loss": "tip"}, {"loss": "tip_f"}, {"loss": "gda_few_shot", "neighbours": 0}):
        with pytest.raises(ConfigError, match="methods.m cannot answer evaluations.new"):
            asked(m=entry)
