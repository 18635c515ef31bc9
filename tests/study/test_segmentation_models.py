"""Segmentation runs on maps of other models than CLIP, kept or made in every step."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from clipjax.errors import ConfigError
from clipjax.io import write_json
from clipjax.log import read_log
from clipjax.study import parse, run, segmentation_trainer
from clipjax.study.segmentation_models import levels_of
from clipjax.study.segmentation_plan import prepare
from clipjax.study.segmentation_trainer import Trainer
from clipjax.train.preemption import Preempted
from tests.conftest import read_json
from tests.model.test_image_only import DINO, RES, saved
from tests.timm_layout import saved_timm

SMALL = {
    "experiment": "segmentation",
    "seeds": (0,),
    "data": {"train": 8, "test": 3, "targets": ("fog",)},
    "epochs": 2,
    "batch_size": 4,
    "width": 8,
    "overlays": 0,
    "methods": {"fpn": {"decoder": "fpn", "norm": "domino", "control": "shuffled"}},
}
RESIZED = {"resize": (40, 40)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of a random DINOv2 with registers and of a ResNet, by name."""
    out = tmp_path_factory.mktemp("models")
    rules = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    for kind, sizes in (("Dinov2WithRegisters", DINO | {"patch_size": 10}), ("ResNet", RES)):
        saved(out / kind, kind, **sizes)
        write_json(out / kind / "preprocessor_config.json", rules)
    return {"dino": out / "Dinov2WithRegisters", "resnet": out / "ResNet"}


def ran(config, place):
    """Run a config: its results, and the losses of its epochs."""
    run(parse(config), place)
    losses = [np.mean(r["loss"]) for r in read_log(place / "metrics.jsonl") if "loss" in r]
    return read_json(place / "segmentation.json"), losses


@pytest.mark.slow
def test_maps_that_are_kept_train_as_those_made_in_every_step_do(models, wee_clip, tmp_path):
    given = {"model": str(models["dino"]), "domain_model": str(wee_clip)}
    config = SMALL | given | {"levels": (1, 2), "data": SMALL["data"] | RESIZED}
    kept, losses = ran(config, tmp_path / "kept")
    assert kept["levels"] == [1, 2] and "are computed once" in kept["maps"]
    assert kept["domain_model"] == str(wee_clip) and kept["methods"]["fpn"]["miou"]["fog"]
    live = config | {"maps": "live"}
    made, of_live = ran(live, tmp_path / "live")
    assert "in every step, as maps=live says" in made["maps"]
    np.testing.assert_allclose(of_live, losses, rtol=2e-3)  # kept maps are rounded to 16 bits
    for domain in ("clear", "fog"):
        miou = [x["methods"]["fpn"]["miou"][domain][0] for x in (kept, made)]
        assert miou[0] == pytest.approx(miou[1], abs=0.01)


@pytest.mark.slow
def test_a_free_backbone_trains_and_goes_on_to_the_same_bits(wee_clip, tmp_path, monkeypatch):
    lr, real, seen = 1e-2, Trainer.train, []

    def noted(self, method, data, name):
        seen.extend([self, method, data, real(self, method, data, name)])
        return seen[-1]

    monkeypatch.setattr(Trainer, "train", noted)
    config = SMALL | {"model": str(wee_clip), "backbone": "free", "methods": {"linear": {}}}
    found, _ = ran(config | {"lr": lr, "warmup": 0.0, "save_every": 1}, tmp_path / "run")
    assert "in every step" in found["maps"] and "at 0.1 of their rate" in found["trains"]
    trainer, method, data, after = seen
    (compiled,) = trainer._compiled.values()
    before = compiled.begin(np.zeros(1, np.uint32)).params
    moved = jax.tree.map(lambda old, new: float(np.abs(new - old).max()), before, after)
    # A step of Adam moves a number by its rate at most; the rates of four are 2.5 of the first.
    tower, decoder = (max(jax.tree.leaves(moved[name])) for name in ("backbone", "decoder"))
    assert 0 < tower < 0.1 * 2.6 * lr < decoder
    assert all(max(jax.tree.leaves(part)) for part in moved["backbone"].values())

    trainer.workdir, fit = tmp_path / "again", segmentation_trainer.fit_stream

    def stopped(step, state, batches, plan, out, *shared):
        out = dataclasses.replace(out, stop=lambda done: done == 3)  # in the second of two epochs
        return fit(step, state, batches, plan, out, *shared)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(segmentation_trainer, "fit_stream", stopped)
        real(trainer, method, data, "linear")
    again = real(trainer, method, data, "linear")
    assert jax.tree.all(jax.tree.map(np.array_equal, again, after))


def test_a_frozen_backbone_is_no_parameter(wee_clip):
    dense = prepare(parse(SMALL | {"model": str(wee_clip), "methods": {"linear": {}}})).dense
    assert dense.begin is None and not dense.rates and dense.trains == "decoders alone"


@pytest.mark.slow
def test_stages_of_a_free_resnet_make_a_pyramid_that_validation_scenes_measure(
    models, wee_clip, tmp_path
):
    config = SMALL | {"model": str(models["resnet"]), "domain_model": str(wee_clip)}
    plan = prepare(parse(config | {"levels": (0, 1, 2)}))
    assert plan.dense.shapes == ((24, 24, 8), (24, 24, 16), (12, 12, 24))
    closer = config | {"levels": (1, 2), "output_stride": 4}
    assert prepare(parse(closer)).dense.shapes == ((24, 24, 16), (24, 24, 24))
    data = {"train": 8, "test": 3, "evaluate": "val"}
    config |= {"backbone": "free", "data": data, "mixing": {"shares": (1.0,)}}
    found, losses = ran(config, tmp_path / "run")
    assert found["levels"] == [1, 2] and "level 2, statistics of batch norms" in found["trains"]
    assert np.isfinite(losses).all() and found["methods"]["fpn"]["miou"]["clear"][0] > 0
    assert found["conditions"] == ["clear"] and found["images"]["val"] == {"clear": 3}
    page, text = ((tmp_path / f"run/segmentation.{end}").read_text() for end in ("html", "md"))
    assert "(validation images)" in page and "clear (source, validation)" in page
    assert "measured are validation images of the source" in text and "of the validation im" in text


def test_levels_that_nobody_names_suit_the_model():
    fpn = parse(SMALL | {"model": "x"})
    tower = lambda depth: SimpleNamespace(vision=SimpleNamespace(num_hidden_layers=depth))
    chosen = {depth: levels_of(fpn, tower(depth)) for depth in (2, 4, 6, 12, 24)}
    assert chosen == {
        2: (1, 2), 4: (1, 2, 3, 4), 6: (2, 3, 5, 6), 12: (3, 6, 9, 12), 24: (6, 12, 18, 24)
    }  # fmt: skip
    assert levels_of(parse(SMALL | {"model": "x", "methods": {"a": {}}}), tower(12)) == (12,)
    assert levels_of(parse(SMALL), tower(6)) == (4, 6)
    with pytest.raises(ConfigError, match="methods.fpn.decoder=fpn joins .* model=x has one"):
        levels_of(fpn, tower(1))


def test_a_clip_resnet_gives_stages_or_values(wee_clip, tmp_path, monkeypatch):
    saved_timm(tmp_path / "clip", "resnet50_clip", monkeypatch)
    given = {"model": str(tmp_path / "clip"), "domain_model": str(wee_clip)}
    free = SMALL | given | {"backbone": "free", "levels": (2, 3)}
    dense = prepare(parse(free)).dense
    assert dense.shapes == ((12, 12, 64), (6, 6, 128))
    assert set(dense.params) == {"block_3", "attention_pool"} and "stem" in dense.trained
    values = SMALL | given | {"methods": {"linear": {}}, "last": "value", "output_stride": 16}
    assert prepare(parse(values)).dense.shapes[-1] == (6, 6, 24)
    with pytest.raises(ConfigError, match="has one tower; W and the texts of classes need a CLIP"):
        prepare(parse(SMALL | given | {"domain_model": ""}))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("dino", {}, "96 x 96 pixels, which patches of 10 do not divide; give data.resize="),
        (
            "dino",
            {"levels": (1, 3), "data": RESIZED},
            "levels has 3, and the model has 2 blocks",
        ),
        (
            "dino",
            {"levels": (2, 1), "data": SMALL["data"] | RESIZED},
            "give each once, in rising order",
        ),
        (
            "dino",
            {"last": "value", "data": SMALL["data"] | RESIZED},
            "last=value is of a CLIP's attention",
        ),
        ("resnet", {"levels": (0, 5)}, "levels has 5, and the model has 2 stages; take some of 0"),
        ("resnet", {"output_stride": 8}, "output_stride 8 is none that dilation makes; less than"),
        ("resnet", {"domain_model": ""}, "has one tower; W and the texts of classes need a CLIP"),
    ],
)
def test_what_a_model_does_not_have_is_refused(models, wee_clip, name, changes, words):
    several = "levels" in changes
    methods = SMALL["methods"] if several else {"linear": {}}
    given = {"model": str(models[name]), "domain_model": str(wee_clip), "methods": methods}
    with pytest.raises(ConfigError, match=words):
        prepare(parse(SMALL | given | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"levels": (2,)}, r"levels is \(2,\), and methods.fpn.decoder=fpn joins .*, or none"),
        (
            {"data": SMALL["data"] | {"evaluate": "val"}},
            "targets=.'fog',. has no effect with evaluate=val",
        ),
        ({"levels": (1, 2), "maps": "ram"}, "maps is 'ram'; known: auto, cached, live"),
        ({"levels": (1, 2), "factor": 0.5}, "factor=0.5 has no effect on a frozen backbone; take"),
        (
            {"levels": (1, 2), "backbone": "free", "maps": "cached"},
            "keeps what a free backbone changes",
        ),
        (
            {"backbone": "free", "diffusion": {"model": "x"}},
            "backbone=free is of model, .*unet=free",
        ),
        ({"levels": (1, 2), "mixing": {"domain": "x"}}, "mixing.domain has no effect without"),
        ({"levels": (1, 2), "mixing": {"shares": (2.0,)}}, "mixing.shares is .*from 0 to 1"),
        ({"levels": (1, 2), "mixing": {"shares": (0.5,), "method": "fp"}}, "no method; known: fpn"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        parse(SMALL | changes)


@pytest.mark.parametrize(
    ("domain", "words"),
    [("fog", "no domain that is tested"), ("hail", "mixing.domain=hail: .* no domain 'hail'")],
)
def test_what_cannot_be_mixed_is_refused(domain, words):
    config = SMALL | {"methods": {"a": {}}, "mixing": {"shares": (0.5,), "domain": domain}}
    for evaluate in ("test", "val"):  # a domain that a test run tests is not trained on to choose
        given = config | {"data": SMALL["data"] | {"evaluate": evaluate, "targets": ()}}
        with pytest.raises(ConfigError, match=words):
            prepare(parse(given))
