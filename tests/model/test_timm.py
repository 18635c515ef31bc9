"""ResNets in timm's layout against timm's PyTorch on random weights, every one perturbed."""

import json
import sys

import jax
import numpy as np
import pytest

from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.hf.image_model import load_model
from clipjax.model.hf.load import load_clip
from clipjax.model.hf.timm import DEPTHS, load_timm, timm_config, timm_path
from clipjax.model.image_maps import image_maps
from clipjax.model.resnet import ResNet
from clipjax.train.groups import layer_groups
from tests.timm_layout import SMALL_CLIP, saved_timm, timm


@pytest.fixture(scope="module", autouse=True)
def of_timm():
    return timm()


def pixels(*size):
    return np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)


def close(ours, theirs, most=1e-5):
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max() <= most * np.abs(theirs).max()


def of_torch(model, images):
    """Every stage's map, the stem's first, [B, h, w, C], and what is pooled, [B, D]."""
    import torch

    kept = []
    deep = hasattr(model, "stages")
    stages = [model.stem, *model.stages] if deep else [model.maxpool, *stage_modules(model)]
    hooks = [m.register_forward_hook(lambda *args: kept.append(args[2])) for m in stages]
    with torch.no_grad():
        found = model.forward_features(torch.tensor(images.transpose(0, 3, 1, 2)))
        pooled = model.forward_head(found, pre_logits=not clip_head(model))
    for hook in hooks:
        hook.remove()
    return [x.permute(0, 2, 3, 1).numpy() for x in kept], pooled.numpy()


def stage_modules(model):
    return [getattr(model, f"layer{i}") for i in (1, 2, 3, 4)]


def clip_head(model):
    return hasattr(getattr(model, "head", None), "pos_embed")


def check(directory, model, size, most=1e-5, last="state"):
    """Compare a loaded model with timm's at all levels; return its config and parameters."""
    import torch

    config, params = load_model(directory)
    images = pixels(*size)
    states, wanted = of_torch(model, images)
    if last == "value":  # MaskCLIP's: the values of the places, projected
        with torch.no_grad():
            states[-1] = model.head.proj(model.head.v(torch.tensor(states[-1]))).numpy()
    apply = jax.jit(ResNet(config.vision).apply, static_argnames=("levels", "last"))
    levels = {"levels": (0, 1, 2, 3, 4), "last": last}
    pooled, maps = apply({"params": params["vision"]}, images, **levels)
    close(pooled, wanted, most)
    for level, state in zip(maps, states, strict=True):
        close(level, state, most)
    return config, params


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet50", {}),
        ("resnet18d", {}),
        ("seresnet50t", {"output_stride": 16, "stem_width": 16}),
        ("resnet101c", {"output_stride": 8}),
        ("resnetrs50", {}),
        ("resnet101_clip_gap", {"num_classes": 0}),
    ],
)
def test_a_resnet_is_that_of_timm_at_every_level(tmp_path, monkeypatch, name, changes):
    plain = {"stem_width": 64} if name == "resnet50" else {}
    model = saved_timm(tmp_path, name, monkeypatch, **plain | changes)
    config, _ = check(tmp_path, model, (65, 98) if "clip" not in name else (63, 96))
    assert config.kind == "resnet"


def test_a_clip_resnet_is_that_of_timm_at_other_sizes(tmp_path, monkeypatch):
    model = saved_timm(tmp_path, "resnet50_clip", monkeypatch)
    config, params = check(tmp_path, model, (96, 63))
    assert config.projection_dim == 24 and config.vision.hidden_size == 256
    assert layer_groups({"clip": params})[-1] == "clip/vision/projection"
    with pytest.raises(ConfigError, match=r"last=value has no effect on levels \(1,\); add 4"):
        image_maps(config, (1,), last="value")
    values = image_maps(config, (3, 4), last="value", output_stride=8)
    shapes = jax.eval_shape(values, params["vision"], pixels(64, 96))
    assert [x.shape for x in shapes] == [(2, 8, 12, 128), (2, 8, 12, 24)]
    odd = jax.eval_shape(image_maps(config, (1, 2, 3)), params["vision"], pixels(72, 72))
    assert [x.shape[1] for x in odd] == [18, 9, 4]  # which timm refuses


def test_values_of_a_dilated_clip_resnet_are_those_of_timm(tmp_path, monkeypatch):
    model = saved_timm(tmp_path, "resnet50_clip", monkeypatch, output_stride=8)
    check(tmp_path, model, (63, 64), last="value")


def test_a_clip_resnet_of_full_depth_is_that_of_timm(tmp_path, monkeypatch):
    model = saved_timm(tmp_path, "resnet50_clip", monkeypatch, small=False, **SMALL_CLIP)
    config, _ = check(tmp_path, model, (64, 64), most=1e-4)  # its own size
    assert config.vision.depths == (3, 4, 6, 3)


def test_depths_are_timms(monkeypatch, of_timm):
    """Of every name: what timm would build, which it is kept from."""
    resnet, byobnet = (sys.modules[f"timm.models.{name}"] for name in ("resnet", "byobnet"))
    monkeypatch.setattr(resnet, "_create_resnet", lambda *_, **given: given["layers"])
    named = {f"{kind}{n}": d for kind in ("resnet", "resnetrs") for n, d in DEPTHS[kind].items()}
    assert {name: getattr(resnet, name)() for name in named} == named
    for number, depths in DEPTHS["clip"].items():
        assert depths == tuple(x.d for x in byobnet.model_cfgs[f"resnet{number}_clip"].blocks)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "seresnet34", "resnet26t", "resnet101s", "resnet50d", "resnetrs50"]
    + [f"resnet{number}_clip" for number in DEPTHS["clip"]]
    + ["resnet50x4_clip_gap"],
)
def test_a_name_alone_says_timms_sizes(of_timm, name):
    """What a file of the Hub holds: no arguments."""
    import torch

    with torch.device("meta"):
        model = of_timm.create_model(name)
    size = model.pretrained_cfg["input_size"]
    data = {"architecture": name, "num_classes": model.num_classes}
    config = timm_config(data | {"pretrained_cfg": {"input_size": size}})
    stages = list(model.stages) if "clip" in name else stage_modules(model)
    assert config.depths == tuple(map(len, stages))
    shapes = {timm_path(key, config): tuple(x.shape) for key, x in model.state_dict().items()}
    last = 1 if config.layer_type == "basic" else 2
    for i, width in enumerate(config.hidden_sizes):
        assert shapes[f"block_{i}/layer_0/conv_{last}/kernel"][0] == width
        gate = shapes.get(f"block_{i}/layer_0/squeeze/fc1/kernel")
        assert (gate and gate[0]) == (max(8, round(width * config.squeeze)) if gate else None)
    stem = [f"stem/conv_{i}/kernel" for i in range(len(config.stem))] or ["stem/kernel"]
    wanted = config.stem or (config.embedding_size,)
    assert tuple(shapes[name][0] for name in stem) == wanted
    assert ("stem/pool/kernel" in shapes) == (config.stem_pool == "conv")
    assert ("attention_pool/k/kernel" in shapes) == bool(config.projection)
    if config.projection:
        assert shapes["attention_pool/positions"][0] == 1 + config.grid**2
        assert shapes["attention_pool/proj/kernel"] == (config.projection, config.hidden_size)


def test_pictures_are_cut_as_by_timm(tmp_path, monkeypatch):
    from PIL import Image

    saved_timm(tmp_path, "resnetrs50", monkeypatch)
    ours = load_preprocess(tmp_path)
    assert ours.size == 160 and ours.resize == int(160 / 0.91)
    picture = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
    # torchvision's Resize and CenterCrop: the longer side is cut off, half of a rest is rounded.
    width, height = int(175 * 110 / 90), 175
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 160) / 2), round((height - 160) / 2)
    view = np.asarray(resized.crop((left, top, left + 160, top + 160))) / 255
    wanted = (view - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(ours.normalize(ours.crop(picture)), wanted, atol=1e-5)
    # Older files have it all at the top; a crop of the whole, squeezed; a filter drawn by chance.
    rules = {"architecture": "resnet18", "input_size": [3, 96, 96], "crop_mode": "squash"}
    assert timm_config(rules).image_size == 96
    (tmp_path / "config.json").write_text(json.dumps(rules | {"crop_pct": 1.0}))
    squeezed = load_preprocess(tmp_path)
    assert (squeezed.size, squeezed.resize, squeezed.resample) == (96, (96, 96), 3)
    (tmp_path / "config.json").write_text(json.dumps(rules | {"interpolation": "random"}))
    with pytest.raises(CheckpointError, match=r"cannot follow \(interpolation 'random'\)"):
        load_preprocess(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "resnext50_32x4d"}, "does not read timm's 'resnext50_32x4d'; known: res"),
        ({"architecture": "resnet50x8_clip"}, "does not read timm's 'resnet50x8_clip'"),
        ({"model_args": {"aa_layer": "blur"}}, "timm made resnet50_clip with aa_layer='blur'; cl"),
        ({"model_args": {"layers": [1]}}, "layers is no argument of timm's ByobNet"),
        ({"num_classes": 0}, "of num_classes 0 has no projection"),
        ({"global_pool": "catavgmax"}, "pools by 'catavgmax'; clipjax reads avg and token"),
        (
            {"model_args": {"global_pool": "avg"}},
            "of a CLIP pools by 'avg'; clipjax reads it with token",
        ),
        ({"pretrained_cfg": {"input_size": [3, 64, 32]}}, "describes no ResNet of timm .* square"),
        ({"pretrained_cfg": {"input_size": [3, 96, 96]}}, "the config wants"),
        (
            {"architecture": "resnet101_clip_gap", "model_args": {"global_pool": None}},
            r"9 unexpected \+.*\n  \+ attention_pool/k/bias",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, monkeypatch, changes, words):
    saved_timm(tmp_path, "resnet50_clip", monkeypatch)
    monkeypatch.setitem(DEPTHS["clip"], "101", (1, 1, 1, 1))
    file = tmp_path / "config.json"
    data = json.loads(file.read_text())
    data["model_args"].pop("img_size")
    for key, value in changes.items():
        both = isinstance(value, dict)
        data[key] = data.get(key, {}) | value if both else value
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


def test_what_is_no_model_of_timm_or_no_whole_clip_is_refused(tmp_path, monkeypatch, wee_clip):
    saved_timm(tmp_path, "resnet50_clip", monkeypatch)
    with pytest.raises(CheckpointError, match="this is a 'resnet' model.*It has no class texts"):
        load_clip(tmp_path)
    with pytest.raises(CheckpointError, match="is no model in timm's layout"):
        load_timm(wee_clip)
