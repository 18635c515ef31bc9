"""The towers against transformers' PyTorch CLIP on random weights."""

import copy
import functools
import io
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import load_clip, save_clip
from clipjax.adapt.contrastive import info_nce
from clipjax.data.images.preprocess import load_preprocess, save_preprocess
from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIP, CLIPConfig, TextConfig, VisionConfig, normalize
from tests.conftest import TINY, random_params, random_tokens, small_config

torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
transformers = pytest.importorskip("transformers")

B32 = CLIPConfig(
    VisionConfig(768, 3072, 12, 12, image_size=224, patch_size=32),
    TextConfig(512, 2048, 12, 8),
    projection_dim=512,
)
# Two layers a tower of L/14's twenty-four and twelve: its widths, heads, patches and lengths. That
# many layers of one size may follow each other is seen with all twelve of B/32.
L14 = CLIPConfig(
    VisionConfig(1024, 4096, 2, 16, image_size=224, patch_size=14),
    TextConfig(768, 3072, 2, 12),
    projection_dim=768,
)
SHAPES = {
    "quick_gelu": small_config(),
    "gelu": small_config(vision={"hidden_act": "gelu"}, text={"hidden_act": "gelu"}),
    "gelu_new": small_config(vision={"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "old pooling": small_config(text={"eos_token_id": 2, "pad_token_id": 1}),
    "patch 16": small_config(vision={"patch_size": 16, "image_size": 48}, projection=20),
}


def random_batch(config, n=3):
    images = np.random.default_rng(5).normal(size=(n, *[config.vision.image_size] * 2, 3))
    ids = random_tokens(config, n)
    if config.text.eos_token_id == 2:  # the old rule pools the largest id
        ids = np.where(ids == 2, config.text.vocab_size - 1, ids)
    return images.astype(np.float32), ids


class Pair(NamedTuple):
    """A random model in our tree, where it was saved, and as transformers opened it."""

    directory: pathlib.Path
    params: dict
    model: torch.nn.Module


def make_pair(directory, config):
    params = random_params(config)
    save_clip(directory, config, params)
    model = transformers.CLIPModel.from_pretrained(directory, dtype=torch.float32)
    return Pair(directory, params, model.eval())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """name in SHAPES -> its Pair, made once and shared: whoever changes one takes a copy."""
    return functools.cache(lambda name: make_pair(tmp_path_factory.mktemp("pair"), SHAPES[name]))


def close(ours, theirs, tolerance=1e-5):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_every_hidden_state_embedding_and_logit(pair, name):
    check_parity(SHAPES[name], *pair(name)[1:])


@pytest.mark.slow
@pytest.mark.parametrize("config", [B32, L14], ids=["ViT-B/32", "ViT-L/14's sizes"])
def test_the_full_sizes(tmp_path, config):
    check_parity(config, *make_pair(tmp_path, config)[1:], n=1)


def every_output(config):
    """(params, images, ids) -> all that a CLIP computes, in one program: its parts are shared."""

    @jax.jit
    def run(params, images, ids):
        apply = functools.partial(CLIP(config).apply, {"params": params})
        return {
            "vision": apply(images, method=lambda m, x: m.vision(x, all_hidden=True)),
            "text": apply(ids, method=lambda m, x: m.text(x, all_hidden=True)),
            "image_embeds": normalize(apply(images, method="encode_image")),
            "text_embeds": normalize(apply(ids, method="encode_text")),
            "logits_per_image": apply(images, ids),
        }

    return run


@torch.inference_mode()
def check_parity(config, params, model, n=3):
    images, ids = random_batch(config, n)
    pixels, tokens = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(ids).long()
    towers = {"vision": model.vision_model, "text": model.text_model}
    found = {}  # of the model's one pass, before it puts projections in the place of what is pooled
    hooks = [
        tower.register_forward_hook(
            lambda module, inputs, out, name=name: found.update(
                {name: (out.pooler_output, out.hidden_states)}
            )
        )
        for name, tower in towers.items()
    ]
    out = model(input_ids=tokens, pixel_values=pixels, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    ours = every_output(config)(params, images, ids)
    for name, (theirs_pooled, theirs_hidden) in found.items():
        pooled, hidden = ours[name]
        for mine, reference in zip(hidden, theirs_hidden, strict=True):
            close(mine, reference)
        close(pooled, theirs_pooled)
    assert set(found) == {"vision", "text"}
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        close(ours[name], out[name])


@pytest.mark.slow
def test_bfloat16_agrees_within_its_rounding(pair):
    """Against the same model in float32: no further off than PyTorch's own bfloat16 is."""
    config = SHAPES["quick_gelu"]
    _, params, model = pair("quick_gelu")
    images, _ = random_batch(config, n=16)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))

    def features(model, dtype):
        out = model.get_image_features(pixel_values=pixels.to(dtype))
        return getattr(out, "pooler_output", out).detach().float().numpy()

    exact = features(model, torch.float32)
    half = copy.deepcopy(model).to(torch.bfloat16)
    theirs = np.abs(features(half, torch.bfloat16) - exact)
    encode = jax.jit(functools.partial(CLIP(config, jnp.bfloat16).apply, method="encode_image"))
    ours = np.abs(encode({"params": params}, images) - exact)
    assert ours.mean() <= 1.2 * theirs.mean()
    assert ours.max() <= 2**-8 * 8 * np.abs(exact).max()


@pytest.mark.slow
def test_one_tower_exports_of_transformers(tmp_path, pair):
    config = SHAPES["gelu"]
    whole, params, _ = pair("gelu")
    images, ids = random_batch(config)
    for kind, method, inputs in (
        (transformers.CLIPVisionModelWithProjection, "encode_image", images),
        (transformers.CLIPTextModelWithProjection, "encode_text", ids),
    ):
        part = kind.from_pretrained(whole, dtype=torch.float32).eval()
        part.save_pretrained(tmp_path / method)
        small, loaded = load_clip(tmp_path / method)
        expected = CLIP(config).apply({"params": params}, inputs, method=method)
        np.testing.assert_array_equal(
            CLIP(small).apply({"params": loaded}, inputs, method=method), expected
        )
        # And ours open there.
        save_clip(tmp_path / f"{method}-back", small, loaded)
        again = kind.from_pretrained(tmp_path / f"{method}-back", dtype=torch.float32)
        for name, tensor in part.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("size", [24, 48, 64])
def test_other_image_sizes_interpolate_as_transformers_does(pair, size):
    directory, _, model = pair("quick_gelu")
    images = np.random.default_rng(5).normal(size=(2, size, size, 3)).astype(np.float32)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    out = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True)
    resized, params = load_clip(directory, image_size=size)
    look = functools.partial(CLIP(resized).apply, method=lambda m, x: m.vision(x))
    close(jax.jit(look)({"params": params}, images), out.pooler_output)


@pytest.mark.slow
def test_gradients_of_the_contrastive_loss(pair):
    config = SHAPES["quick_gelu"]
    _, params, model = pair("quick_gelu")
    model.zero_grad()
    images, ids = random_batch(config, n=4)
    pixels, tokens = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(ids).long()
    out = model(input_ids=tokens, pixel_values=pixels, return_loss=True)
    out.loss.backward()

    def loss(params):
        module, variables = CLIP(config), {"params": params}
        image = normalize(module.apply(variables, images, method="encode_image"))
        text = normalize(module.apply(variables, ids, method="encode_text"))
        return info_nce(image, text, module.apply(variables, method="scale"))

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(out.loss.item(), rel=1e-5)
    theirs = dict(model.named_parameters())
    close(
        grads["vision"]["block_0"]["fc1"]["kernel"].T,
        theirs["vision_model.encoder.layers.0.mlp.fc1.weight"].grad,
        1e-4,
    )
    close(
        grads["text"]["token_embedding"],
        theirs["text_model.embeddings.token_embedding.weight"].grad,
        1e-4,
    )
    close(grads["logit_scale"], theirs["logit_scale"].grad, 1e-4)


@pytest.mark.slow
def test_the_embedded_model_loads_in_transformers_and_agrees():
    config, params = load_clip(TINY)
    model = transformers.CLIPModel.from_pretrained(TINY, dtype=torch.float32).eval()
    images, ids = random_batch(config)
    out = model(
        input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(images.transpose(0, 3, 1, 2))
    )
    close(jax.jit(CLIP(config).apply)({"params": params}, images, ids), out.logits_per_image)


def pictures():
    """(name, encoded file): odd sizes and every mode that image files come in."""
    from PIL import Image

    rng = np.random.default_rng(0)

    def encoded(picture, format="PNG", **options):
        file = io.BytesIO()
        picture.save(file, format, **options)
        return file.getvalue()

    def noise(height, width, channels=3):
        shape = (height, width) if channels == 1 else (height, width, channels)
        return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))

    for height, width in ((64, 64), (65, 97), (201, 77), (30, 41), (500, 3)):
        yield f"{height}x{width}", encoded(noise(height, width))
    yield "grey", encoded(noise(70, 90, 1))
    yield "alpha", encoded(noise(70, 90, 4))
    yield "palette", encoded(noise(70, 90).convert("P"))
    transparent = noise(70, 90).convert("P")
    yield "palette with transparency", encoded(transparent, transparency=7)
    yield "grey with alpha", encoded(noise(70, 90, 4).convert("LA"))
    yield "CMYK", encoded(noise(70, 90).convert("CMYK"), "TIFF")
    yield "bilevel", encoded(noise(70, 90).convert("1"))
    for orientation in (3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"EXIF {orientation}", encoded(noise(70, 90), exif=exif)


RULES = {
    "CLIP": dict(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
    "resize larger than crop": dict(size={"shortest_edge": 80}, crop_size=64),
    "crop larger than resize": dict(size={"shortest_edge": 50}, crop_size=65),
    "squeeze": dict(size={"height": 64, "width": 64}, do_center_crop=False),
    "plain numbers": dict(size={"shortest_edge": 64}, crop_size=64, do_normalize=False),
    "bilinear, no rescale": dict(
        size={"shortest_edge": 64}, crop_size=64, resample=2, do_rescale=False
    ),
    "crop only": dict(do_resize=False, crop_size=64),
}


@pytest.mark.parametrize("rule", RULES)
def test_preprocessing_equals_the_reference_processor(tmp_path, rule):
    from PIL import Image, ImageOps

    processor = transformers.CLIPImageProcessorPil(**RULES[rule])
    processor.save_pretrained(tmp_path)
    ours = load_preprocess(tmp_path)
    for name, file in pictures():
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        theirs = processor(picture, return_tensors="np")["pixel_values"][0]
        mine = ours.normalize(ours.crop(file, name)).transpose(2, 0, 1)
        steps = np.abs(mine - theirs) * np.array(ours.std)[:, None, None] / ours.rescale
        assert steps.max() <= 1.0 + 1e-3, name
    save_preprocess(tmp_path, ours)  # and transformers reads back what we write
    again = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(picture, return_tensors="np")["pixel_values"][0], theirs)


def test_pictures_of_several_shapes_are_refused(tmp_path):
    transformers.CLIPImageProcessorPil(do_center_crop=False).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="square"):
        load_preprocess(tmp_path)
