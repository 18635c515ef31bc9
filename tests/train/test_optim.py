"""Layer groups, freezing rules and their errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt.step import init_state, make_step
from clipjax.train.groups import frozen_tree, layer_groups, layer_mults, name_tree, path_name
from clipjax.train.optim import Rule, clip_by_global_norm, make_optimizer
from tests.conftest import random_params, small_config


@pytest.fixture(scope="module")
def params():
    heads = {"adapter": {"w": jnp.ones((2, 2))}, "classifier": {"w": jnp.ones((2, 2))}}
    return {"clip": random_params(small_config()), **heads}


def test_groups_run_from_input_to_output(params):
    assert layer_groups(params) == (
        "clip/vision/embedding",
        "clip/vision/block_0",
        "clip/vision/block_1",
        "clip/vision/projection",
        "clip/text/embedding",
        "clip/text/block_0",
        "clip/text/block_1",
        "clip/text/projection",
        "clip/logit_scale",
        "adapter",
        "classifier",
    )


def test_block_10_comes_after_block_9():
    blocks = {f"block_{i}": {"b": jnp.zeros(1)} for i in (10, 9)}
    assert layer_groups({"clip": {"vision": blocks}})[-1] == "clip/vision/block_10"


def test_every_parameter_has_a_group(params):
    assert all(jax.tree.leaves(jax.tree.map(lambda name: bool(name.group), name_tree(params))))


def test_an_uncovered_parameter_is_named(params):
    strange = {"clip": {**params["clip"], "audio": {"w": jnp.ones(1)}}}
    with pytest.raises(ValueError, match="clip/audio/w"):
        name_tree(strange)


def test_freezing_follows_the_patterns(params):
    frozen = frozen_tree(params, [r"clip/text/.*", r"clip/vision/(embedding|block_0)"])
    assert all(jax.tree.leaves(frozen["clip"]["text"]))
    assert all(jax.tree.leaves(frozen["clip"]["vision"]["block_0"]))
    assert not any(jax.tree.leaves(frozen["clip"]["vision"]["block_1"]))
    assert not any(jax.tree.leaves(frozen["adapter"]))


def test_a_pattern_that_matches_nothing_is_refused(params):
    with pytest.raises(ValueError, match="blok.*groups: clip/vision/embedding"):
        frozen_tree(params, ["clip/vision/blok_0"])


@pytest.mark.slow
def test_single_parameters_freeze_by_their_paths(params):
    """BitFit: everything but biases is frozen, in both towers and the head."""
    freeze = [r".*/(kernel|scale|w|\w+_embedding)", "clip/logit_scale"]
    frozen = frozen_tree(params, freeze)
    flat = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(frozen)}
    assert {name for name, x in flat.items() if not x} == {n for n in flat if n.endswith("/bias")}
    optimizer = make_optimizer(lambda _: 0.1, freeze=freeze)
    state = init_state(params, optimizer, frozen=frozen)
    step = make_step(
        lambda p, *_: (sum(jnp.sum(x**2) for x in jax.tree.leaves(p)), {}),
        optimizer,
        total_steps=1,
        frozen=frozen,
    )
    after = step(state._replace(params=jax.tree.map(jnp.ones_like, params)), {})[0].params
    moved = jax.tree.map(lambda x: bool((x != 1).any()), after)
    assert jax.tree.leaves(moved) == [not x for x in jax.tree.leaves(frozen)]
    biases = sum(x.size for n, x in zip(flat, jax.tree.leaves(params), strict=True) if "bias" in n)
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments <= 2 * biases


def test_a_mask_that_trains_nothing_is_refused(params):
    with pytest.raises(ValueError, match="nothing to train"):
        frozen_tree(params, [".*"])


@pytest.mark.slow
def test_group_learning_rates_scale_the_updates(params):
    optimizer = make_optimizer(lambda _: 1.0, Rule("sgd", momentum=0.0), lr_mults={"adapter": 0.25})
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert updates["adapter"]["w"][0, 0] == pytest.approx(-0.25)
    assert updates["classifier"]["w"][0, 0] == pytest.approx(-1.0)


def test_rates_fall_with_every_layer_below_the_output():
    """Five layers, rate 1e-3, factor 0.3: embeddings, three blocks, and what has the whole rate."""
    rates = [1e-3 * factor for _, factor in layer_mults(0.3, {"vision": 3})] + [1e-3]
    np.testing.assert_allclose(rates, [8.1e-6, 2.7e-5, 9e-5, 3e-4, 1e-3])
    assert rates[-1] / rates[0] == pytest.approx(123.46, abs=0.01)
    base = dict(layer_mults(0.65, {"vision": 12, "text": 12}))  # ViT-B, as MAE's param_groups_lrd
    for tower in ("vision", "text"):
        of = lambda layer: base[f"clip/{tower}/{layer}"]  # noqa: B023
        assert of("embedding") == pytest.approx(0.003697, abs=1e-6)
        assert of("block_0") == pytest.approx(0.005688, abs=1e-6)
        assert (of("block_10"), of("block_11")) == pytest.approx((0.4225, 0.65))


def test_layer_decay_scales_updates_and_decoupled_decay(params):
    mults = (("clip/text/block_1", 2.0), *layer_mults(0.5, {"vision": 2, "text": 2}))
    optimizer = make_optimizer(lambda _: 0.1, lr_mults=mults, weight_decay=0.5)
    zeros, ones = (jax.tree.map(f, params) for f in (jnp.zeros_like, jnp.ones_like))
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(ones), ones)
    size = lambda *path: (
        -float(jax.tree.leaves(functools.reduce(dict.get, path, updates))[-1].max())
    )
    vision = [size("clip", "vision", x, "fc1", "kernel") for x in ("block_0", "block_1")]
    assert vision == pytest.approx([0.05 / 4, 0.05 / 2])
    assert size("clip", "vision", "patch_embedding") == pytest.approx(0.05 / 8)
    assert size("clip", "text", "token_embedding") == pytest.approx(0.05 / 8)
    assert size("clip", "text", "block_1", "fc1", "kernel") == pytest.approx(0.05 * 2)  # its own
    for whole in (("clip", "visual_projection"), ("clip", "text_projection"), ("classifier",)):
        assert size(*whole) == pytest.approx(0.05)


@pytest.mark.parametrize("name, momentum", [("adamw", 0.9), ("sgd", 0.0)])
def test_vectors_are_not_decayed(name, momentum):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "members": {"bias": jnp.ones((3, 2))}}
    optimizer = make_optimizer(lambda _: 1.0, Rule(name, momentum=momentum), weight_decay=0.5)
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    assert not jnp.any(updates["b"]) and not jnp.any(updates["members"]["bias"])
    assert jnp.allclose(updates["w"], -0.5)


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"rule": Rule("lion")}, "lion.*known: adamw, adam, sgd"),
        ({"rule": Rule(decay="vectors")}, "vectors.*known: matrices, all"),
        ({"lr_mults": {"a": 0.0}}, "freeze"),
    ],
)
def test_bad_optimizers_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        make_optimizer(lambda _: 1.0, **arguments)


@pytest.mark.parametrize("bound", [0.1, 1.0, 1e4])
def test_clipping_is_that_of_optax(bound):
    grads = {"a": jax.random.normal(jax.random.key(0), (5, 7)), "b": jnp.full(3, 2.0)}
    found, wanted = (
        clip.update(grads, clip.init(grads))[0]
        for clip in (clip_by_global_norm(bound), optax.clip_by_global_norm(bound))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
    norm = optax.global_norm(grads)
    assert float(optax.global_norm(found)) == pytest.approx(min(bound, float(norm)), rel=1e-6)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_clipping_hides_no_gradient_that_is_not_finite(value):
    grads, clip = {"a": jnp.array([1.0, value]), "b": jnp.ones(2)}, clip_by_global_norm(1.0)
    clipped, _ = clip.update(grads, clip.init(grads))
    assert not np.isfinite(clipped["a"][1])
