"""Segmentation runs on the maps of a small random Stable Diffusion."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax.configs import vpd_driving, vpd_smoke
from clipjax.errors import ConfigError
from clipjax.model.diffusion.memory import StepBytes
from clipjax.model.diffusion.random_weights import random_params, random_sizes
from clipjax.model.diffusion.unet import UNet, UNetConfig
from clipjax.model.diffusion.vae import VAEConfig
from clipjax.model.hf.hub import copy_tokenizer
from clipjax.model.hf.params import flat
from clipjax.model.hf.trees import shapes
from clipjax.study import parse, run, segmentation_diffusion
from clipjax.study.segmentation_answers import answered
from clipjax.study.segmentation_maps import Encoder
from clipjax.study.segmentation_plan import prepare
from clipjax.study.segmentation_trainer import Trainer
from tests.conftest import TINY, read_json
from tests.model.test_diffusion import CROSS, UNET, VAE, write

LR = 1e-2
WIDTH = 24  # of the texts
DOMINO = {"decoder": "fpn", "norm": "domino", "prompt": "sub", "control": "shuffled", "scale": 0.0}


SIZES = (
    UNetConfig((8, 16), (False, True), (2, 2), 1, WIDTH, norm_num_groups=8),
    VAEConfig((8,), 1, norm_num_groups=8),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory, wee_clip):
    """A directory in diffusers' layout: 2 levels of a UNet, a VAE of stride 1, wee_clip's texts."""
    root = tmp_path_factory.mktemp("diffusion")
    params = random_params(*SIZES)
    kinds = {"down_block_types": ["DownBlock2D", CROSS[0]]}
    kinds |= {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 2}
    sizes = {"block_out_channels": [8, 16], "cross_attention_dim": WIDTH}
    write(root / "unet", params["unet"], UNET | kinds | sizes)
    sizes = {"block_out_channels": [8], "down_block_types": ["DownEncoderBlock2D"]}
    write(root / "vae", params["vae"], VAE | sizes)
    whole = load_file(wee_clip / "model.safetensors")
    (root / "text_encoder").mkdir()
    text = {name: x for name, x in whole.items() if name.startswith("text_model.")}
    save_file(text, root / "text_encoder/model.safetensors")
    data = read_json(wee_clip / "config.json")["text_config"] | {"model_type": "clip_text_model"}
    (root / "text_encoder/config.json").write_text(json.dumps(data))
    (root / "tokenizer").mkdir()
    copy_tokenizer(TINY, root / "tokenizer")
    return root


@pytest.fixture
def small(models, wee_clip):
    return {
        "experiment": "segmentation",
        "model": str(wee_clip),
        "diffusion": {"model": str(models), "prompts": "simple"},
        "seeds": (0,),
        "data": {"train": 4, "test": 2, "targets": ("fog",), "resize": (16, 16)},
        "epochs": 1,
        "batch_size": 4,
        "width": 8,
        "lr": LR,
        "warmup": 0.0,
        "overlays": 0,
        "methods": {"vpd_sub_domino": DOMINO},
    }


@pytest.fixture
def moved(monkeypatch):
    """Name of what trained -> parts of its parameters -> the largest change of a number."""
    trained, found = Trainer.train, {}

    def noted(self, method, data, name):
        after = trained(self, method, data, name)
        (compiled,) = self._compiled.values()  # methods of a run here are of one program
        before = compiled.begin(np.zeros(1, np.uint32)).params
        part = lambda tree: {"decoder": tree["decoder"], **tree["backbone"]}
        largest = lambda *trees: max(
            float(np.abs(new - old).max())
            for old, new in zip(*map(jax.tree.leaves, trees), strict=True)
        )
        found[name] = {key: largest(old, part(after)[key]) for key, old in part(before).items()}
        return after

    monkeypatch.setattr(Trainer, "train", noted)
    return found


@pytest.mark.slow
def test_a_run_trains_the_adapter_and_a_free_unet_at_a_tenth_of_the_rate(small, tmp_path, moved):
    config = small | {"diffusion": small["diffusion"] | {"unet": "free"}}
    config |= {"lr": 1e-3, "methods": {"vpd_sub_domino": DOMINO | {"lr": LR}}}  # its own counts
    run(parse(config), tmp_path / "run")
    found = read_json(tmp_path / "run/segmentation.json")
    assert found["model"] == small["diffusion"]["model"] and "random" not in found["note"]
    assert "in every step, as a part of what makes them trains" in found["maps"]
    assert found["trains"] == "decoders and text adapter, and the UNet at 0.1 of their rate"
    assert found["levels"] == []
    assert 0 <= found["methods"]["vpd_sub_domino"]["miou"]["fog"][0] <= 1
    # Adam's first step is the rate, whatever the gradient's size is; the decay is a thousandth.
    rates = {"decoder": LR, "adapter": LR, "unet": 0.1 * LR}
    assert moved == {"vpd_sub_domino": pytest.approx(rates, rel=0.01)}


@pytest.mark.slow
def test_the_smoke_config_trains_beside_a_frozen_unet_and_says_that_it_means_nothing(
    wee_clip, tmp_path, moved, monkeypatch
):
    """Two of its rows and a mixing, smaller yet."""
    given = vpd_smoke.get_config("smoke").to_dict()
    unet, vae = random_sizes()
    assert (parse(given).diffusion.model, unet.cross_attention_dim) == ("random", 128)
    assert given["methods"] == vpd_driving.methods() and vae.stride == 8
    few = (dataclasses.replace(SIZES[0], cross_attention_dim=128), SIZES[1])
    monkeypatch.setattr(segmentation_diffusion, "random_sizes", lambda: few)
    given["methods"] = {name: given["methods"][name] for name in ("vpd", "vpd_add")}
    given |= {"model": str(wee_clip), "batch_size": 4, "width": 8, "lr": LR, "warmup": 0.0}
    given["data"] |= {"train": 4, "test": 2, "targets": ("fog",), "resize": (16, 16)}
    given["mixing"] |= {"shares": (0.5,), "method": "vpd_add"}
    run(parse(given), tmp_path / "run")
    found = read_json(tmp_path / "run/segmentation.json")
    words = "random weights: a smoke test, its numbers mean nothing"
    assert found["model"] == "random" and found["note"].startswith(words)
    assert found["trains"] == "decoders and text adapter"
    for name in ("segmentation.html", "segmentation.md"):
        assert words in (tmp_path / "run" / name).read_text()
    assert found["mixing"]["shares"] == [0.5] and found["mixing"]["method"] == "vpd_add"
    rates = pytest.approx({"decoder": LR, "adapter": LR}, rel=0.01)
    assert len(moved) == 3 and all(rate == rates for rate in moved.values())


def test_weights_of_the_smoke_test_are_drawn_from_a_seed():
    one, same, other = (flat(random_params(*SIZES, seed)) for seed in (0, 0, 1))
    kernel = "unet/mid_block/resnets_0/conv1/kernel"
    assert all(np.array_equal(one[path], same[path]) for path in one)
    assert not np.array_equal(one[kernel], other[kernel])
    assert float(np.std(one[kernel])) == pytest.approx((9 * 16) ** -0.5, rel=0.05)
    made = {
        f"unet/{path}": x.shape for path, x in shapes(UNet(SIZES[0]), (4, 4, 4), (1, WIDTH)).items()
    }
    assert {path: x.shape for path, x in one.items() if path.startswith("unet/")} == made


def test_a_frozen_unet_is_no_parameter(small):
    plan = prepare(parse(small))
    assert plan.dense.shapes == ((16, 16, 8), (8, 8, 16 + 6))  # 6 classes
    assert set(plan.dense.params) == {"unet", "vae"} and not plan.dense.rates
    assert set(plan.dense.begin(jax.random.key(0))) == {"adapter"} and not plan.dense.trained


def test_tests_answer_as_many_images_as_a_step_takes_and_one_seed_after_the_other(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(segmentation_diffusion, "step_bytes", lambda *_, **how: StepBytes(0, 0, 0))
    data = small["data"] | {"test": 3, "window": (8, 8), "stride": (4, 4)}
    plan = prepare(parse(small | {"data": data, "accumulate": 2, "seeds": (0, 1)}))
    trainer = Trainer(plan, tmp_path, print, {"masks": None}, cached=False)
    test = Encoder(plan, cached=False)(plan.data.tests["fog"])
    assert [len(rows["inputs"]) for rows, _ in test.batches()] == [2, 2]
    given, at_once = [], set()

    def jit(run, **_):
        return lambda params, *rest: given.append(params["x"].shape) or run(params, *rest)

    def logits(params, rows, rng):
        at_once.add(len(rows["inputs"]))
        return params["x"] + np.zeros((len(rows["inputs"]), 4, 4, 6))

    monkeypatch.setattr(jax, "jit", jit)  # eager: what reaches a device is what is given
    monkeypatch.setattr(Trainer, "_segmenter", lambda *_: SimpleNamespace(logits=logits))
    params = {"x": np.eye(6, dtype=np.float32)[[2, 5]]}
    (method,) = plan.config.decoders
    found = [seen for _, seen in answered(trainer, method, params, test)]
    assert at_once == {2} and set(given) == {(6,)}  # 9 windows an image
    assert np.array_equal(found[0], np.broadcast_to([[[2]], [[5]]], found[0].shape))


def test_sizes_that_do_not_fit_are_refused(small):
    words = "31 x 32 pixels do not fit: 2 must .* to 32 x 32 say, by data.resize"
    with pytest.raises(ConfigError, match=words):
        prepare(parse(small | {"data": small["data"] | {"resize": (31, 32)}}))


def test_the_recipe_of_driving_is_vpds():
    made = parse(vpd_driving.get_config("root=/data").to_dict())
    rows = {method.name: (method.prompt, method.norm) for method in made.decoders}
    assert rows == {
        "vpd": ("none", "plain"),
        "vpd_domino": ("none", "domino"),
        "vpd_add": ("add", "plain"),
        "vpd_add_domino": ("add", "domino"),
        "vpd_sub": ("sub", "plain"),
        "vpd_sub_domino": ("sub", "domino"),
    }
    assert {method.decoder for method in made.decoders} == {"fpn"} and made.width == 256
    assert (made.diffusion.unet, made.diffusion.factor) == ("free", 0.1)
    assert all(side % 64 == 0 for side in (*made.data.crop, *made.data.window))


def test_a_text_encoder_of_another_width_is_refused(small, models, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(models, copy)
    config = read_json(copy / "unet/config.json") | {"cross_attention_dim": 20}
    (copy / "unet/config.json").write_text(json.dumps(config))
    config = parse(small | {"diffusion": {"model": str(copy)}})
    with pytest.raises(ConfigError, match="texts are 24 wide, .* cross-attention reads 20; take"):
        prepare(config)


def test_a_model_that_does_not_fit_the_device_is_refused_before_it_starts(small, monkeypatch):
    monkeypatch.setattr(segmentation_diffusion, "device_bytes", lambda: (10**5, "cuda:0"))
    monkeypatch.setattr(segmentation_diffusion, "load_diffusion", None)  # nor are weights read
    with pytest.raises(
        ConfigError, match="a step needs about .* GB .* and cuda:0 has 0.0; its parameters"
    ):
        prepare(parse(small))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diffusion": {"unet": "free"}}, "diffusion.unet=free has no effect without a model"),
        ({"diffusion": {"model": "x", "factor": 0.2}}, "has no effect on a frozen UNet"),
        ({"diffusion": {"model": "x", "timestep": 1000}}, "diffusion.timestep is 1000"),
        (
            {"diffusion": {"model": "x", "prompts": "a photo"}},
            "diffusion.prompts: prompt 'a photo'",
        ),
        (
            {"maps": "cached"},
            "maps=cached has no effect with diffusion.model, whose maps",
        ),
        ({"levels": (1, 2)}, r"levels=\(1, 2\) has no effect with diffusion.model"),
    ],
)
def test_fields_without_effect_are_refused(small, changes, words):
    with pytest.raises(ConfigError, match=words):
        parse(small | changes)
