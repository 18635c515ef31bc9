"""Losses against optax, scikit-learn and numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss

from clipjax.adapt.contrastive import info_nce, true_pairs
from clipjax.adapt.losses import (
    diversity_hinge,
    domain_cross_entropy,
    smoothed_cross_entropy,
)

RNG = np.random.default_rng(1)
LOGITS = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(4, size=6))


def test_cross_entropy_equals_scikit_learn():
    ours = smoothed_cross_entropy(LOGITS, LABELS)
    theirs = log_loss(LABELS, jax.nn.softmax(LOGITS), labels=range(4))
    assert float(ours) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothing_equals_optax(smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 4), smoothing)
    theirs = optax.softmax_cross_entropy(LOGITS, targets).mean()
    assert float(smoothed_cross_entropy(LOGITS, LABELS, smoothing)) == pytest.approx(
        float(theirs), rel=1e-5
    )


def test_padding_changes_nothing():
    weight = jnp.array([1.5] * 4 + [0.0] * 2)
    spoiled = LOGITS.at[4:].set(1e4)
    masked = smoothed_cross_entropy(spoiled, LABELS, 0.1, weight)
    assert float(masked) == pytest.approx(
        float(smoothed_cross_entropy(LOGITS[:4], LABELS[:4], 0.1)), rel=1e-5
    )


def test_diversity_hinge_by_hand():
    outputs = jnp.array([[[0.0, 0.0]], [[2.0, 0.2]]])  # spreads 1 and 0.1
    assert float(diversity_hinge(outputs, 0.5)) == pytest.approx((0 + 0.4) / 2, abs=1e-5)
    assert float(diversity_hinge(outputs, 0.0)) == 0.0
    padded = jnp.concatenate([outputs, jnp.zeros((2, 1, 2))], axis=1)
    weight = jnp.array([2.0, 0.0])
    assert float(diversity_hinge(padded, 0.5, weight)) == pytest.approx(0.2, abs=1e-5)


@pytest.mark.slow
def test_diversity_pushes_members_apart_and_has_finite_gradients():
    gradient = jax.grad(lambda x: diversity_hinge(x, 0.5))
    assert jnp.all(jnp.isfinite(gradient(jnp.zeros((3, 2, 4)))))
    outputs = jnp.asarray(RNG.normal(size=(2, 3, 4)) * 0.1, jnp.float32)
    moved = outputs - 0.1 * gradient(outputs)
    assert diversity_hinge(moved, 0.5) < diversity_hinge(outputs, 0.5)


def test_members_are_averaged():
    members = jnp.stack([LOGITS, 2 * LOGITS])
    mean = (smoothed_cross_entropy(LOGITS, LABELS) + smoothed_cross_entropy(2 * LOGITS, LABELS)) / 2
    assert float(smoothed_cross_entropy(members, LABELS)) == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.slow
def test_domain_loss_weighs_domains_not_examples():
    small, large = jnp.array([[2.0, 0.0]]), jnp.zeros((9, 2))
    loss, accuracy = domain_cross_entropy([small, large], [None, None])
    expected = (np.log1p(np.exp(-2.0)) + np.log(2.0)) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert [float(a) for a in accuracy] == [1.0, 0.0]


def test_info_nce_of_a_2_by_2_batch_by_hand():
    image, text = jnp.eye(2), jnp.eye(2)
    expected = np.log1p(np.exp(-3.0))  # each row: -log(e^3 / (e^3 + 1))
    assert float(info_nce(image, text, 3.0)) == pytest.approx(expected, rel=1e-5)


def test_equal_texts_share_the_target_by_hand():
    image = jnp.eye(2)
    text = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    loss = info_nce(image, text, 5.0, jnp.ones((2, 2), bool))
    # Image to text: constant rows. Text to image: logits (5, 0), half of the target on each.
    image_to_text, text_to_image = np.log(2.0), 2.5 + np.log1p(np.exp(-5.0))
    assert float(loss) == pytest.approx((image_to_text + text_to_image) / 2, rel=1e-5)


def test_true_pairs_ignore_padding():
    pairs = true_pairs(jnp.array([0, 1]), jnp.array([[0, -1], [1, 0]]))
    assert pairs.tolist() == [[True, False], [True, True]]


def test_a_mask_is_not_taken_for_weights():
    logits, mask = np.eye(3, dtype=np.float32), np.array([True, True, False])
    with pytest.raises(ValueError, match="bool mask"):
        smoothed_cross_entropy(logits, np.arange(3), weight=mask)
    weights = (mask / mask.mean()).astype(np.float32)
    expected = smoothed_cross_entropy(logits[:2], np.arange(2))
    assert smoothed_cross_entropy(logits, np.arange(3), weight=weights) == pytest.approx(expected)
