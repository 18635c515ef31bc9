"""A supervised ViT against transformers' PyTorch on random weights, and what it lacks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.backbone import make_backbone
from clipjax.model.hf.image_model import load_model
from clipjax.model.hf.image_only import load_vit
from clipjax.model.hf.load import load_clip
from clipjax.model.image_model import ImageModel
from clipjax.model.vit import ViT
from clipjax.train.groups import layer_groups

torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
SIZES |= {"intermediate_size": 40, "image_size": 16, "patch_size": 4}


def saved(directory, kind="ViTModel", **changes):
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.ViTConfig(**SIZES | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms, too
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_every_hidden_state_is_that_of_transformers(tmp_path, kind):
    model = saved(tmp_path, kind)
    config, params = load_vit(tmp_path)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    base = model if kind == "ViTModel" else model.vit
    with torch.no_grad():
        wanted = base(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
    pooled, hidden = ViT(config).apply({"params": params}, images, all_hidden=True)
    assert len(hidden) == len(wanted.hidden_states) == 4
    pairs = [*zip(hidden, wanted.hidden_states, strict=True)]
    pairs.append((pooled, wanted.last_hidden_state[:, 0]))
    pairs.append((ViT(config).apply({"params": params}, images), wanted.last_hidden_state[:, 0]))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_it_is_a_backbone_without_texts(tmp_path):
    saved(tmp_path)
    with pytest.raises(CheckpointError, match="'vit' model; .*a study takes it as its model"):
        load_clip(tmp_path)
    config, params = load_model(tmp_path)
    assert (config.kind, config.projection_dim, config.text) == ("vit", 24, None)
    assert layer_groups({"clip": params}) == tuple(
        f"clip/vision/{x}" for x in ("embedding", "block_0", "block_1", "block_2", "projection")
    )
    backbone = make_backbone(ImageModel(config), lambda pixels, rng: pixels)
    images = jnp.ones((2, 16, 16, 3))
    seen = backbone.encode["image"]({"clip": params}, images)
    np.testing.assert_allclose(jnp.linalg.norm(seen, axis=1), 1, atol=1e-6)
    first = lambda p: backbone.encode["image"]({"clip": p}, images)[0, 0]
    slopes = jax.jit(jax.grad(first))(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    for ask in (backbone.scale, lambda p: backbone.encode["text"](p, jnp.ones((1, 4), int))):
        with pytest.raises(ConfigError, match="the model has no text tower"):
            ask({"clip": params})
    cached = make_backbone(ImageModel(config), lambda pixels, rng: pixels, ("image",))
    assert cached.encode["image"]({}, seen) is seen
    larger, resized = load_model(tmp_path, image_size=24)
    assert larger.vision.image_size == 24
    assert resized["vision"]["position_embedding"].shape == (37, 24)


def test_its_pixels_are_those_of_its_own_processor(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    processor = transformers.ViTImageProcessor
    for options in ({}, {"size": {"height": 24, "width": 24}, "image_mean": [0.4, 0.5, 0.6]}):
        made = processor(**options)
        made.save_pretrained(tmp_path)
        rules = load_preprocess(tmp_path)
        wanted = made(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        found = rules.normalize(rules.crop(image))
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=2.1 / 255 / 0.5)  # torchvision's resize
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "ViTFeatureExtractor", "size": 20})
    )
    old = load_preprocess(tmp_path)
    assert (old.size, old.resize, old.mean, old.resample) == (20, (20, 20), (0.5,) * 3, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "deit"}, "is a 'deit' model; load_vit reads type 'vit'"),
        ({"qkv_bias": False}, "has no qkv_bias"),
        ({"hidden_size": 25}, "describes no ViT that can be built"),
        ({"num_hidden_layers": 4}, r"config.json \(16 missing -, 0 unexpected(.|\n)*\n  - block_3"),
        ({"intermediate_size": 48}, r"the config wants \((24, )?48"),
    ],
)
def test_other_models_and_weights_that_do_not_fit_are_refused(tmp_path, changes, words):
    saved(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=words):
        load_vit(tmp_path)
