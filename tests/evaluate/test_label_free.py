"""Label-free scores against loops over examples, scikit-learn and SciPy, and their properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score

from clipjax.evaluate import scores

RNG = np.random.default_rng(11)
LOGITS = (2 * RNG.normal(size=(30, 5)) + [2, 0, 0, 0, -2]).astype(np.float32)
SOURCE = (2 * RNG.normal(size=(24, 5))).astype(np.float32)
LABELS = np.where(RNG.random(24) < 0.6, SOURCE.argmax(1), RNG.integers(5, size=24))
P = softmax(LOGITS.astype(np.float64), axis=1)
WEIGHTS = RNG.normal(size=(6, 5)).astype(np.float32)
SURE_AND_VARIED = 30.0 * np.eye(5, dtype=np.float32)[np.arange(30) % 5]
ONE_CLASS = 30.0 * np.eye(5, dtype=np.float32)[np.zeros(30, int)]
UNSURE = np.zeros((30, 5), np.float32)
# Compiled, as runs have them.
mano, nuclear_norm, effective_classes = ALONE = tuple(
    map(jax.jit, (scores.mano, scores.nuclear_norm, scores.effective_classes))
)
atc, doc = ESTIMATES = tuple(
    map(jax.jit, (scores.thresholded_confidence, scores.confidence_difference))
)


def linear(x):
    return x @ WEIGHTS


def test_ensemble_agreement_is_accuracy_with_the_ensembles_answers_as_labels():
    members = softmax(RNG.normal(size=(4, 30, 5)), axis=-1).astype(np.float32)
    votes = np.array([1.0, 0.0, 2.0, 0.5])
    for weights in (None, votes):
        factor = np.ones(4) if weights is None else weights
        together = [
            np.argmax(sum(w * m[i] for w, m in zip(factor, members, strict=True)))
            for i in range(30)
        ]
        expected = [accuracy_score(together, m.argmax(1)) for m in members]
        ours = scores.ensemble_agreement(jnp.asarray(members), weights)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_the_ensembles_odd_one_out_scores_lowest_and_no_vote_changes_nothing():
    right = softmax(SURE_AND_VARIED, axis=1)
    wrong = softmax(np.roll(SURE_AND_VARIED, 1, axis=1), axis=1)
    stack = jnp.stack([right, right, wrong])
    assert scores.ensemble_agreement(stack).tolist() == [1.0, 1.0, 0.0]
    stack = jnp.stack([wrong, right, wrong])
    assert scores.ensemble_agreement(stack, [0.0, 1.0, 0.0]).tolist() == [0.0, 1.0, 0.0]


def mixed_by_hand(inputs, order, share, rounds):
    """Shares of kept answers of pairs of one class, and of two, one pair after the other."""
    n, kinds = len(inputs), {True: [], False: []}
    answers = [int(np.argmax(x @ WEIGHTS)) for x in inputs]
    for place in range(n):
        for shift in range(1, rounds + 1):
            i, j = order[place], order[(place + shift) % n]
            kept = np.argmax((share * inputs[i] + (1 - share) * inputs[j]) @ WEIGHTS) == answers[i]
            kinds[answers[i] == answers[j]].append(bool(kept))
    return [np.mean(kinds[same]) if kinds[same] else 0.0 for same in (True, False)]


@pytest.mark.parametrize("share, rounds", [(0.55, 3), (0.8, 8), (0.55, 100)])
def test_mixed_consistency_equals_a_loop_over_pairs(share, rounds):
    inputs = RNG.normal(size=(17, 6)).astype(np.float32)
    order = RNG.permutation(17)
    ours = scores.mixed_consistency(linear, jnp.asarray(inputs), order, share=share, rounds=rounds)
    np.testing.assert_allclose(
        ours, mixed_by_hand(inputs, order, share, min(rounds, 16)), rtol=1e-6
    )


def test_mixed_consistency_knows_margins_and_collapse():
    """All pairs: the order does not matter; more of an example keeps more of its answers."""
    inputs = jnp.asarray(RNG.normal(size=(20, 6)), jnp.float32)
    score = lambda order, x=inputs, **options: scores.mixed_consistency(
        linear, x, order, rounds=19, **options
    )
    first, second = score(np.arange(20)), score(RNG.permutation(20))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    shuffled = inputs[RNG.permutation(20)]
    np.testing.assert_allclose(first, score(np.arange(20), shuffled), rtol=1e-6)
    assert first[0] == 1  # a linear classifier's regions are convex
    assert score(np.arange(20), share=0.9)[1] > first[1]
    collapsed = scores.mixed_consistency(lambda x: x * 0 + jnp.eye(6)[0], inputs, np.arange(20))
    assert collapsed.tolist() == [1.0, 0.0]
    assert np.isnan(scores.mixed_consistency(linear, inputs[:1], [0])).all()


def mano_by_hand(logits, power=4):
    n, k = logits.shape
    spread = -np.mean(log_softmax(logits, axis=1))
    total = 0.0
    for z in logits:
        q = softmax(z) if spread > 5 else 1 + z + z**2 / 2
        total += np.sum((np.abs(q) / np.sum(np.abs(q))) ** power)
    return (total / (n * k)) ** (1 / power)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_mano_equals_the_papers_two_branches(scale):
    logits = scale * LOGITS.astype(np.float64)
    assert (-np.mean(log_softmax(logits, axis=1)) > 5) == (scale == 20.0)
    ours = mano(jnp.asarray(logits, jnp.float32))
    assert float(ours) == pytest.approx(mano_by_hand(logits), rel=1e-4)


def test_nuclear_norm_and_effective_classes_equal_numpy_and_scipy():
    expected = np.linalg.norm(P, ord="nuc") / len(P)
    assert float(nuclear_norm(jnp.asarray(LOGITS))) == pytest.approx(expected, rel=1e-5)
    expected = np.exp(entropy(P.mean(axis=0)))
    assert float(effective_classes(jnp.asarray(LOGITS))) == pytest.approx(expected, rel=1e-5)


def test_prior_distance_and_agreement_by_hand():
    other = np.roll(LOGITS, 1, axis=1)
    prior = softmax(other.astype(np.float64), axis=1).mean(axis=0)
    expected = np.abs(P.mean(axis=0) - prior).sum() / 2
    assert float(scores.prior_distance(LOGITS, other)) == pytest.approx(expected, rel=1e-5)
    assert float(scores.prior_distance(LOGITS, LOGITS)) == 0
    expected = accuracy_score(LOGITS.argmax(1), other.argmax(1))
    assert float(scores.agreement(LOGITS, other)) == pytest.approx(expected)


def test_thresholded_confidence_equals_a_search_for_the_threshold():
    """Garg et al. 2022: as many source examples lie below the threshold as are wrong."""
    certainty = lambda logits: -entropy(softmax(logits.astype(np.float64), axis=1), axis=1)
    source, target = certainty(SOURCE), certainty(LOGITS)
    wrong = np.sum(SOURCE.argmax(1) != LABELS)
    threshold = next(t for t in sorted(source) if np.sum(source < t) == wrong)
    ours = atc(SOURCE, jnp.asarray(LABELS), LOGITS)
    assert float(ours) == pytest.approx(np.mean(target >= threshold))
    # The source itself as the target gives its own accuracy.
    ours = atc(SOURCE, jnp.asarray(LABELS), SOURCE)
    assert float(ours) == pytest.approx(accuracy_score(LABELS, SOURCE.argmax(1)))


def test_confidence_difference_by_hand():
    before, after = (softmax(x.astype(np.float64), axis=1).max(1).mean() for x in (SOURCE, LOGITS))
    expected = accuracy_score(LABELS, SOURCE.argmax(1)) - (before - after)
    ours = doc(SOURCE, jnp.asarray(LABELS), LOGITS)
    assert float(ours) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_estimates_stay_accuracies(estimate):
    right, wrong = SURE_AND_VARIED.argmax(1), (SURE_AND_VARIED.argmax(1) + 1) % 5
    assert float(estimate(SURE_AND_VARIED, jnp.asarray(right), SURE_AND_VARIED)) == 1
    for target in (SURE_AND_VARIED, UNSURE):
        assert float(estimate(SURE_AND_VARIED, jnp.asarray(wrong), target)) == 0


@pytest.mark.parametrize("score", ALONE)
def test_scores_rank_collapse_below_sure_and_varied_answers(score):
    assert (
        float(score(SURE_AND_VARIED))
        > float(score(UNSURE)) * (score is not effective_classes) + 0.1
    )
    if score is not mano:  # which knows no diversity
        assert float(score(SURE_AND_VARIED)) > float(score(ONE_CLASS)) + 0.1
    else:
        assert float(score(SURE_AND_VARIED)) == pytest.approx(float(score(ONE_CLASS)))
    assert float(effective_classes(ONE_CLASS)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("score", ALONE)
def test_scores_know_no_order_of_examples_or_classes(score):
    rows, columns = RNG.permutation(30), RNG.permutation(5)
    for changed in (LOGITS[rows], LOGITS[:, columns]):
        assert float(score(changed)) == pytest.approx(float(score(LOGITS)), rel=1e-5)
    twice = float(score(np.concatenate([LOGITS, LOGITS])))
    factor = 2**-0.5 if score is nuclear_norm else 1  # sigma grows with the root of N
    assert twice == pytest.approx(factor * float(score(LOGITS)), rel=1e-5)


def test_estimates_know_no_order_and_count_duplicates_once():
    rows = RNG.permutation(24)
    for estimate in ESTIMATES:
        value = float(estimate(SOURCE, jnp.asarray(LABELS), LOGITS))
        shuffled = float(estimate(SOURCE[rows], jnp.asarray(LABELS[rows]), LOGITS[::-1]))
        assert shuffled == pytest.approx(value, rel=1e-5)
        both = np.concatenate([SOURCE, SOURCE]), np.concatenate([LABELS, LABELS])
        twice = float(estimate(both[0], jnp.asarray(both[1]), np.concatenate([LOGITS, LOGITS])))
        assert twice == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("score", ALONE)
def test_scores_know_excluded_classes_and_half_precision(score):
    excluded = LOGITS.copy()
    excluded[:, 4] = -np.inf
    assert np.isfinite(float(score(excluded)))
    if score is not mano:  # a mean over classes
        assert float(score(excluded)) == pytest.approx(float(score(excluded[:, :4])), rel=1e-5)
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    assert score(half).dtype == jnp.float32
    assert float(score(half)) == pytest.approx(float(score(half.astype(jnp.float32))), rel=1e-6)
