"""CLIP-LoRA through a study: stopped and resumed to the same bits, exported, refused."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from clipjax.configs.recipes import lora

from clipjax import load_adapted, load_clip
from clipjax.errors import ConfigError
from clipjax.model.backbone import make_backbone
from clipjax.study import export, run
from clipjax.study.plan import prepare
from clipjax.train.preemption import Notice, Preempted
from clipjax.train.restore import shapes
from tests.conftest import methods_of, parsed
from tests.study.test_study import config_of, row_of

ENTRY = {"loss": "lora", "epochs": 2, "augment": {"smallest": 0.5}, "optim": {"lr": 3e-2}}


def config_for(photos, wee_clip, **more):
    config = config_of(photos, wee_clip, lora=ENTRY, **more)
    config.seeds, config.prompts, config.data.shots = (0,), "a photo of a {}", 2
    return config


@pytest.fixture(scope="module")
def finished(photos, wee_clip, tmp_path_factory, programs):
    workdir = tmp_path_factory.mktemp("lora") / "run"
    config = config_for(photos, wee_clip)
    return config, workdir, run(parsed(config), workdir, pages=False, programs=programs)


@pytest.mark.slow
def test_only_factors_are_in_checkpoints(finished):
    _, workdir, found = finished
    params = found.params["lora"]
    assert set(params) == {"lora"} and set(params["lora"]) == {"vision", "text"}
    steps = (workdir / "checkpoints" / "lora" / "seed0").rglob("state")
    assert set(shapes(next(steps).parent)["params"]) == {"lora"}
    assert 0 <= row_of({"rows": found.rows}, "lora")["accuracy_mean"] <= 1


@pytest.mark.slow
def test_a_run_stopped_and_resumed_is_the_whole_one_bit_for_bit(
    finished, photos, wee_clip, tmp_path, monkeypatch, programs
):
    config = config_for(photos, wee_clip)
    again = functools.partial(run, pages=False, programs=programs)
    reached = Notice.reached
    monkeypatch.setattr(Notice, "reached", lambda self, step: step >= 1)
    with contextlib.suppress(Preempted):
        again(parsed(config), tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.setattr(Notice, "reached", reached)
    resumed = again(parsed(config), tmp_path / "run")
    for one, two in zip(
        jax.tree.leaves(finished[2].params["lora"]),
        jax.tree.leaves(resumed.params["lora"]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_an_export_holds_the_merged_towers_and_answers_alike(finished, tmp_path):
    config, workdir, found = finished
    export.export(workdir, tmp_path / "out", "lora", 0)
    plan = prepare(parsed(config))
    source = plan.dataset.source("sketch", "test")
    images = [source[i].image for i in range(len(source))]
    own = jax.tree.map(lambda x: x[0], found.params["lora"]) | {"clip": plan.params}
    backbone = make_backbone(plan.module, lambda pixels, rng: plan.preprocess.normalize(pixels))
    merged = plan.methods["lora"].kind.merged(own)["clip"]
    stored = load_clip(tmp_path / "out")[1]
    kernel = lambda tree: tree["text"]["block_0"]["self_attn"]["q_proj"]["kernel"]
    np.testing.assert_allclose(kernel(stored), kernel(merged), rtol=1e-6, atol=1e-7)
    assert np.abs(np.asarray(kernel(stored)) - np.asarray(kernel(plan.params))).max() > 1e-5
    pixels = np.stack([plan.preprocess.crop(image) for image in images])
    embed = backbone.encode["image"]({"clip": merged}, pixels)
    text = backbone.encode["text"]({"clip": merged}, plan.tokens[:, 0])
    wanted = jax.nn.softmax(backbone.scale({"clip": merged}) * embed @ text.T)
    answers = load_adapted(tmp_path / "out").predict(images)
    np.testing.assert_allclose(answers, wanted, rtol=1e-3, atol=1e-4)


def test_the_recipe_has_what_is_published(photos, wee_clip):
    built = methods_of(lora.get_config())["lora"]
    (phase,) = built.phases
    optim = phase.optim
    assert (optim.name, optim.lr, optim.min_lr, optim.weight_decay) == ("adamw", 2e-4, 1e-6, 1e-2)
    assert optim.schedule == "cosine" and not optim.clip_norm and built.config.batch_size == 32
    assert (phase.augment.smallest, phase.options["dropout"], phase.options["rank"]) == (
        0.08,
        0.25,
        2,
    )
    assert (lora.get_config().data.epoch, phase.epochs) == ("500", built.config.data.shots)
    assert built.kind.alters == ("image", "text")
    wide = config_of(photos, wee_clip, wide={"loss": "lora", "rank": 30})
    with pytest.raises(ConfigError, match="methods.wide: rank is 30, and the text tower's"):
        prepare(parsed(wide))
