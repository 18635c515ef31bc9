"""Metrics against scikit-learn; results that can be read back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

from clipjax.evaluate import results as report
from clipjax.evaluate import terminal
from clipjax.evaluate.metrics import (
    accuracy,
    calibration_error,
    disagreement,
    macro_accuracy,
    macro_f1,
    most_frequent,
    per_class_accuracy,
    top_class_share,
    worst_group,
)
from clipjax.evaluate.rows import row
from clipjax.evaluate.select import (
    information_maximization,
    negative_entropy,
    proxy_a_distance,
    soft_neighbourhood_density,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 4)).astype(np.float32)
LABELS = RNG.integers(4, size=50)


def test_accuracy_equals_scikit_learn():
    expected = accuracy_score(LABELS, LOGITS.argmax(axis=1))
    assert float(accuracy(jnp.asarray(LOGITS), jnp.asarray(LABELS))) == pytest.approx(expected)


def test_per_class_accuracy_equals_scikit_learn():
    expected = recall_score(LABELS, LOGITS.argmax(axis=1), average=None)
    ours = per_class_accuracy(jnp.asarray(LOGITS), jnp.asarray(LABELS), 4)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    absent = np.insert(LOGITS, 4, -9, axis=1)  # a fifth class, of no example
    np.testing.assert_allclose(per_class_accuracy(absent, LABELS, 5), [*expected, np.nan])
    assert np.isnan(per_class_accuracy(np.zeros((0, 3)), np.zeros(0, int), 3)).all()


def test_macro_f1_is_wilds_own_definition_of_scikit_learns():
    rng = np.random.default_rng(2)
    members = rng.normal(size=(3, 60, 7)).astype(np.float32)
    labels = rng.choice([0, 1, 1, 1, 1, 4], size=60)  # four of seven have no example
    members[0] += 2 * np.eye(7, dtype=np.float32)[labels]
    wilds = lambda y, logits: f1_score(y, logits.argmax(1), average="macro", labels=np.unique(y))
    ours = macro_f1(members, jnp.asarray(labels))
    np.testing.assert_allclose(ours, [wilds(labels, each) for each in members], rtol=1e-6)
    padded = macro_f1(members, jnp.asarray(labels), jnp.arange(60) < 41)
    expected = [wilds(labels[:41], each[:41]) for each in members]
    np.testing.assert_allclose(padded, expected, rtol=1e-6)
    over_all = f1_score(labels, members[1].argmax(1), average="macro")  # also of what is answered
    assert over_all < float(jax.jit(macro_f1)(members[1], labels)) - 0.01
    answers = np.eye(4)[[0, 1, 1, 3, 2]]
    assert float(macro_f1(answers, jnp.array([0, 0, 1, 1, 2]))) == pytest.approx(0.722222, abs=1e-6)


def test_the_worst_group_is_scikit_learns_lowest_accuracy_of_those_with_examples():
    groups = np.random.default_rng(3).choice([-1, 0, 3, 4], size=len(LABELS))
    answers = LOGITS.argmax(1)
    each = {g: accuracy_score(LABELS[groups == g], answers[groups == g]) for g in (0, 3, 4)}
    worst = min(each, key=each.get)
    assert worst_group(LOGITS, LABELS, groups) == (pytest.approx(each[worst]), worst)
    wrong = np.where(groups < 0, 1 - LABELS % 2, LABELS)  # groups below 0 do not count
    assert worst_group(np.eye(4)[wrong], LABELS, groups)[0] == 1.0
    assert worst_group(LOGITS, LABELS, np.full(len(LABELS), -1)) is None


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_macro_accuracy_equals_scikit_learn_over_the_classes_that_are_there():
    rng = np.random.default_rng(1)
    members = rng.normal(size=(3, 60, 7)).astype(np.float32)  # an ensemble's
    labels = rng.choice([0, 1, 1, 1, 1, 4], size=60)  # four of seven have no example
    members[0] += 3 * np.eye(7, dtype=np.float32)[labels]
    expected = [balanced_accuracy_score(labels, each.argmax(1)) for each in members]
    np.testing.assert_allclose(macro_accuracy(members, jnp.asarray(labels)), expected, rtol=1e-6)
    one = float(jax.jit(macro_accuracy)(members[0], labels))
    assert one == pytest.approx(expected[0]) and expected[0] > 2 * expected[1] > 0
    assert one != pytest.approx(accuracy_score(labels, members[0].argmax(1)), abs=1e-3)
    mask = np.arange(60) < 41
    spoiled, padded = members.copy(), np.where(mask, labels, -100)
    spoiled[:, 41:] = 1e9
    expected = [balanced_accuracy_score(labels[:41], each[:41].argmax(1)) for each in members]
    found = macro_accuracy(spoiled, jnp.asarray(padded), jnp.asarray(mask))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_macro_accuracy_of_nothing_and_of_what_is_no_class():
    assert float(macro_accuracy(jnp.zeros((0, 3)), jnp.zeros(0, int))) == 0
    assert float(macro_accuracy(jnp.eye(2), jnp.arange(2), jnp.zeros(2, bool))) == 0
    with pytest.raises(ValueError, match="a label is 2"):
        macro_accuracy(jnp.eye(2), jnp.array([0, 2]))
    assert np.isnan(jax.jit(macro_accuracy)(jnp.eye(2), jnp.array([0, 2])))


def test_calibration_error_equals_a_loop_over_bins():
    z = np.exp(LOGITS - LOGITS.max(axis=1, keepdims=True))
    p = z / z.sum(axis=1, keepdims=True)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == LABELS
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            gap = abs(confidence[inside].mean() - correct[inside].mean())
            expected += inside.mean() * gap
    ours = calibration_error(jnp.asarray(LOGITS), jnp.asarray(LABELS), bins=10)
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_disagreement_counts_pairs():
    one, two = LOGITS, RNG.normal(size=LOGITS.shape)
    differ = np.mean(one.argmax(1) != two.argmax(1))
    assert float(disagreement(jnp.stack([one, two]))) == pytest.approx(differ)
    assert float(disagreement(jnp.stack([one, one, two]))) == pytest.approx(2 / 3 * differ)
    assert float(disagreement(jnp.asarray(one)[None])) == 0.0


def test_proxy_a_distance_of_equal_shifted_and_separate_domains():
    one, same = RNG.normal(size=(2, 400, 5))
    assert proxy_a_distance(one, same) < 0.4
    middle = proxy_a_distance(one, same + 1.0)
    assert 0.8 < middle < proxy_a_distance(one, same + 10.0) == 2.0
    with pytest.raises(ValueError, match="too few"):
        proxy_a_distance(one[:2], same)


def test_neighbourhood_density_equals_a_loop_over_examples():
    z = np.exp(LOGITS)
    p = z / np.linalg.norm(z, axis=1, keepdims=True)  # the sum cancels
    entropies = []
    for i in range(len(p)):
        others = np.delete(p, i, axis=0) @ p[i] / 0.05
        q = np.exp(others - others.max())
        q /= q.sum()
        entropies.append(-np.sum(q * np.log(q)))
    ours = soft_neighbourhood_density(jnp.asarray(LOGITS))
    assert float(ours) == pytest.approx(np.mean(entropies), rel=1e-4)


def test_padding_never_counts():
    mask = np.arange(50) < 37
    spoiled = LOGITS.copy()
    spoiled[37:] = 1e9 * np.eye(4)[LABELS[37:]]  # the padding would all be right
    expected = accuracy_score(LABELS[:37], LOGITS[:37].argmax(axis=1))
    assert float(accuracy(spoiled, jnp.asarray(LABELS), jnp.asarray(mask))) == pytest.approx(
        expected
    )


def test_shares_of_classes_equal_counts():
    answers = LOGITS.argmax(axis=1)
    expected = max(np.mean(answers == k) for k in range(4))
    assert float(top_class_share(jnp.asarray(LOGITS))) == pytest.approx(expected)
    dummy = DummyClassifier(strategy="most_frequent").fit(LOGITS, LABELS)
    assert most_frequent(LABELS) == pytest.approx(dummy.score(LOGITS, LABELS), abs=1e-6)


def test_label_free_scores_rank_as_they_should():
    sure_and_varied, one_class = 20.0 * np.eye(4), 20.0 * np.eye(4)[[0, 0, 0, 0]]
    unsure = np.zeros((4, 4))
    assert information_maximization(sure_and_varied) == pytest.approx(np.log(4), abs=1e-4)
    assert information_maximization(one_class) == pytest.approx(0.0, abs=1e-4)
    assert negative_entropy(one_class) > negative_entropy(unsure)


def results():
    measures = ("accuracy", "macro_accuracy", "macro_f1")
    rows = [
        row(method, domain, "test", 100, dict.fromkeys(measures, accuracies))
        for method, scores in {"zero_shot": [0.3], "dann": [0.5, 0.6]}.items()
        for domain, accuracies in {"a": scores, "b": [s / 2 for s in scores]}.items()
    ]
    return {
        "version": 2,
        "experiment": "dann",
        "model": "tiny",
        "data": {"name": "toy", "source": "b", "target": "a"},
        "classes": 4,
        "seeds": [0, 1],
        "selection": "last",
        "rows": rows,
        "domain_gap": {"zero_shot": -15.0, "dann": -27.5},
        "variant_gap": {},
    }


def test_tables_put_the_source_first_and_show_spread():
    lines = terminal.show(results()).splitlines()
    header = ["method", "b", "(source)", "macro", "a", "(target)", "macro", "F1", "gap"]
    assert lines[1].split() == header
    assert "55.0 ± 7.1" in terminal.show(results())
    line = "| dann | 27.5 ± 3.5 | 55.0 ± 7.1 | -27.5 | 55.0 ± 7.1 |"
    assert line in report.markdown(results())


def test_results_are_written_whole(tmp_path):
    report.write(tmp_path, results())
    assert report.read(tmp_path) == json.loads(json.dumps(results()))
    assert not list(tmp_path.glob("*.partial"))
    assert report.read(tmp_path / "elsewhere") is None
