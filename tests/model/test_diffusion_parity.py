"""Stable Diffusion's UNet and VAE encoder against diffusers' PyTorch, and files in each layout."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax.model.diffusion.blocks import Attention, Resnet, Transformer
from clipjax.model.diffusion.unet import UNet
from clipjax.model.diffusion.vae import EPS, VAEEncoder
from clipjax.model.hf.diffusion import load_unet, load_vae_encoder
from tests.model.test_diffusion import SD15

torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
diffusers = pytest.importorskip(
    "diffusers", reason='parity needs diffusers: pip install -e ".[parity]"'
)

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UNETS = {
    # SD 1.x: heads as one number, 1 x 1 convolutions, a coarsest level that reads no text.
    "one": dict(
        block_out_channels=(32, 64, 64),
        down_block_types=(CROSS, CROSS, PLAIN),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=24,
    ),
    # SD 2.x: heads of each level, matrices, other groups, one layer a level.
    "two": dict(
        block_out_channels=(16, 32),
        down_block_types=(CROSS, CROSS),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=[2, 4],
        use_linear_projection=True,
        upcast_attention=True,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=20,
    ),
}
VAE = dict(
    block_out_channels=(16, 32, 32),
    down_block_types=3 * ("DownEncoderBlock2D",),
    up_block_types=3 * ("UpDecoderBlock2D",),
    layers_per_block=1,
    norm_num_groups=8,
)


def perturbed(model):
    """Every parameter moved: fresh norms are ones and zeros, which would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Name of a model -> it, and the directory that it was saved in."""
    found, root = {}, tmp_path_factory.mktemp("diffusion")
    for name, sizes in UNETS.items():
        found[name] = perturbed(diffusers.UNet2DConditionModel(**sizes)), root / name
    found["vae"] = perturbed(diffusers.AutoencoderKL(**VAE)), root / "vae"
    for model, folder in found.values():
        model.save_pretrained(folder)
    return found


def close(ours, theirs, tolerance):
    theirs = theirs.detach().numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def watched(model):
    """What the model's taps and its attention to texts will be, filled when it runs."""
    from diffusers.models.attention_processor import AttnProcessor

    taps, maps = {}, {}
    model.set_attn_processor(AttnProcessor())  # which computes the scores itself
    for number, block in enumerate(model.up_blocks):
        last = number == len(model.up_blocks) - 1
        layers = getattr(block, "attentions", block.resnets)
        keep = lambda module, inputs, out, number=number: taps.update(
            {number: out[0] if isinstance(out, tuple) else out}
        )
        layers[-1 if last else -2].register_forward_hook(keep)
    for name, module in model.named_modules():
        if name.endswith(".attn2"):
            scores, short = module.get_attention_scores, name.partition(".transformer_blocks")[0]

            def note(*args, short=short, scores=scores):
                maps[short] = chance = scores(*args)
                return chance

            module.get_attention_scores = note
    return taps, maps


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("one", (10, 6)), ("two", (4, 8))])
def test_every_tap_and_map_is_that_of_diffusers_at_any_size(saved, name, size):
    model, folder = saved[name]
    taps, maps = watched(model)
    rng = np.random.default_rng(1)
    latents = rng.normal(size=(2, *size, 4)).astype(np.float32)
    texts = rng.normal(size=(2, 5, model.config.cross_attention_dim)).astype(np.float32)
    with torch.no_grad():
        nchw = torch.tensor(latents.transpose(0, 3, 1, 2))
        sample = model(nchw, 7, torch.tensor(texts)).sample
    config, params = load_unet(folder, output=True)
    found = jax.jit(UNet(config, output=True).apply)({"params": params}, latents, texts, 7)
    close(found.sample, sample, 1e-5)
    levels = len(found.taps)
    assert len(taps) == levels
    for level, tap in enumerate(found.taps):
        close(tap, taps[levels - 1 - level], 1e-5)
    assert found.maps.keys() == maps.keys() and len(maps) > 4
    for key, ours in found.maps.items():
        heads = maps[key].reshape(2, -1, *maps[key].shape[1:])
        close(ours.reshape(2, -1, 5), heads.mean(1), 1e-5)
        np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_latents_are_those_of_diffusers_at_any_size(saved):
    model, folder = saved["vae"]
    images = np.random.default_rng(2).uniform(-1, 1, (2, 22, 16, 3)).astype(np.float32)
    with torch.no_grad():
        mode = model.encode(torch.tensor(images.transpose(0, 3, 1, 2))).latent_dist.mode()
    config, params = load_vae_encoder(folder)
    found = jax.jit(VAEEncoder(config).apply)({"params": params}, images)
    close(found, mode, 5e-6)


@pytest.mark.slow
def test_epsilons_are_those_of_diffusers_where_they_matter(saved):
    """Inputs as small as the roots of the epsilons inside norms: 1e-5 and 1e-6."""
    rng, (model, folder), (vae, vae_folder) = np.random.default_rng(4), saved["one"], saved["vae"]
    x = 1e-3 * rng.normal(size=(2, 5, 3, 32)).astype(np.float32)
    time, texts = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 128), (2, 5, 24)))
    places, block = torch.tensor(x.transpose(0, 3, 1, 2)), model.down_blocks[0]
    attention = vae.encoder.mid_block.attentions[0]
    with torch.no_grad():
        wanted = [
            block.resnets[0](places, torch.tensor(time)),
            block.attentions[0](places, encoder_hidden_states=torch.tensor(texts)).sample,
            vae.encoder.mid_block.resnets[0](places, None),
            attention(places) - places,
        ]
    params, encoder = load_unet(folder)[1]["down_blocks_0"], load_vae_encoder(vae_folder)[1]
    middle, float32 = encoder["encoder"]["mid_block"], np.float32
    run = lambda module, params, *inputs: module.apply({"params": params}, *inputs)
    shared = (float32, None, True, 8)
    found = [
        run(Resnet(32, 32, 1e-5, float32), params["resnets_0"], x, time),
        run(Transformer(4, 32, float32), params["attentions_0"], x, texts)[0],
        run(Resnet(32, 8, EPS, float32), middle["resnets_0"], x),
        run(Attention(1, *shared), middle["attentions_0"], x.reshape(2, 15, 32))[0],
    ]
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours.reshape(x.shape), theirs, 1e-5)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_old_names_shards_and_half_precision_are_read(saved, tmp_path):
    model, folder = saved["vae"]
    _, params = load_vae_encoder(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    pattern = r"(attentions\.0)\.(to_q|to_k|to_v|to_out\.0)\."
    renamed = {
        re.sub(pattern, lambda m: f"{m[1]}.{old[m[2]]}.", name): tensor
        for name, tensor in tensors.items()
    }
    assert len(renamed.keys() - tensors.keys()) == 2 * 2 * 4  # encoder and decoder
    (tmp_path / "vae").mkdir()
    config = (folder / "config.json").read_text()
    (tmp_path / "vae/config.json").write_text(config)
    save_file(renamed, tmp_path / "vae/diffusion_pytorch_model.safetensors")
    equal(load_vae_encoder(tmp_path)[1], params)  # of the model's directory, too

    unet, folder = saved["two"]
    _, params = load_unet(folder)
    unet.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    equal(load_unet(tmp_path / "shards")[1], params)
    for name, half in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        cast = diffusers.UNet2DConditionModel.from_pretrained(folder).to(half)
        variant = {"variant": "fp16"} if name == "fp16" else {}
        cast.save_pretrained(tmp_path / name, **variant)
        _, up = load_unet(tmp_path / name)
        kernel = up["conv_in"]["kernel"]
        assert kernel.dtype == np.float32
        wanted = torch.tensor(np.asarray(params["conv_in"]["kernel"])).to(half).float().numpy()
        np.testing.assert_array_equal(kernel, wanted)
    sharded = json.loads((tmp_path / "shards/config.json").read_text())
    assert sharded["_class_name"] == "UNet2DConditionModel"


def test_the_list_of_sd_1_5_is_what_diffusers_makes():
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = diffusers.AutoencoderKL(
            down_block_types=4 * ("DownEncoderBlock2D",),
            up_block_types=4 * ("UpDecoderBlock2D",),
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    made = {f"unet/{name}": tuple(t.shape) for name, t in unet.state_dict().items()}
    encoder = ("encoder.", "quant_conv.")
    named = vae.state_dict().items()
    made |= {f"vae/{name}": tuple(t.shape) for name, t in named if name.startswith(encoder)}
    assert made == SD15
