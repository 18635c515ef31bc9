"""Anchored methods in studies: on cached features and from pixels, with biases alone too."""

import jax
import numpy as np
import pytest

from clipjax.configs import anchored, common, encoder_free
from clipjax.data.loading.pairing import Batching, paired_batches
from clipjax.model.hf.load import load_clip
from clipjax.study import Augment, run
from clipjax.study.encode import encode
from clipjax.study.plan import prepare
from clipjax.study.recipe import augmented
from clipjax.study.trainer import trainers
from clipjax.train.groups import name_tree
from tests.conftest import parsed

FIXMATCH = {"loss": "fixmatch", "heads": {"class_bias": False}, "threshold": 0.3}


def config_of(photos, wee_clip, methods):
    config = common.study()
    config.model = str(wee_clip)
    config.data.name, config.data.root = "folder", str(photos)
    config.data.source, config.data.target = "real", "sketch"
    config.seeds, config.epochs, config.save_every, config.batch_size = (0,), 2, 2, 8
    config.features.batch_size = 8
    config.methods, config.stages = methods, tuple(methods)
    return config


def accuracies(found):
    return {
        row["method"]: row["accuracies"]
        for row in found.results["rows"]
        if (row["domain"], row["split"]) == ("sketch", "test")
    }


@pytest.mark.slow
def test_all_methods_train_on_cached_features(photos, wee_clip, tmp_path):
    methods = anchored.methods() | {"fixmatch": FIXMATCH}
    config = config_of(photos, wee_clip, methods)
    found = run(parsed(config), tmp_path / "run", pages=False)
    assert accuracies(found).keys() == {"zero_shot", *methods}
    losses = [r["loss"] for r in found.curves if "loss" in r]
    assert len(losses) >= 2 * len(methods) and np.isfinite(losses).all()
    kernels = [found.params[name]["classifier"]["layer_0"]["kernel"] for name in methods]
    assert not any(np.array_equal(kernels[0], kernel) for kernel in kernels[1:])


@pytest.mark.slow
def test_the_encoder_trains_with_the_head_or_with_its_biases_alone(photos, wee_clip, tmp_path):
    methods = encoder_free.methods()
    methods["fixmatch"]["threshold"] = 0.3
    config = config_of(photos, wee_clip, methods)
    config.optim.lr, config.optim.lr_mults = 1e-4, (("classifier", 100.0),)
    found = run(parsed(config), tmp_path / "run", pages=False)
    before = load_clip(wee_clip)[1]
    for name in methods:
        own = jax.tree.map(lambda x: x[0], found.params[name])
        names = {each.path for each in jax.tree.leaves(name_tree(own)) if "clip/" in each.path}
        biases = {each for each in names if each.endswith("/bias")}
        assert names and (names == biases) == (name == "cmkd_biases")
        here, there = (x["vision"]["block_0"]["fc1"]["bias"] for x in (own["clip"], before))
        assert np.any(here != there)
    records = [r for r in found.curves if r["phase"] == "fixmatch" and "loss" in r]
    assert max(r["pseudo_labelled"] for r in records) > 0
    assert all("text_gini" in r for r in found.curves if r["phase"] == "cmkd" and "loss" in r)


@pytest.mark.slow
def test_zero_shot_logits_come_with_their_images(photos, wee_clip, tmp_path):
    config = config_of(photos, wee_clip, {"distill": anchored.methods()["distill"]})
    config.methods.distill.augment = {"ops": 1}
    plan = prepare(parsed(config))
    (trainer,) = trainers(encode(plan, print), tmp_path)
    assert trainer.cached == (False,)
    (batch,) = paired_batches(*trainer.images(), Batching(0, 8), first=0, last=1)
    see = trainer.recipe.backbone().encode["image"]
    for part in batch.values():
        embeddings = see({"clip": plan.params}, part["inputs"])
        want = trainer.classes.scale * embeddings @ trainer.classes.weights.T
        np.testing.assert_allclose(part["zero_shot"], want, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_an_augment_without_operations_is_the_crop_alone():
    pixels, rng = np.full((2, 8, 8, 3), 7, np.uint8), jax.random.key(0)
    same = augmented(Augment(smallest=1.0), pixels, rng)
    assert np.ptp(same) < 1e-4
    strong = augmented(Augment(smallest=1.0, cutout=0.5), pixels, rng)
    assert set(np.unique(np.round(strong))) == {7, 128}
