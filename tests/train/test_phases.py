"""What one phase hands to the next."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt.step import init_state, make_step
from clipjax.train.groups import frozen_tree, matches
from clipjax.train.optim import Rule, make_optimizer
from clipjax.train.phases import next_state, spans, training_since

PHASES = spans([3, 2, 2], [("clip/.*",), ("adapter",), ()])


def params():
    clip = {"vision": {"block_0": {"w": jnp.ones((2, 2))}}}
    return {"clip": clip, "adapter": {"w": jnp.ones((2, 2))}, "classifier": {"w": jnp.ones((2, 2))}}


def quadratic(values, batch, rng, progress):
    del rng, progress
    return sum(jnp.sum((leaf - batch) ** 2) for leaf in jax.tree.leaves(values)), {}


def phase(index, state, schedule=lambda _: 0.1, **options):
    """Runs a phase of PHASES to its end."""
    span = PHASES[index]
    since = training_since(PHASES, index)
    optimizer = make_optimizer(
        schedule, freeze=span.freeze, start=span.start, since=since, **options
    )
    frozen = frozen_tree(params(), span.freeze) if span.freeze else None
    if state is None:
        state = init_state(params(), optimizer, frozen=frozen)
    else:
        state = next_state(state, optimizer, frozen=frozen)
    step = make_step(quadratic, optimizer, total_steps=7, frozen=frozen)
    for number in range(span.steps):
        state, _ = step(state, jnp.float32(number))
    return state


def test_groups_have_the_age_of_their_last_thaw():
    assert [training_since(PHASES, k)("classifier") for k in range(3)] == [0, 0, 0]
    assert [training_since(PHASES, k)("clip/vision/block_0") for k in (1, 2)] == [3, 3]
    assert training_since(PHASES, 2)("adapter") == 5  # frozen in between


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_group_that_goes_on_training_does_not_notice_the_phases(name):
    state = None
    for index in range(3):
        state = phase(index, state, rule=Rule(name))
    optimizer = make_optimizer(lambda _: 0.1, Rule(name))
    whole = init_state({"classifier": params()["classifier"]}, optimizer)
    step = make_step(quadratic, optimizer, total_steps=7)
    for number in (0, 1, 2, 0, 1, 0, 1):
        whole, _ = step(whole, jnp.float32(number))
    np.testing.assert_allclose(
        state.params["classifier"]["w"], whole.params["classifier"]["w"], rtol=1e-6
    )


@pytest.mark.parametrize(
    "changes",
    [{"lr_mults": (("adapter", 0.1),)}, {"clip_norm": 1e6}, {"lr_mults": (("classifier", 1.0),)}],
)
def test_factors_and_clipping_may_change_between_phases(changes):
    falling = lambda count: 0.1 * (1 - count / 3)
    plain, changed = phase(1, phase(0, None)), phase(1, phase(0, None), **changes)
    np.testing.assert_array_equal(
        plain.params["classifier"]["w"], changed.params["classifier"]["w"]
    )
    # And the other way round: what the first phase had, the second need not.
    back = phase(1, phase(0, None, falling, **changes), falling)
    same = phase(1, phase(0, None, falling), falling)
    np.testing.assert_array_equal(back.params["classifier"]["w"], same.params["classifier"]["w"])


def test_another_optimizer_starts_anew():
    row = spans([3, 2], [(), ()], ["adamw", "sgd"])
    assert training_since(row, 1)("classifier") == 3


def test_a_thawed_group_starts_as_adam_starts():
    frozen = phase(0, None)
    assert jnp.all(frozen.params["clip"]["vision"]["block_0"]["w"] == 1)
    thawed = phase(1, frozen)
    # Constant gradient signs: Adam's bias-corrected step is the learning rate, from the first on.
    optimizer = optax.adam(0.1)
    w, state = jnp.ones((2, 2)), optimizer.init(jnp.ones((2, 2)))
    for number in range(2):
        updates, state = optimizer.update(2 * (w - number), state, w)
        w = w + updates
    np.testing.assert_allclose(thawed.params["clip"]["vision"]["block_0"]["w"], w, rtol=1e-5)


def test_each_phase_has_its_schedule_from_its_own_start():
    seen = []

    def schedule(count):
        jax.debug.callback(lambda c: seen.append(int(c)), count)
        return 0.1

    phase(1, phase(0, None), schedule)
    jax.effects_barrier()
    # The classifier (old) and the block (new) both count from 0 to 1 in the second phase.
    assert sorted(seen[-4:]) == [0, 0, 1, 1]


def test_ranges_of_blocks():
    assert matches("clip/vision/block_2..3", "clip/vision/block_3")
    assert not matches("clip/vision/block_2..3", "clip/vision/block_23")
    assert not matches("clip/vision/block_2..3", "clip/text/block_2")
