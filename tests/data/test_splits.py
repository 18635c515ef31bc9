"""Splits by hash: one policy for every kind of dataset."""

import hashlib
import itertools

import numpy as np
import pytest

from clipjax.data import splits
from clipjax.data.splits import SPLITS, WHOLE
from clipjax.errors import DataError

FRACTIONS = (0.5, 0.2, 0.3)
GIVEN = [(WHOLE,), *(g for n in (1, 2, 3) for g in itertools.combinations(SPLITS, n))]


def place(key):
    """Where a key falls, in plain Python."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def test_positions_are_those_of_the_first_release():
    keys = [splits.file_key("cat", f"{i}.png") for i in range(200)]
    assert splits.positions(keys).tolist() == list(map(place, keys))
    assert splits.positions([]).shape == (0,)


@pytest.mark.parametrize("given", GIVEN, ids="+".join)
def test_every_example_is_of_one_split_and_every_class_in_every_split(given):
    counts = np.array([3, 4, 25, 100, 871])
    labels = np.repeat(range(len(counts)), counts)
    where = splits.positions(map(str, range(len(labels))))
    parts = {split: splits.origin(split, given)[0] for split in SPLITS}
    for base in set(parts.values()):
        dealt = [split for split in SPLITS if parts[split] == base]
        masks = [splits.members(s, given, where, labels, FRACTIONS) for s in dealt]
        assert (np.sum(masks, axis=0) == 1).all()
        found = np.array([np.bincount(labels[mask], minlength=len(counts)) for mask in masks]).T
        shares = np.array([FRACTIONS[SPLITS.index(split)] for split in dealt])
        assert found.min() >= 1
        assert np.abs(found - counts[:, None] * shares / shares.sum())[2:].max() <= 1
    assert all(parts[split] == split for split in set(given) - {WHOLE})


@pytest.mark.parametrize(
    ("fractions", "given", "expected"),
    [
        ((0.6, 0.1, 0.3), WHOLE, [(1, 0, 0), (1, 0, 1), (1, 1, 1), (2, 1, 1), (6, 1, 3)]),
        ((0.1, 0.7, 0.2), WHOLE, [(1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 2, 1), (1, 7, 2)]),
        ((0.0, 0.5, 0.5), WHOLE, [(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 2, 2), (0, 5, 5)]),
        ((0.0, 0.0, 9.0), WHOLE, [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4), (0, 0, 10)]),
        ((0.6, 0.1, 0.3), "test", [(0, 0, 1), (1, 0, 1), (1, 1, 1), (2, 1, 1), (6, 1, 3)]),
        ((0.6, 0.1, 0.3), "val", [(0, 1, 0), (1, 1, 0), (1, 1, 1), (2, 1, 1), (6, 1, 3)]),
        ((0.0, 0.5, 0.5), "train", [(1, 0, 0), (0, 1, 1), (0, 2, 1), (0, 2, 2), (0, 5, 5)]),
    ],
)
def test_counts_of_small_classes_as_written_in_the_docs(fractions, given, expected):
    for n, wanted in zip((1, 2, 3, 4, 10), expected, strict=True):
        where, labels = splits.positions(map(str, range(n))), np.full(n, 7)
        found = [splits.members(s, (given,), where, labels, fractions).sum() for s in SPLITS]
        assert tuple(found) == wanted


def test_25_images_of_each_of_200_classes_are_dealt_alike():
    labels = np.arange(5000) % 200
    where = splits.positions(map(str, range(5000)))
    for split, count in zip(SPLITS, (15, 3, 7), strict=True):
        mask = splits.members(split, (WHOLE,), where, labels, splits.FRACTIONS)
        assert (np.bincount(labels[mask]) == count).all()


def dealt(keys, labels, fractions=FRACTIONS):
    """Split number of each key."""
    where = splits.positions(keys)
    masks = [splits.members(s, (WHOLE,), where, np.array(labels), fractions) for s in SPLITS]
    return dict(zip(keys, np.argmax(masks, axis=0).tolist(), strict=True))


@pytest.mark.parametrize("fractions", [FRACTIONS, (0.6, 0.1, 0.3), (0.01, 0.98, 0.01)])
def test_one_more_image_moves_at_most_one_over_each_cut_and_none_of_other_classes(fractions):
    keys = [f"{i}.png" for i in range(90)]
    others = {f"other{i}": 1 for i in range(30)}
    before = dealt([*others], [*others.values()], fractions)
    for n in range(len(keys)):
        now = dealt(keys[: n + 1] + [*others], [0] * (n + 1) + [*others.values()], fractions)
        moved = [(before[k], now[k]) for k in before if before[k] != now[k]]
        assert len(moved) <= 2 and len({frozenset(m) for m in moved}) == len(moved)
        assert not any(k in others and before[k] != now[k] for k in before)
        before = now


def test_few_images_change_their_split_where_many_are_added():
    rng, moved = np.random.default_rng(0), []
    for trial in range(20):
        keys = [f"{trial}/{i}.png" for i in range(1100)]
        rng.shuffle(keys)
        before, now = dealt(keys[:1000], [0] * 1000), dealt(keys, [0] * 1100)
        moved.append(sum(before[k] != now[k] for k in before))
    assert np.mean(moved) < 10 and max(moved) < 25


def test_order_and_numbers_of_classes_do_not_matter_and_equal_names_stay_together():
    keys, labels = [f"{i // 2}.png" for i in range(400)], [i // 2 % 5 for i in range(400)]
    where, found = splits.positions(keys), {}
    for turned in (1, -1):
        mask = splits.members(
            "val", (WHOLE,), where[::turned], np.array(labels)[::turned], FRACTIONS
        )
        found[turned] = mask[::turned]
    assert (found[1] == found[-1]).all()
    assert (found[1][::2] == found[1][1::2]).all() and found[1].any()
    unlabelled = splits.members("val", (WHOLE,), where, np.array(labels) - 1, FRACTIONS)
    assert (unlabelled == found[1]).all()
    assert not len(splits.members("val", (WHOLE,), where[:0], np.array([], int), FRACTIONS))


def test_the_only_example_of_a_class_stays_where_it_was_given():
    where, labels = splits.positions(map(str, range(100))), np.arange(100)
    assert splits.members("train", ("train", "test"), where, labels, (0, 1, 0)).all()


def test_nothing_given_is_an_error():
    with pytest.raises(DataError, match="no train, val or test"):
        splits.origin("val", ())
