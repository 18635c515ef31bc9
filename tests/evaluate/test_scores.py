"""Calibration and label-free scores against numbers worked by hand and their papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy, norm

from clipjax.evaluate.metrics import calibration_error
from clipjax.evaluate.select import (
    information_maximization,
    negative_entropy,
    proxy_a_distance,
    soft_neighbourhood_density,
)

RNG = np.random.default_rng(7)
LOGITS = (3 * RNG.normal(size=(40, 5)) + [2, 0, 0, 0, -2]).astype(np.float32)
PROBABILITIES = softmax(LOGITS.astype(np.float64), axis=1)


def test_calibration_error_by_hand():
    """Four bins, closed above (Guo et al. 2017, section 2: I_m = ((m - 1) / M, m / M])."""
    confidence = np.array([0.5, 0.6, 0.7, 0.9, 0.8])
    right = np.array([False, True, True, True, False])
    logits = jnp.log(jnp.stack([confidence, 1 - confidence], axis=1))
    # (1/4, 1/2]: 0.5 - 0; (1/2, 3/4]: 1.3 - 2; (3/4, 1]: 1.7 - 1. Over 5 examples.
    expected = (0.5 + 0.7 + 0.7) / 5
    ours = calibration_error(logits, jnp.where(right, 0, 1), bins=4)
    assert float(ours) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_calibration_error_with_one_bin_is_confidence_minus_accuracy():
    labels = RNG.integers(5, size=len(LOGITS))
    expected = abs(PROBABILITIES.max(1).mean() - np.mean(PROBABILITIES.argmax(1) == labels))
    ours = calibration_error(jnp.asarray(LOGITS), jnp.asarray(labels), bins=1)
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_negative_entropy_equals_scipy():
    expected = -entropy(PROBABILITIES, axis=1).mean()
    assert float(negative_entropy(jnp.asarray(LOGITS))) == pytest.approx(expected, rel=1e-5)


def test_information_maximization_is_the_divergence_of_predictions_from_their_mean():
    """I(x; y) = mean over x of KL(p(y | x) || p(y)), with equal weight on every x."""
    expected = entropy(PROBABILITIES, PROBABILITIES.mean(axis=0)[None], axis=1).mean()
    assert float(information_maximization(jnp.asarray(LOGITS))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_neighbourhood_density_equals_the_papers_formulas(temperature):
    """Saito et al. 2021: similarities of normalised softmax outputs, the diagonal left out."""
    features = PROBABILITIES / np.sqrt(np.sum(PROBABILITIES**2, axis=1, keepdims=True))
    similarity = features @ features.T / temperature
    others = ~np.eye(len(features), dtype=bool)
    neighbours = softmax(similarity[others].reshape(len(features), -1), axis=1)
    ours = soft_neighbourhood_density(jnp.asarray(LOGITS), temperature)
    assert float(ours) == pytest.approx(entropy(neighbours, axis=1).mean(), rel=1e-4)


@pytest.mark.parametrize(
    "score", [negative_entropy, information_maximization, soft_neighbourhood_density]
)
def test_scores_know_excluded_classes_and_half_precision(score):
    """A logit of -inf is a class of probability 0; bfloat16 logits are summed in float32."""
    excluded = LOGITS.copy()
    excluded[:, 4] = -np.inf
    assert float(score(jnp.asarray(excluded))) == pytest.approx(
        float(score(jnp.asarray(excluded[:, :4]))), rel=1e-5
    )
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    result = score(half)
    assert result.dtype == jnp.float32
    assert float(result) == pytest.approx(float(score(half.astype(jnp.float32))), rel=1e-6)


@pytest.mark.slow
def test_scores_are_differentiable_where_predictions_are_certain():
    certain = 1000.0 * jnp.eye(4)
    for score in (negative_entropy, information_maximization):
        assert jnp.all(jnp.isfinite(jax.grad(score)(certain)))


def test_proxy_a_distance_of_gaussians_follows_the_best_linear_classifier():
    """Two unit Gaussians d apart: its accuracy is Phi(d / 2), so the distance 4 Phi(d / 2) - 2."""
    one, two = np.random.default_rng(0).normal(size=(2, 4000, 3))
    shifts = (0.0, 0.5, 1.0, 2.0, 4.0, 12.0)
    distances = [proxy_a_distance(one, two + [d, 0, 0]) for d in shifts]
    np.testing.assert_allclose(distances, [4 * norm.cdf(d / 2) - 2 for d in shifts], atol=0.1)
    assert distances[0] < 0.1 and distances[-1] == 2.0
    assert np.all(np.diff(distances) > 0)
