"""The step: freezing that costs nothing, determinism, and the library's own `dann_step`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax import DannModel, dann_step, init_state, make_step
from clipjax.adapt.step import combine, partition
from clipjax.train.groups import frozen_tree
from clipjax.train.optim import make_optimizer
from clipjax.train.schedules import make_schedule

WIDTH, DEPTH, BATCH = 128, 6, 64


def body_and_head(rng=0):
    keys = jax.random.split(jax.random.key(rng), DEPTH + 1)
    body = {f"layer_{i}": jax.random.normal(keys[i], (WIDTH, WIDTH)) * 0.05 for i in range(DEPTH)}
    return {"body": body, "head": {"w": jax.random.normal(keys[-1], (WIDTH, 10))}}


def forward(body, x):
    for i in range(DEPTH):
        x = jnp.tanh(x @ body[f"layer_{i}"])
    return x


def loss(params, batch, rng, progress):
    del rng, progress
    logits = forward(params["body"], batch["x"]) @ params["head"]["w"]
    value = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return value, {}


BATCHES = {"x": jnp.ones((BATCH, WIDTH)), "y": jnp.zeros(BATCH, jnp.int32)}


def flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_frozen_is_free():
    """Compiled cost: the frozen body's forward pass and the head, clipping and norms included."""
    params = body_and_head()
    frozen = frozen_tree(params, ["body"])
    optimizer = make_optimizer(lambda _: 1e-3, freeze=["body"], weight_decay=0.1, clip_norm=1.0)
    state = init_state(params, optimizer, frozen=frozen)
    step = make_step(loss, optimizer, total_steps=10, frozen=frozen)
    whole = flops(step, state, BATCHES)

    head_optimizer = make_optimizer(lambda _: 1e-3, weight_decay=0.1, clip_norm=1.0)
    head = {"head": params["head"]}

    def head_loss(params, batch, rng, progress):
        del rng, progress
        logits = batch["x"] @ params["head"]["w"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}

    head_step = make_step(head_loss, head_optimizer, total_steps=10)
    alone = flops(head_step, init_state(head, head_optimizer), BATCHES)
    body = flops(lambda p, x: forward(p, x), params["body"], BATCHES["x"])
    assert whole - alone <= 1.05 * body

    trained = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert (WIDTH, WIDTH) not in trained and (WIDTH, 10) in trained


def test_frozen_parameters_stay_bitwise_and_others_move():
    params = body_and_head()
    frozen = frozen_tree(params, ["body"])
    optimizer = make_optimizer(lambda _: 1e-2, freeze=["body"], weight_decay=0.5, clip_norm=1.0)
    state = init_state(params, optimizer, frozen=frozen)
    step = jax.jit(make_step(loss, optimizer, total_steps=10, frozen=frozen))
    after, metrics = step(state, BATCHES)
    same = jax.tree.map(jnp.array_equal, after.params["body"], params["body"])
    assert all(jax.tree.leaves(same))
    assert not jnp.array_equal(after.params["head"]["w"], params["head"]["w"])
    assert metrics["grad_norm"] > 0


def test_multi_transform_freezes_full_trees_too():
    """Users who hand the whole gradient to the optimizer get zero updates, not decayed weights."""
    params = body_and_head()
    optimizer = make_optimizer(lambda _: 1e-2, freeze=["body"], weight_decay=0.5, clip_norm=1e-3)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert all(not jnp.any(u) for u in jax.tree.leaves(updates["body"]))
    assert jnp.any(updates["head"]["w"])


def test_partition_and_combine_are_inverse():
    params = body_and_head()
    frozen = frozen_tree(params, ["body"])
    back = combine(*partition(params, frozen))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, back, params)))


def test_step_randomness_depends_on_seed_and_step_only():
    def noisy(params, batch, rng, progress):
        noise = jax.random.normal(rng)
        return jnp.sum(params["w"]) * noise, {"noise": noise, "progress": progress}

    optimizer = optax.sgd(0.1)
    step = make_step(noisy, optimizer, total_steps=4)
    state = init_state({"w": jnp.ones(2)}, optimizer, seed=3)
    seen = []
    for _ in range(3):
        state, metrics = step(state, None)
        seen.append(float(metrics["noise"]))
    again = init_state({"w": jnp.zeros(2)}, optimizer, seed=3)._replace(step=jnp.int32(1))
    _, metrics = step(again, None)
    assert float(metrics["noise"]) == seen[1] and len(set(seen)) == 3
    assert float(metrics["progress"]) == 0.25


def two_layer_model():
    def features(params, inputs, rng):
        del rng
        return jnp.tanh(inputs @ params["body"])

    return DannModel(features, lambda p, f: f @ p["head"], lambda p, f: f @ p["domain"])


def dann_setup():
    rng = np.random.default_rng(0)
    shapes = {"body": (5, 4), "head": (4, 3), "domain": (4, 2)}
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    inputs = jnp.asarray(rng.normal(size=(2, 8, 5)), jnp.float32)
    batch = {
        "source": {"inputs": inputs[0], "label": jnp.asarray(rng.integers(3, size=8))},
        "target": {"inputs": inputs[1]},
    }
    return two_layer_model(), params, batch


@pytest.mark.slow
def test_dann_step_follows_the_papers_update_rule():
    """Ganin et al. 2016, equations 13-15: theta_f descends L_y and ascends lam L_d."""
    model, params, batch = dann_setup()
    rate, lam = 0.1, 0.7

    def class_loss(p):
        logits = model.classify(p, model.features(p, batch["source"]["inputs"], None))
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["source"]["label"]
        ).mean()

    def domain_loss(p):
        losses = []
        for domain, name in enumerate(("source", "target")):
            logits = model.discriminate(p, model.features(p, batch[name]["inputs"], None))
            labels = jnp.full(8, domain)
            losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean())
        return sum(losses) / 2

    by_class, by_domain = jax.grad(class_loss)(params), jax.grad(domain_loss)(params)
    state = init_state(params, optax.sgd(rate))
    after, metrics = dann_step(model, state, batch, lam, optimizer=optax.sgd(rate))
    expected = {
        "body": params["body"] - rate * (by_class["body"] - lam * by_domain["body"]),
        "head": params["head"] - rate * by_class["head"],
        "domain": params["domain"] - rate * by_domain["domain"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(after.params[name], value, rtol=1e-5, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(
        float(class_loss(params) + domain_loss(params)), rel=1e-5
    )


@pytest.mark.slow
def test_dann_step_runs_under_jit_scan_and_vmap():
    model, params, batch = dann_setup()
    optimizer = optax.adam(1e-2)
    step = lambda state, lam: dann_step(model, state, batch, lam, optimizer=optimizer)
    state = init_state(params, optimizer)
    lams = jnp.array([0.1, 0.2])
    scanned, metrics = jax.jit(lambda s: jax.lax.scan(step, s, lams))(state)
    one_by_one = state
    for lam in lams:
        one_by_one, _ = step(one_by_one, lam)
    np.testing.assert_allclose(scanned.params["body"], one_by_one.params["body"], rtol=1e-5)
    assert metrics["lam"].tolist() == pytest.approx([0.1, 0.2])
    stacked, _ = jax.vmap(step, in_axes=(None, 0))(state, lams)
    assert stacked.params["body"].shape == (2, 5, 4)


def test_schedules_equal_their_definitions():
    cosine = make_schedule("cosine", 1.0, 100, warmup=0.1)
    assert float(cosine(0)) == 0.0 and float(cosine(10)) == pytest.approx(1.0)
    assert float(cosine(55)) == pytest.approx(0.5) and float(cosine(100)) == pytest.approx(0.0)
    stairs = make_schedule("step", 1.0, 9, step_every=1 / 3, gamma=0.1)
    assert [round(float(stairs(s)), 6) for s in (0, 2, 3, 5, 6)] == [1, 1, 0.1, 0.1, 0.01]
