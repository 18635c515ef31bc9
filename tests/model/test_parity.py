"""The towers against transformers' PyTorch CLIP on random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import load_clip, save_clip
from clipjax.adapt.contrastive import info_nce
from clipjax.model.clip import CLIP, normalize
from tests.conftest import REPO, random_params, random_tokens, small_config

torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
transformers = pytest.importorskip("transformers")

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


def saved(tmp_path, config):
    params = random_params(config)
    save_clip(tmp_path, config, params)
    model = transformers.CLIPModel.from_pretrained(tmp_path, dtype=torch.float32)
    return params, model.eval()


def close(ours, theirs, tolerance=1e-5):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("name", SHAPES)
def test_every_hidden_state_embedding_and_logit(tmp_path, name):
    config = SHAPES[name]
    params, model = saved(tmp_path, config)
    images, ids = random_batch(config)
    pixels, tokens = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(ids).long()
    out = model(input_ids=tokens, pixel_values=pixels)
    vision = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    words = model.text_model(input_ids=tokens, output_hidden_states=True)
    module, variables = CLIP(config), {"params": params}

    image, hidden = module.apply(
        variables, images, method=lambda m, x: m.vision(x, all_hidden=True)
    )
    for mine, reference in zip(hidden, vision.hidden_states, strict=True):
        close(mine, reference)
    close(image, vision.pooler_output)
    text, hidden = module.apply(variables, ids, method=lambda m, x: m.text(x, all_hidden=True))
    for mine, reference in zip(hidden, words.hidden_states, strict=True):
        close(mine, reference)
    close(text, words.pooler_output)
    encoded = module.apply(variables, images, method="encode_image")
    close(normalize(encoded), out.image_embeds)
    close(normalize(module.apply(variables, ids, method="encode_text")), out.text_embeds)
    close(module.apply(variables, images, ids), out.logits_per_image)


def test_gradients_of_the_contrastive_loss(tmp_path):
    config = SHAPES["quick_gelu"]
    params, model = saved(tmp_path, config)
    images, ids = random_batch(config, n=4)
    pixels, tokens = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(ids).long()
    out = model(input_ids=tokens, pixel_values=pixels, return_loss=True)
    out.loss.backward()

    def loss(params):
        module, variables = CLIP(config), {"params": params}
        image = normalize(module.apply(variables, images, method="encode_image"))
        text = normalize(module.apply(variables, ids, method="encode_text"))
        return info_nce(image, text, module.apply(variables, method="scale"))

    value, grads = jax.value_and_grad(loss)(params)
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


def test_the_embedded_model_loads_in_transformers_and_agrees():
    directory = REPO / "clipjax" / "assets" / "tiny_clip"
    config, params = load_clip(directory)
    model = transformers.CLIPModel.from_pretrained(directory, dtype=torch.float32).eval()
    images, ids = random_batch(config)
    out = model(
        input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(images.transpose(0, 3, 1, 2))
    )
    close(CLIP(config).apply({"params": params}, images, jnp.asarray(ids)), out.logits_per_image)


def test_preprocessing_equals_the_reference_processor():
    from PIL import Image

    from clipjax.data.preprocess import Preprocess

    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    ours = Preprocess(size=64)
    rng = np.random.default_rng(0)
    for height, width in ((64, 64), (65, 97), (201, 77), (30, 41)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        mine = ours.normalize(ours.crop(pixels)).transpose(2, 0, 1)
        steps = np.abs(mine - theirs) * np.array(ours.std)[:, None, None] * 255
        assert steps.max() <= 1.0 + 1e-3, (height, width)
