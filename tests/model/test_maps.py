"""Dense maps of CLIP against transformers' PyTorch, and zero-shot segmentation by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.model.clip import VisionTower
from clipjax.model.hf.load import load_clip
from clipjax.model.maps import DenseTower, place_logits, smooth_by_keys, without_absent
from tests.conftest import random_params, small_config

CONFIG = small_config()
PARAMS = random_params(CONFIG)["vision"]


def pixels(*size):
    return np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)


def run(images, **how):
    return DenseTower(CONFIG.vision).apply({"params": PARAMS}, images, **how)


def test_its_states_are_those_of_the_tower():
    images = pixels(32, 32)
    _, hidden = VisionTower(CONFIG.vision).apply({"params": PARAMS}, images, all_hidden=True)
    maps, last, keys = run(images, levels=(1, 2))
    assert keys is None and last.shape == (2, 4, 4, 32)
    for ours, wanted in zip(maps, hidden[1:], strict=True):
        np.testing.assert_allclose(ours.reshape(2, 16, 32), wanted[:, 1:], atol=1e-6)


def test_every_state_and_the_value_path_are_those_of_transformers_at_any_size(tmp_path):
    torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
    transformers = pytest.importorskip("transformers")
    from clipjax.model.hf.load import save_clip

    whole = random_params(CONFIG)
    save_clip(tmp_path, CONFIG, whole)
    model = transformers.CLIPModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tower = model.vision_model
    config, params = load_clip(tmp_path)
    for size in ((32, 32), (40, 24), (16, 8)):  # its own; larger, smaller, not square
        images = pixels(*size)
        with torch.no_grad():
            states = tower(
                torch.tensor(images.transpose(0, 3, 1, 2)),
                interpolate_pos_encoding=True,
                output_hidden_states=True,
            ).hidden_states
            block = tower.encoder.layers[-1]
            normed = block.layer_norm1(states[-2])
            keys = block.self_attn.k_proj(normed)
            value = states[-2] + block.self_attn.out_proj(block.self_attn.v_proj(normed))
            value = value + block.mlp(block.layer_norm2(value))
            wanted = [states[1], states[2], tower.post_layernorm(states[-1])]
            wanted += [value, tower.post_layernorm(value), keys]
        apply = jax.jit(DenseTower(config.vision).apply, static_argnames=("levels", "last"))
        tree = {"params": params["vision"]}
        maps, last, _ = apply(tree, images, levels=(1, 2))
        (of_value,), last_value, ours_keys = apply(tree, images, levels=(2,), last="value")
        for ours, theirs in zip(
            (*maps, last, of_value, last_value, ours_keys), wanted, strict=True
        ):
            theirs = theirs[:, 1:].numpy().reshape(2, size[0] // 8, size[1] // 8, 32)
            assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_smoothing_and_denoising_are_what_loops_compute():
    rng = np.random.default_rng(1)
    logits, keys = rng.normal(size=(2, 2, 3, 4)) * 3, rng.normal(size=(2, 2, 3, 5))
    flat = logits.reshape(2, 6, 4)
    chance = np.exp(flat) / np.exp(flat).sum(-1, keepdims=True)
    unit = keys.reshape(2, 6, 5) / np.linalg.norm(keys.reshape(2, 6, 5), axis=-1, keepdims=True)
    wanted = np.zeros((2, 6, 4))
    for image in range(2):
        for here in range(6):
            for there in range(6):
                weight = unit[image, here] @ unit[image, there]
                wanted[image, here] += weight * chance[image, there]
    seen = smooth_by_keys(jnp.array(logits), jnp.array(keys))
    np.testing.assert_allclose(seen.reshape(2, 6, 4), wanted, atol=1e-5)
    kept = np.asarray(without_absent(jnp.array(logits), 0.9))
    for image in range(2):
        for name in range(4):
            absent = chance[image, :, name].max() < 0.9
            assert np.all(
                kept[image, ..., name] == (-100 if absent else np.float32(logits[image, ..., name]))
            )
    assert 0 < (kept == -100).mean() < 1


def test_a_map_of_the_class_texts_names_every_place():
    weights = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0][:3]
    truth = np.array([[[0, 1], [2, 0]]])
    logits = place_logits(jnp.array(7 * weights[truth]), jnp.array(weights), 50.0)
    assert np.array_equal(logits.argmax(-1), truth)
    np.testing.assert_allclose(logits.max(-1), 50.0, rtol=1e-5)


def test_gradients_are_finite_and_memory_policies_change_none():
    def total(params, remat):
        tower = DenseTower(CONFIG.vision, remat=remat)
        return (tower.apply({"params": params}, pixels(16, 24), levels=(2,))[0][0] ** 2).sum()

    grad = jax.jit(jax.grad(total), static_argnums=1)
    slopes = [grad(PARAMS, remat) for remat in ("none", "blocks")]
    plain, spared = (np.concatenate([*map(np.ravel, jax.tree.leaves(one))]) for one in slopes)
    np.testing.assert_allclose(plain, spared, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize(
    ("size", "how", "words"),
    [
        ((30, 32), {}, "height and width in multiples of 8 pixels"),
        ((32, 32), {"levels": (3,)}, "level 3 is none of 1 to 2 blocks"),
        ((32, 32), {"last": "query"}, "last='query' is unknown; known: state, value"),
    ],
)
def test_what_does_not_fit_is_refused(size, how, words):
    with pytest.raises(ValueError, match=words):
        run(pixels(*size), **how)
