"""Towers with learned prompts against transformers' PyTorch modules, driven by hooks."""

import functools

import jax
import numpy as np
import pytest

from clipjax.model.clip import CLIP
from clipjax.model.hf.load import save_clip
from clipjax.model.transformer import check_depth, replace_tokens
from tests.conftest import random_params, random_tokens, small_config

CONFIG = small_config(vision={"num_hidden_layers": 4}, text={"num_hidden_layers": 4})
DEPTH, TOKENS = 3, 2


def tensors(width, seed):
    """Shallow tokens [n, D] and deep ones [J - 1, n, D]."""
    found = 0.3 * np.random.default_rng(seed).normal(size=(DEPTH, TOKENS, width))
    return found[0].astype(np.float32), found[1:].astype(np.float32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A random model in our tree, and as transformers opened it."""
    torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
    transformers = pytest.importorskip("transformers")
    folder, params = tmp_path_factory.mktemp("pair"), random_params(CONFIG)
    save_clip(folder, CONFIG, params)
    return params, transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()


def run_torch(tower, inputs, place, deep, module, change):
    """The tower's pooled output; `change` alters a module's output, `deep` the blocks' inputs."""
    import torch

    def replaced(_, args, kwargs, tokens):
        hidden, *rest = args or (kwargs.pop("hidden_states"),)
        hidden = hidden.clone()
        hidden[:, place : place + TOKENS] = torch.tensor(tokens)
        return (hidden, *rest), kwargs

    hooks = [module.register_forward_hook(change)]
    for layer, tokens in zip(tower.encoder.layers[1:], deep, strict=False):
        hook = functools.partial(replaced, tokens=tokens)
        hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    with torch.inference_mode():
        out = tower(torch.tensor(inputs)).pooler_output.numpy()
    for hook in hooks:
        hook.remove()
    return out


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_a_text_tower_with_context_and_deep_tokens_is_transformers(pair):
    import torch

    params, model = pair
    ids = random_tokens(CONFIG, 3)
    shallow, deep = tensors(CONFIG.text.hidden_size, 1)
    words = np.array(params["text"]["token_embedding"])[ids]
    words[:, 1 : 1 + TOKENS] = shallow
    embed = model.text_model.embeddings.token_embedding
    change = lambda *_: torch.tensor(words)
    theirs = run_torch(model.text_model, ids.astype(np.int64), 1, deep, embed, change)
    tower = lambda m, ids, words: m.text(ids, words, deep=deep)
    run = jax.jit(functools.partial(CLIP(CONFIG).apply, method=tower))
    close(run({"params": params}, ids, words), theirs)


def test_an_image_tower_with_prompts_and_deep_tokens_is_transformers(pair):
    import torch

    params, model = pair
    shape = (3, *[CONFIG.vision.image_size] * 2, 3)
    images = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    shallow, deep = tensors(CONFIG.vision.hidden_size, 2)
    more = torch.tensor(shallow).expand(3, -1, -1)
    change = lambda module, args, out: torch.cat([out, more], dim=1)
    place, pixels = CONFIG.vision.num_patches + 1, images.transpose(0, 3, 1, 2)
    tower = model.vision_model
    theirs = run_torch(tower, pixels, place, deep, tower.embeddings, change)
    ours = lambda m, x: m.vision(x, prompts=shallow, deep=deep)
    run = jax.jit(functools.partial(CLIP(CONFIG).apply, method=ours))
    close(run({"params": params}, images), theirs)


def test_deep_tokens_are_of_as_many_blocks_as_there_are():
    check_depth(np.zeros((3, 2, 8)), 4)
    with pytest.raises(ValueError, match="depth 5 in a tower of 4 blocks; give a depth of at most"):
        check_depth(np.zeros((4, 2, 8)), 4)
    x = np.arange(10.0).reshape(1, 5, 2)
    found = replace_tokens(x, np.zeros((2, 2)), 1)
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 0, 6, 8])
