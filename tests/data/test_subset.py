"""Parts of a source: rows, few shots per class, a share of each class."""

import pickle

import numpy as np
import pytest

from clipjax.data.dataset import ArraySource
from clipjax.data.derived import Subset, few_shot, fraction
from clipjax.errors import ConfigError, DataError


def source(count=6):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    return ArraySource(images, np.arange(count) % 3, classes=("a", "b", "c"), domain="d")


def imbalanced(seed):
    """Labels of 5 classes, the first of 3 examples, shuffled; class 2 does not occur."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.repeat([0, 1, 3, 4], [3, 40, 7, 201]))


def test_a_subset_is_a_source_of_its_rows():
    part = pickle.loads(pickle.dumps(Subset(source(), [4, 1])))
    assert len(part) == 2 and part.labels.tolist() == [1, 1] and part.labels.dtype == np.int32
    assert (part.domain, part.split, part.classes) == ("d", "train", ("a", "b", "c"))
    assert [part[i].name for i in range(2)] == ["d/train/4", "d/train/1"]
    assert part[0].image[0, 0, 0] == 4 and part[0].label == 1
    with pytest.raises(DataError, match="rows 2 to 6 were asked of d/train, which has 6"):
        Subset(source(), [2, 6])


def test_its_repr_tells_rows_and_what_they_are_of():
    parts = [Subset(source(), [4, 1]), Subset(source(), [1, 4]), Subset(source(), [4, 2])]
    parts.append(Subset(source(7), [4, 1]))
    assert len({repr(part) for part in parts}) == 4
    assert repr(parts[0]) == repr(Subset(source(), np.array([4, 1], np.int32)))
    assert repr(Subset(parts[0], [0])) != repr(Subset(source(), [4]))


@pytest.mark.parametrize("seed", range(5))
def test_shots_and_shares_are_nested(seed):
    labels = imbalanced(seed)
    rows = [set(few_shot(labels, shots, seed)) for shots in (1, 2, 3)]
    assert rows[0] < rows[1] < rows[2]
    shares = [set(fraction(labels, share, seed)) for share in (0.01, 0.05, 0.1, 0.5, 0.77, 1)]
    assert all(small <= large for small, large in zip(shares, shares[1:], strict=False))
    assert shares[-1] == set(range(len(labels)))


@pytest.mark.parametrize("seed", range(5))
def test_every_class_gets_its_part(seed):
    labels = imbalanced(seed)
    assert np.bincount(labels[few_shot(labels, 3, seed)]).tolist() == [3, 3, 0, 3, 3]
    assert np.bincount(labels[fraction(labels, 0.1, seed)]).tolist() == [1, 4, 0, 1, 20]
    rows = few_shot(labels, 2, seed)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, few_shot(list(labels), 2, seed))
    assert set(rows) != set(few_shot(labels, 2, seed + 1))


def test_all_examples_are_drawn_alike():
    counts = np.zeros(12)
    for seed in range(600):
        counts[few_shot(np.arange(12) % 3, 1, seed)] += 1
    assert abs(counts - 150).max() < 5 * np.sqrt(600 * 3 / 16)


def test_more_than_there_is_is_refused():
    labels = imbalanced(0)
    with pytest.raises(ConfigError, match="data.shots=4, but class 0 has 3 examples"):
        few_shot(labels, 4, 0)
    names = ("cat", "dog", "eel", "fox", "gnu")
    with pytest.raises(ConfigError, match="data.shots=1, but class 'eel' has no examples.*some"):
        few_shot(labels, 1, 0, names)
    assert len(few_shot(labels, 1, 0, names, "all")) == 4
    with pytest.raises(ConfigError, match="data.shots=0"):
        few_shot(labels, 0, 0)
    for share in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="data.fraction="):
            fraction(labels, share, 0)
