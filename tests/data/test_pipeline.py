"""Pairs of source and target batches from pixels."""

import jax
import numpy as np
import pytest

from clipjax.data.order import epoch_key, epoch_plan
from clipjax.data.pipeline import Crops, paired_batches
from clipjax.data.preprocess import Preprocess
from clipjax.data.sources import ArraySource

CROP = Preprocess(size=8)


def crops(count, first=0, **options):
    """Images whose every pixel is their number."""
    images = np.stack([np.full((8, 8, 3), first + i, np.uint8) for i in range(count)])
    labels = np.arange(count) % 3
    source = ArraySource(images, labels, classes=("a", "b", "c"), domain="d")
    return Crops(source, CROP, **options)


def batches(first, last, target=None):
    found = paired_batches(crops(10), target, seed=3, batch_size=4, first=first, last=last)
    return [jax.tree.map(np.asarray, batch) for batch in found]


def test_the_order_is_that_of_cached_features():
    source = [b["source"] for b in batches(0, 6)]
    for epoch in range(2):
        plan = epoch_plan(epoch_key(np.uint32(3), epoch), 10, 0, 4)
        for position in range(3):
            batch = source[3 * epoch + position]
            np.testing.assert_array_equal(batch["inputs"][:, 0, 0, 0], plan["source"][position])
            np.testing.assert_array_equal(batch["mask"], plan["mask"][position])
            np.testing.assert_array_equal(batch["label"], plan["source"][position] % 3)


def test_resuming_goes_on_with_the_same_batches():
    whole, rest = batches(0, 7, crops(5, 100)), batches(4, 7, crops(5, 100))
    for a, b in zip(whole[4:], rest, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert {int(v) for b in whole for v in b["target"]["inputs"][:, 0, 0, 0]} == {*range(100, 105)}


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_encoding_counts_every_image_once(memory):
    found = crops(10, memory_bytes=memory).encode(lambda x: x[:, 0, 0, :1].astype(np.float32), 4)
    assert found[:, 0].tolist() == list(range(10))
