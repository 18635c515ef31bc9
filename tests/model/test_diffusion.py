"""Stable Diffusion as a backbone: names and shapes, VPD, Domino on prompts, what is refused."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.clip import TextTower
from clipjax.model.decoders import DECODERS
from clipjax.model.diffusion.blocks import Attention
from clipjax.model.diffusion.memory import check_memory, step_bytes
from clipjax.model.diffusion.unet import UNet, UNetConfig
from clipjax.model.diffusion.vae import VAEConfig, VAEEncoder
from clipjax.model.diffusion.vpd import VPD, TextAdapter, VPDConfig, class_states, gathered
from clipjax.model.hf.diffusion import (
    diffusion_path,
    diffusion_tensor,
    load_diffusion,
    load_text_encoder,
    load_unet,
    load_vae_encoder,
)
from clipjax.model.hf.load import save_clip
from clipjax.model.hf.params import flat
from tests.conftest import random_params, random_tokens, small_config

# name -> shape of SD 1.5's UNet, VAE encoder and quant_conv, as of diffusers 0.42.1.
_LINES = pathlib.Path(__file__).with_name("sd15_tensors.txt").read_text().splitlines()
SD15 = {line.split()[0]: tuple(map(int, line.split()[1:])) for line in _LINES}

CONFIG = VPDConfig(
    UNetConfig((16, 32), (True, True), (2, 4), 1, 20, norm_num_groups=8),
    VAEConfig((8, 16), 1, norm_num_groups=8),
)
RNG = np.random.default_rng(0)
normal = lambda *shape: jnp.array(RNG.normal(size=shape), jnp.float32)
TEXTS, DOMAIN = normal(3, 20), normal(2, 20)
IMAGES, LATENTS = normal(2, 8, 12, 3), normal(2, 4, 6, 4)
BLOCK = "down_blocks.0.attentions.0"


def options(**changed):
    return VPD(VPDConfig(CONFIG.unet, CONFIG.vae, **changed))


@pytest.fixture(scope="module")
def params():
    """Of a VPD: every parameter moved from where it starts."""
    made = jax.eval_shape(VPD(CONFIG).init, jax.random.key(0), IMAGES, TEXTS)["params"]
    rng = np.random.default_rng(3)
    centre = lambda path: 1.0 * (path[-1].key == "scale")
    random = lambda path, leaf: jax.device_put(
        np.float32(centre(path) + 0.2 * rng.normal(size=leaf.shape))
    )
    return jax.tree_util.tree_map_with_path(random, made)


@pytest.fixture(scope="module")
def unet(params):
    """Tokens, latents, time step -> a UNet's output, compiled once."""
    run = jax.jit(UNet(CONFIG.unet).apply)
    return lambda tokens, latents=LATENTS, t=1: run({"params": params["unet"]}, latents, tokens, t)


@pytest.mark.slow
def test_names_and_shapes_are_all_of_sd_1_5():
    unet = lambda key: UNet(UNetConfig(), output=True).init(
        key, jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 2, 768))
    )
    vae = lambda key: VAEEncoder(VAEConfig()).init(key, jnp.zeros((1, 8, 8, 3)))
    for part, init, count in (("unet", unet, 686), ("vae", vae, 108)):
        made = flat(jax.eval_shape(init, jax.random.key(0))["params"])
        ours = {path: leaf.shape for path, leaf in made.items()}
        listed = {n.removeprefix(f"{part}/"): s for n, s in SD15.items() if n.startswith(part)}
        assert len(listed) == count
        empty = lambda shape: np.broadcast_to(np.float32(0), shape)
        wanted = {diffusion_path(n): diffusion_tensor(empty(s)).shape for n, s in listed.items()}
        assert len(wanted) == count
        lost = [f"- {path} {wanted[path]}" for path in wanted.keys() - ours.keys()]
        more = [f"+ {path} {ours[path]}" for path in ours.keys() - wanted.keys()]
        assert not lost + more and ours == wanted


@pytest.mark.slow
def test_maps_have_the_sizes_and_channels_of_the_table(params, unet):
    module = options(timestep=3, scale_latents=True)
    found = jax.jit(module.apply)({"params": params}, IMAGES, TEXTS)
    assert CONFIG.strides == (2, 4) and CONFIG.multiple == 4
    assert VPDConfig(UNetConfig(), VAEConfig()).strides == (8, 16, 32, 64)
    assert [x.shape for x in found] == [(2, 4, 6, 16), (2, 2, 3, 35)]
    assert tuple(x.shape[-1] for x in found) == CONFIG.widths(3)
    # Of the coarse level: the mean of its one layer on the way down and its two on the way up.
    tokens = module.apply({"params": params}, TEXTS, method="tokens")
    tokens = jnp.broadcast_to(tokens, (2, 3, 20))
    latents = jax.jit(VAEEncoder(CONFIG.vae).apply)({"params": params["vae"]}, IMAGES)
    seen = unet(tokens, 0.18215 * latents, 3)
    names = ["down_blocks.1.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]
    assert set(seen.maps) == {
        *names, BLOCK, "mid_block.attentions.0", "up_blocks.1.attentions.0",
        "up_blocks.1.attentions.1",
    }  # fmt: skip
    mean = sum(np.asarray(seen.maps[name]) for name in names) / 3
    np.testing.assert_allclose(found[0], seen.taps[0], rtol=1e-4, atol=1e-4)
    wanted = np.concatenate([seen.taps[1], mean], axis=-1)
    np.testing.assert_allclose(found[1], wanted, rtol=1e-4, atol=1e-4)
    assert list(gathered(seen.maps, 2)) == [1]
    for other in (unet(tokens, latents, 3), unet(tokens, 0.18215 * latents, 1)):
        assert float(jnp.abs(other.taps[0] - found[0]).max()) > 1e-2


def test_the_vae_gets_no_gradient(params):
    total = lambda vae: jnp.sum(
        VPD(CONFIG).apply({"params": {**params, "vae": vae}}, IMAGES, method="latents") ** 2
    )
    assert not any(
        np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(params["vae"]))
    )


def test_at_its_start_the_adapter_hardly_moves_the_texts():
    made = TextAdapter().init(jax.random.key(0), TEXTS)
    moved = TextAdapter().apply(made, TEXTS) - TEXTS
    assert 0 < float(jnp.abs(moved).max()) < 1e-3


def test_a_domain_cannot_move_the_first_attention_and_moves_its_output_alike(params, unet):
    tokens = options().apply({"params": params}, TEXTS, method="tokens")
    moved = options(prompt="add").apply({"params": params}, TEXTS, DOMAIN, method="tokens")
    np.testing.assert_allclose(moved - tokens, np.repeat(DOMAIN[:, None], 3, 1), atol=1e-6)
    before, after = unet(jnp.broadcast_to(tokens, moved.shape)), unet(moved)
    np.testing.assert_allclose(before.maps[BLOCK], after.maps[BLOCK], atol=1e-6)
    behind = [found.maps["mid_block.attentions.0"] for found in (before, after)]
    assert float(jnp.abs(behind[0] - behind[1]).max()) > 1e-4  # its queries moved
    own = params["unet"]["down_blocks_0"]["attentions_0"]["transformer_blocks_0"]["attn2"]
    places = normal(2, 24, 16)
    attend = lambda c: Attention(2, jnp.float32).apply({"params": own}, places, c)[0]
    change = attend(moved) - attend(jnp.broadcast_to(tokens, moved.shape))
    wanted = DOMAIN @ own["to_v"]["kernel"] @ own["to_out_0"]["kernel"]
    np.testing.assert_allclose(change, np.repeat(wanted[:, None], 24, 1), atol=1e-5)


def test_adding_is_subtracting_the_opposite_and_both_join_dominos_norms(params, unet):
    def prompts(prompt, *domain):
        return options(prompt=prompt).apply({"params": params}, TEXTS, *domain, method="tokens")

    added, taken = prompts("add", DOMAIN), prompts("sub", -DOMAIN)
    assert np.array_equal(added, taken)
    moved, plain = unet(added), unet(jnp.broadcast_to(prompts("none"), added.shape))
    other = unet(prompts("sub", DOMAIN))
    for one, without, less in zip(moved.taps, plain.taps, other.taps, strict=True):
        assert float(jnp.abs(one - without).max()) > 1e-3
        assert float(jnp.abs(one - less).max()) > 1e-3
    decoder = DECODERS["fpn"](classes=3, width=8)
    made = jax.jit(decoder.init)(jax.random.key(0), list(moved.taps), DOMAIN)
    assert "domain" in made["params"]  # what its norms are modulated by
    run = jax.jit(decoder.apply)
    answer = run(made, list(moved.taps), DOMAIN)
    assert answer.shape == (2, 4, 6, 3)
    # At the start the norms are plain: only the prompts move the answer.
    assert np.array_equal(answer, run(made, list(moved.taps), -DOMAIN))
    assert float(jnp.abs(answer - run(made, list(plain.taps), DOMAIN)).max()) > 1e-4


def write(folder, tree, config):
    """Files of a part as diffusers writes them, from our tree, nested or flat."""
    lists = r"(blocks|resnets|attentions|samplers|to_out|net)_(\d+)(?=/)"
    tensors = {}
    for path, leaf in flat(tree).items():
        name = re.sub(lists, r"\1.\2", path).replace("/", ".")
        name = re.sub(r"\.(kernel|scale)$", ".weight", name)
        tensor = np.asarray(leaf)
        tensor = tensor.transpose(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
        if name.endswith(("conv_shortcut.weight", "quant_conv.weight")):
            tensor = tensor[:, :, None, None]
        tensors[name] = np.ascontiguousarray(tensor)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


CROSS = ["CrossAttnDownBlock2D"] * 2
UNET = {
    "_class_name": "UNet2DConditionModel", "block_out_channels": [16, 32],
    "down_block_types": CROSS, "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    "attention_head_dim": [2, 4], "layers_per_block": 1, "cross_attention_dim": 20,
    "norm_num_groups": 8,
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "layers_per_block": 1,
    "norm_num_groups": 8, "down_block_types": ["DownEncoderBlock2D"] * 2,
}  # fmt: skip


@pytest.fixture
def folder(params, tmp_path):
    write(tmp_path / "unet", params["unet"], UNET)
    write(tmp_path / "vae", params["vae"], VAE)
    return tmp_path


def change(folder, part, **fields):
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.slow
def test_a_models_directory_is_read_and_what_does_not_fit_is_listed(folder, params):
    found = load_diffusion(folder)
    assert (found.unet, found.vae) == (CONFIG.unet, CONFIG.vae)
    for part in ("unet", "vae"):
        jax.tree.map(np.testing.assert_array_equal, found.params[part], params[part])
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["mid_block.extra.weight"] = tensors.pop("conv_in.bias")
    save_file(tensors, file)
    with pytest.raises(CheckpointError) as caught:
        load_unet(folder)
    told = str(caught.value)
    assert "1 missing -, 1 unexpected +" in told
    assert "- conv_in/bias" in told and "+ mid_block/extra/kernel" in told
    save_file({}, file)
    with pytest.raises(CheckpointError, match="missing -, 0 unexpected"):
        load_unet(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match="has no diffusion_pytorch_model.safetensors"):
        load_unet(folder)


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        ("unet", {"addition_embed_type": "text_time"}, "as of Stable Diffusion XL; clipjax reads"),
        ("unet", {"in_channels": 9}, "as of Stable Diffusion for inpainting"),
        ("unet", {"time_cond_proj_dim": 256}, "as of a latent consistency model"),
        ("unet", {"only_cross_attention": [False, True]}, "has only_cross_attention True; clipjax"),
        ("unet", {"_class_name": "FluxTransformer2DModel"}, "is a FluxTransformer2DModel model"),
        ("unet", {"up_block_types": ["UpBlock2D"] * 2}, "do not mirror down_block_types"),
        ("unet", {"down_block_types": ["AttnDownBlock2D"] * 2}, "no block 'AttnDownBlock2D'"),
        ("unet", {"attention_head_dim": 3}, "a width of 16 is no multiple of heads 3"),
        ("unet", {"cross_attention_dim": 24}, r"is \(20, 16\) in clipjax's layout; the config"),
        ("vae", {"use_quant_conv": False}, "has no quant_conv, as Stable Diffusion 3's and Flux's"),
        ("vae", {"shift_factor": 0.1}, "has shift_factor 0.1"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "is a AutoencoderTiny model"),
    ],
)
def test_other_families_are_refused_by_name(folder, part, fields, words):
    change(folder, part, **fields)
    with pytest.raises(CheckpointError, match=words):
        {"unet": load_unet, "vae": load_vae_encoder}[part](folder)


def test_a_family_without_a_unet_is_refused_by_the_name_of_its_pipeline(tmp_path):
    with pytest.raises(CheckpointError, match="has no unet/config.json; it is no diffusion model"):
        load_diffusion(tmp_path)
    index = {"_class_name": "StableDiffusion3Pipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="it is a StableDiffusion3Pipeline; clipjax reads"):
        load_diffusion(tmp_path)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: maps_of_texts(p, normal(3, 16)), "texts are 16 wide, and the UNet's cross-"),
        (lambda p: options().apply({"params": p}, TEXTS, DOMAIN, method="tokens"), "reads no"),
        (lambda p: options(prompt="add").apply({"params": p}, TEXTS, method="tokens"), "needs a"),
        (lambda p: shifted(p, normal(2, 16)), "width 16 joins texts of width 20"),
        (lambda p: seen(p, 8, 10), "8 x 10 pixels do not fit: 4 must divide .* to 8 x 12 say"),
        (lambda p: options(prompt="times"), "known: none, add, sub"),
        (lambda p: options(timestep=1000), "timestep 1000 is none of 0 to 999"),
        (lambda p: VPDConfig(CONFIG.unet, VAEConfig(latent_channels=16)), "and the UNet reads 4"),
    ],
)
def test_what_cannot_run_is_refused(params, call, words):
    with pytest.raises(ValueError, match=words):
        call(params)


def maps_of_texts(params, texts):
    return VPD(CONFIG).apply({"params": params}, LATENTS, texts, method="maps")


def shifted(params, domain):
    return options(prompt="add").apply({"params": params}, TEXTS, domain, method="tokens")


def seen(params, *size):
    return VPD(CONFIG).apply({"params": params}, jnp.zeros((1, *size, 3)), method="latents")


def test_the_text_encoder_of_a_model_gives_states_without_projection(tmp_path):
    config = small_config()
    whole = random_params(config)
    save_clip(tmp_path / "text_encoder", config, whole)
    file = tmp_path / "text_encoder/model.safetensors"
    text = {k: v for k, v in load_file(file).items() if k.startswith("text_model.")}
    save_file(text, file)
    data = json.loads((tmp_path / "text_encoder/config.json").read_text())
    alone = data["text_config"] | {"model_type": "clip_text_model"}
    (tmp_path / "text_encoder/config.json").write_text(json.dumps(alone))
    found, params = load_text_encoder(tmp_path)
    assert found == config.text
    jax.tree.map(np.testing.assert_array_equal, params, whole["text"])
    save_file({name.removeprefix("text_model."): x for name, x in text.items()}, file)
    _, newer = load_text_encoder(tmp_path)  # as transformers 5 writes it
    jax.tree.map(np.testing.assert_array_equal, newer, params)
    ids = random_tokens(config, 4)
    encode = jax.jit(lambda ids: TextTower(found).apply({"params": params}, ids))
    texts = class_states(encode, lambda texts: ids, ["cat", "dog"], ["{}", "a {}"])
    pooled = np.asarray(encode(ids)).reshape(2, 2, -1)
    np.testing.assert_allclose(texts, pooled.mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_memory_of_a_step_is_planned_before_it(params):
    plan = lambda **how: step_bytes(CONFIG, 1, (8, 12), 3, width=8, **how)
    frozen, free = plan(free=False, remat="blocks"), plan(free=True)
    size = lambda tree: 4 * sum(leaf.size for leaf in jax.tree.leaves(tree))
    head = frozen.parameters - size(params)
    assert frozen.parameters == free.parameters and head > 0  # the decoder
    assert frozen.trained == 3 * (size(params["adapter"]) + head)
    assert free.trained == 3 * (size({k: params[k] for k in ("adapter", "unet")}) + head)
    assert 0 < frozen.activations < 0.5 * free.activations
    assert check_memory(free, free.total, "cpu:0") == ""
    assert "may run out of memory" in check_memory(free, int(free.total / 1.39), "cpu:0")
    with pytest.raises(ConfigError, match="a step needs about .* and cpu:0 has"):
        check_memory(free, int(free.total / 1.41), "cpu:0")
    with pytest.raises(ConfigError, match="; take smaller batches"):
        how = {"free": False, "dtype": jnp.bfloat16, "remat": "blocks"}
        check_memory(free, free.total - 1, "cpu:0", **how)
