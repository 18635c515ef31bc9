"""Segmentation runs on the maps of a small random Stable Diffusion."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax.configs import vpd_driving
from clipjax.errors import ConfigError
from clipjax.model.diffusion.unet import UNet, UNetConfig
from clipjax.model.diffusion.vae import VAEConfig, VAEEncoder
from clipjax.model.hf.hub import copy_tokenizer
from clipjax.model.hf.trees import shapes
from clipjax.study import parse, run, segmentation_diffusion
from clipjax.study.segmentation_plan import prepare
from clipjax.study.segmentation_trainer import Trainer
from tests.conftest import TINY, read_json
from tests.model.test_diffusion import UNET, VAE, write

LR = 1e-2
WIDTH = 24  # of the texts
DOMINO = {"decoder": "fpn", "norm": "domino", "prompt": "sub", "control": "shuffled", "scale": 0.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory, wee_clip):
    """A directory in diffusers' layout: 2 levels of a UNet, a VAE of stride 2, wee_clip's texts."""
    root = tmp_path_factory.mktemp("diffusion")
    unet = UNetConfig((8, 16), (True, True), (2, 4), 1, WIDTH, norm_num_groups=8)
    vae = VAEConfig((8, 8), 1, norm_num_groups=8)
    rng = np.random.default_rng(0)

    def make(module, *given):
        abstract = shapes(module, *given)
        return {
            path: ("scale" in path) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
            for path, leaf in abstract.items()
        }

    sizes = {"block_out_channels": [8, 16], "cross_attention_dim": WIDTH}
    write(root / "unet", make(UNet(unet), (4, 4, 4), (1, WIDTH)), UNET | sizes)
    sizes = {"block_out_channels": [8, 8]}
    write(root / "vae", make(VAEEncoder(vae), (8, 8, 3)), VAE | sizes)
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
        "diffusion": {"model": str(models)},
        "seeds": (0,),
        "data": {"train": 4, "test": 2, "targets": ("fog",), "resize": (32, 32)},
        "epochs": 1,
        "batch_size": 4,
        "width": 8,
        "lr": LR,
        "warmup": 0.0,
        "overlays": 0,
        "methods": {"vpd_sub_domino": DOMINO},
    }


@pytest.mark.slow
def test_a_run_trains_the_adapter_and_a_free_unet_at_a_tenth_of_the_rate(
    small, tmp_path, monkeypatch
):
    trained, kept = Trainer.train, []

    def noted(self, method, data, name):
        params = trained(self, method, data, name)
        (compiled,) = self._compiled.values()
        begun = compiled.begin(np.zeros(1, np.uint32))
        kept.extend([begun.params, params])
        return params

    monkeypatch.setattr(Trainer, "train", noted)
    config = small | {"diffusion": small["diffusion"] | {"unet": "free"}}
    run(parse(config), tmp_path / "run")
    found = read_json(tmp_path / "run/segmentation.json")
    assert found["model"] == small["diffusion"]["model"]
    assert "in every step, as a part of what makes them trains" in found["maps"]
    assert 0 <= found["methods"]["vpd_sub_domino"]["miou"]["fog"][0] <= 1
    before, after = kept
    assert set(after["backbone"]) == {"adapter", "unet"}

    def largest(tree):
        pairs = zip(*(jax.tree.leaves(tree(p)) for p in (before, after)), strict=True)
        return max(float(np.abs(new - old).max()) for old, new in pairs)

    # Adam's first step is the rate, whatever the gradient's size is; the decay is a thousandth.
    assert largest(lambda p: p["backbone"]["unet"]) == pytest.approx(0.1 * LR, rel=0.01)
    assert largest(lambda p: p["backbone"]["adapter"]) == pytest.approx(LR, rel=0.01)
    assert largest(lambda p: p["decoder"]) == pytest.approx(LR, rel=0.01)


def test_a_frozen_unet_is_no_parameter(small):
    plan = prepare(parse(small))
    assert plan.dense.shapes == ((16, 16, 8), (8, 8, 16 + 6))  # 6 classes
    assert set(plan.dense.params) == {"unet", "vae"} and not plan.dense.rates
    assert set(plan.dense.begin(jax.random.key(0))) == {"adapter"} and not plan.dense.trained


def test_sizes_that_do_not_fit_are_refused(small):
    words = "30 x 32 pixels do not fit: 4 must .* to 32 x 32 say, by data.resize"
    with pytest.raises(ConfigError, match=words):
        prepare(parse(small | {"data": small["data"] | {"resize": (30, 32)}}))


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
    wide = UNetConfig((8, 16), (True, True), (2, 4), 1, 20, norm_num_groups=8)
    zeros = {k: np.zeros(x.shape) for k, x in shapes(UNet(wide), (4, 4, 4), (1, 20)).items()}
    shutil.rmtree(copy / "unet")
    write(copy / "unet", zeros, UNET | {"block_out_channels": [8, 16]})
    config = parse(small | {"diffusion": {"model": str(copy)}})
    with pytest.raises(ConfigError, match="texts are 24 wide, .* cross-attention reads 20; take"):
        prepare(config)


def test_a_model_that_does_not_fit_the_device_is_refused_before_it_starts(small, monkeypatch):
    monkeypatch.setattr(segmentation_diffusion, "device_bytes", lambda: (10**6, "cuda:0"))
    monkeypatch.setattr(segmentation_diffusion, "load_diffusion", None)  # nor are weights read
    with pytest.raises(ConfigError, match="a step needs about .* GB .* and cuda:0 has 0.0; freeze"):
        prepare(parse(small))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diffusion": {"unet": "free"}}, "diffusion.unet=free has no effect without a model"),
        ({"diffusion": {"model": "x", "factor": 0.2}}, "has no effect on a frozen UNet"),
        ({"diffusion": {"model": "x", "timestep": 1000}}, "diffusion.timestep is 1000"),
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
