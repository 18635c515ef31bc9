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
def test_every_example_is_of_one_split(given):
    where = splits.positions(f"{i}.png" for i in range(4000))
    labels = np.arange(4000) % 7
    parts = {split: splits.origin(split, given)[0] for split in SPLITS}
    for base in set(parts.values()):
        dealt = [split for split in SPLITS if parts[split] == base]
        masks = [splits.members(s, given, where, labels, FRACTIONS) for s in dealt]
        assert (np.sum(masks, axis=0) == 1).all()
        shares = np.array([FRACTIONS[SPLITS.index(split)] for split in dealt])
        assert np.abs(np.mean(masks, axis=1) - shares / shares.sum()).max() < 0.03
    assert all(parts[split] == split for split in set(given) - {WHOLE})


def test_the_only_example_of_a_class_stays_where_it_was_given():
    where, labels = splits.positions(map(str, range(100))), np.arange(100)
    assert splits.members("train", ("train", "test"), where, labels, (0, 1, 0)).all()
    with pytest.raises(DataError, match="'3' of domain 'real' has a single image"):
        labels = np.array([0, 0, 1, 1, 2, 2, 3])
        splits.check_single("val", ("train",), labels, list("0123"), "real", FRACTIONS)
    splits.check_single("val", ("train", "test"), labels, list("0123"), "real", FRACTIONS)


def test_nothing_given_is_an_error():
    with pytest.raises(DataError, match="no train, val or test"):
        splits.origin("val", ())
