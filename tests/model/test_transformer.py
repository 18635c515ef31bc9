"""What the last block leaves out: every token but the pooled one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.model.clip import CLIP
from tests.conftest import random_params, random_tokens, small_config

CONFIG = small_config()
INPUTS = {
    "vision": np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32),
    "text": random_tokens(CONFIG, 3),
}


def pooled_of(tower, every, **options):
    """params -> the pooled state; with `every`, from the last states of all tokens."""

    def run(params):
        method = lambda m, x: getattr(m, tower)(x, all_hidden=every)
        out = CLIP(CONFIG, **options).apply({"params": params}, INPUTS[tower], method=method)
        return out[0] if every else out

    return run


@pytest.mark.slow
@pytest.mark.parametrize("tower", INPUTS)
def test_one_token_is_as_all_tokens_have_it(tower):
    def run(every):
        pooled = pooled_of(tower, every)
        loss = lambda p: (jnp.sin(3 * pooled(p)).sum(), pooled(p))
        (_, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {"out": out, **gradient[tower]}

    params = random_params(CONFIG)
    one, all_ = map(run, (False, True))
    # (The gradient of a key's bias is zero: it adds the same to all scores of a query.)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(all_), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize("tower", INPUTS)
def test_the_last_block_spares_queries_and_mlp_of_other_tokens(tower):
    params = random_params(CONFIG)
    one, all_ = (
        jax.jit(pooled_of(tower, every)).lower(params).compile().cost_analysis()["flops"]
        for every in (False, True)
    )
    # Of a block's eight parts (its MLP is twice as wide as it) six, of two blocks; beside them are
    # the pixels' projection, norms and softmax.
    assert one < 0.75 * all_
