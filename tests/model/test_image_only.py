"""DINOv2 and ResNets against transformers' PyTorch on random weights, every one perturbed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import CheckpointError, ConfigError
from clipjax.io import write_json
from clipjax.model.dinov2 import DINOv2, DINOv2Config
from clipjax.model.hf.image_model import load_model
from clipjax.model.hf.image_only import load_dinov2, load_resnet
from clipjax.model.hf.params import flat
from clipjax.model.image_maps import image_maps
from clipjax.model.image_model import ImageConfig
from clipjax.model.resnet import ResNet, ResNetConfig
from clipjax.study import Data, Encoder, Study, Training, run
from clipjax.train.groups import layer_groups, name_tree
from tests.timm_layout import saved_timm

torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
transformers = pytest.importorskip("transformers")

DINO = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2}
DINO |= {"image_size": 20, "patch_size": 4, "layerscale_value": 0.7}
RES = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [2, 1]}


def saved(directory, kind, **changes):
    """Write a random model; every parameter and statistic is away from its first value."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**changes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                noise = torch.rand_like if name.endswith("var") else torch.randn_like
                value.add_(0.1 * noise(value))
    model.save_pretrained(directory)
    return model


def pixels(*size):
    return np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)


def close(ours, theirs):
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2_is_that_of_transformers_at_every_level_and_size(tmp_path, kind, swiglu):
    model = saved(tmp_path, kind, **DINO, use_swiglu_ffn=swiglu)
    config, params = load_dinov2(tmp_path)
    ours = DINOv2(config)
    apply = jax.jit(ours.apply, static_argnames="levels")
    assert config.registers == (4 if kind == "Dinov2WithRegisters" else 0)
    # Its own size; larger, smaller; not square; sizes that patches do not divide.
    for size in ((20, 20), (28, 16), (23, 30)):
        images = pixels(*size)
        with torch.no_grad():
            wanted = model(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
            states = [model.layernorm(state) for state in wanted.hidden_states[1:]]
        pooled, maps = apply({"params": params}, images, levels=(1, 2))
        close(pooled, wanted.pooler_output)
        for level, state in zip(maps, states, strict=True):
            patches = state[:, 1 + config.registers :]
            close(level, patches.reshape(2, size[0] // 4, size[1] // 4, 24))
    close(ours.apply({"params": params}, images), wanted.pooler_output)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"downsample_in_bottleneck": True, "downsample_in_first_stage": True},
        {"layer_type": "basic", "hidden_act": "silu"},
    ],
)
def test_a_resnet_is_that_of_transformers_at_every_level_and_size(tmp_path, changes):
    model = saved(tmp_path, "ResNet", **RES | changes)
    config, params = load_resnet(tmp_path)
    for size in ((32, 32), (65, 97)):
        images = pixels(*size)
        with torch.no_grad():
            wanted = model(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
        apply = jax.jit(ResNet(config).apply, static_argnames="levels")
        pooled, maps = apply({"params": params}, images, levels=(0, 1, 2))
        close(pooled, wanted.pooler_output[..., 0, 0])
        for level, state in zip(maps, wanted.hidden_states, strict=True):
            close(level, state.permute(0, 2, 3, 1))
    close(ResNet(config).apply({"params": params}, images), wanted.pooler_output[..., 0, 0])


def dilated(model):
    """Dilate the stages behind the first in place of their strides, as torchvision does."""
    dilation = 1
    for stage in model.encoder.stages[1:]:
        before, dilation = dilation, 2 * dilation
        for i, layer in enumerate(stage.layers):
            convs = [m for m in layer.modules() if isinstance(m, torch.nn.Conv2d)]
            wide = [conv for conv in convs if conv.kernel_size == (3, 3)]
            for conv in convs:
                conv.stride = (1, 1)
            for conv in wide:
                rate = before if i == 0 and conv is wide[0] else dilation
                conv.dilation = conv.padding = (rate, rate)
    return model


@pytest.mark.parametrize("changes", [{"downsample_in_bottleneck": True}, {"layer_type": "basic"}])
def test_dilated_stages_are_those_of_torch(tmp_path, changes):
    sizes = RES | {"hidden_sizes": [16, 24, 24], "depths": [1, 2, 2]} | changes
    model = dilated(saved(tmp_path, "ResNet", **sizes))
    config, params = load_model(tmp_path)
    images = pixels(33, 46)
    with torch.no_grad():
        wanted = model(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
    maps = jax.jit(image_maps(config, (0, 1, 2, 3), output_stride=4))(params["vision"], images)
    assert maps[-1].shape == (2, 9, 12, 24)
    for level, state in zip(maps, wanted.hidden_states, strict=True):
        close(level, state.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("config", "stride", "words"),
    [
        (ImageConfig("resnet", ResNetConfig()), 32, "less than its own 32: 4 or 8 or 16, or 0"),
        (ImageConfig("resnet", ResNetConfig()), 12, "output_stride 12 is none"),
        (ImageConfig("dinov2", DINOv2Config(24, 48, 2, 3)), 8, "leave it 0 for .* 'dinov2'"),
    ],
)
def test_strides_that_dilation_does_not_make_are_refused(config, stride, words):
    with pytest.raises(ConfigError, match=words):
        image_maps(config, output_stride=stride)


def test_a_resnet_50_of_full_depth_is_that_of_transformers(tmp_path):
    model = saved(tmp_path, "ResNet", hidden_sizes=[32, 64, 128, 256])  # depths 3, 4, 6, 3
    config, params = load_resnet(tmp_path)
    images = pixels(64, 64)
    with torch.no_grad():
        wanted = model(torch.tensor(images.transpose(0, 3, 1, 2))).pooler_output[..., 0, 0].numpy()
    seen = jax.jit(ResNet(config).apply)({"params": params}, images)
    assert config.depths == (3, 4, 6, 3)
    assert np.abs(np.asarray(seen) - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.fixture
def both(tmp_path):
    """A small model of each, as a module's class, its config and its parameters."""
    saved(tmp_path / "a", "Dinov2", **DINO)
    saved(tmp_path / "b", "ResNet", **RES)
    return (DINOv2, *load_dinov2(tmp_path / "a")), (ResNet, *load_resnet(tmp_path / "b"))


@pytest.mark.parametrize("which", [0, 1])
def test_memory_policies_change_no_gradient(both, which):
    module, config, params = both[which]

    def total(params, remat):
        return module(config, remat=remat).apply({"params": params}, pixels(20, 20)).sum()

    grad = jax.jit(jax.grad(total), static_argnums=1)
    slopes = [grad(params, remat) for remat in ("none", "blocks")]
    plain, spared = (np.concatenate([*map(np.ravel, jax.tree.leaves(one))]) for one in slopes)
    np.testing.assert_allclose(plain, spared, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize(
    ("kind", "load", "changes", "words"),
    [
        ("Dinov2", load_dinov2, {"model_type": "vit"}, "load_dinov2 reads type 'dinov2' or"),
        ("Dinov2", load_dinov2, {"qkv_bias": False}, "has no qkv_bias"),
        ("Dinov2", load_dinov2, {"num_hidden_layers": 3}, "18 missing -.*\n  - block_2/fc1"),
        ("Dinov2", load_dinov2, {"use_swiglu_ffn": True}, r"\+ block_0/fc1"),
        ("Dinov2", load_dinov2, {"patch_size": 0}, "describes no DINOv2 that can be built"),
        ("ResNet", load_resnet, {"depths": [2]}, "describes no ResNet that can be built: depths"),
        ("ResNet", load_resnet, {"depths": [1, 1]}, r"15 unexpected \+"),
        ("ResNet", load_resnet, {"embedding_size": 9}, r"the config wants \(1, 1, 9, 4\)"),
    ],
)
def test_weights_and_configs_that_do_not_fit_are_refused(tmp_path, kind, load, changes, words):
    saved(tmp_path, kind, **(DINO if kind == "Dinov2" else RES))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


@pytest.mark.parametrize(("which", "level"), [(0, 3), (1, 4)])
def test_images_and_levels_that_do_not_fit_are_refused(both, which, level):
    module, config, params = both[which]
    run = lambda images, **how: module(config).apply({"params": params}, images, **how)
    with pytest.raises(ValueError, match="do not fit: give"):
        run(jnp.zeros((1, 20, 20, 1)))
    with pytest.raises(ValueError, match=f"level {level} is none of"):
        run(jnp.zeros((1, 20, 20, 3)), levels=(level,))


@pytest.mark.parametrize("edge", [32, 400])
def test_pictures_are_cut_as_by_the_processor_of_resnets(tmp_path, edge):
    from transformers.models.convnext import image_processing_pil_convnext as convnext

    theirs = convnext.ConvNextImageProcessorPil(size={"shortest_edge": edge})
    theirs.save_pretrained(tmp_path)
    ours = load_preprocess(tmp_path)
    assert ours.size == edge
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    wanted = theirs(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(ours.normalize(ours.crop(picture)), wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Dinov2WithRegisters", "resnet50_clip"])
def test_a_study_probes_tunes_and_adapts_it(tmp_path, photos, kind, monkeypatch):
    if kind == "resnet50_clip":  # in timm's layout, which says how images are cut, too
        saved_timm(tmp_path / "model", kind, monkeypatch, img_size=32)
    else:
        saved(tmp_path / "model", kind, **DINO | {"patch_size": 8, "image_size": 40})
        rules = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
        write_json(tmp_path / "model" / "preprocessor_config.json", rules)
    random = {"heads": {"start": "random"}}
    methods = {
        "probe": {"loss": "probe"},
        "dann": {"loss": "dann", "heads": {"adapter": (4,), "discriminator": (4,)}},
        "tune": {"loss": "finetune", **random, "freeze": ("clip/vision/embedding",),
                 "optim": {"layer_decay": 0.5}},
    }  # fmt: skip
    found = run(
        Study(
            encoder=Encoder(model=str(tmp_path / "model")),
            data=Data(root=str(photos), source="real", target="sketch"),
            training=Training(seeds=(0,), epochs=1, batch_size=8),
            methods=methods,
            stages=tuple(methods),
        ),
        tmp_path / "run",
    )
    assert {row["method"] for row in found.rows} == set(methods)
    _, params = load_model(tmp_path / "model")
    groups = layer_groups({"clip": params})
    blocks = [f"block_{i}" for i in range(4 if kind == "resnet50_clip" else 2)]
    assert groups == tuple(f"clip/vision/{name}" for name in ("embedding", *blocks, "projection"))
    trained, start = flat({"clip": found.params["tune"]["clip"]}), flat({"clip": params})
    names = jax.tree.leaves(name_tree({"clip": params}))
    group_of = {name.path: name.group for name in names}
    moved = {group_of[p] for p, x in trained.items() if not np.allclose(x[0], start[p], atol=1e-7)}
    assert moved == set(groups) - {"clip/vision/embedding"}
