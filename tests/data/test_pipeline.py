"""Pairs of source and target batches from pixels."""

import os

import jax
import numpy as np
import pytest

from clipjax.data.dataset import ArraySource
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.pairing import Batching, Crops, paired_batches
from clipjax.data.loading.sampler import ONE_PASS, Sampling, epoch_key, epoch_plan
from clipjax.errors import ConfigError, DataError

CROP = Preprocess(size=8)


def crops(count, first=0, **options):
    """Images whose every pixel is their number."""
    images = np.stack([np.full((8, 8, 3), first + i, np.uint8) for i in range(count)])
    labels = np.arange(count) % 3
    source = ArraySource(images, labels, classes=("a", "b", "c"), domain="d")
    return Crops(source, CROP, **options)


def batches(first, last, target=None, source=None, **options):
    options = {"seed": 3, "batch_size": 4} | options
    loading = {k: options.pop(k) for k in ("workers", "threads") if k in options}
    found = paired_batches(
        source or crops(10), target, Batching(**options), first=first, last=last, **loading
    )
    return [jax.tree.map(np.asarray, batch) for batch in found]


def numbers(part):
    """Which images a batch holds."""
    return part["inputs"][:, 0, 0, 0]


def same(a, b):
    """Asserts that two lists of batches are equal, byte for byte."""
    for x, y in zip(a, b, strict=True):
        jax.tree.map(np.testing.assert_array_equal, x, y)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [ONE_PASS, Sampling(3, balanced=True)])
def test_the_order_is_that_of_cached_features(sampling):
    found = batches(0, 6, crops(12), sampler=sampling)
    for epoch in range(2):
        key = epoch_key(np.uint32(3), epoch)
        plan = epoch_plan(key, 10, 12, 4, sampling, np.arange(10) % 3)
        for position in range(3):
            batch = found[3 * epoch + position]
            np.testing.assert_array_equal(numbers(batch["source"]), plan["source"][position])
            np.testing.assert_array_equal(numbers(batch["target"]), plan["target"][position])
            np.testing.assert_array_equal(batch["source"]["mask"], plan["mask"][position])
            np.testing.assert_array_equal(batch["source"]["label"], plan["source"][position] % 3)


@pytest.mark.slow
def test_resuming_goes_on_with_the_same_bytes_for_any_number_of_workers():
    whole = batches(0, 7, crops(5, 100))
    assert {int(v) for b in whole for v in numbers(b["target"])} == {*range(100, 105)}
    options = {"target": crops(5, 100), "source": crops(10, memory_bytes=0)}
    same(whole[4:], batches(4, 7, **options))
    same(whole[:4], batches(0, 4, workers=1, **options))  # stopped within the second epoch
    same(whole[4:], batches(4, 7, workers=2, **options))


@pytest.mark.slow
@pytest.mark.parametrize("count, batch, examples", [(3, 6, 7), (4, 4, 9)])
def test_processes_together_see_every_example_once_an_epoch(count, batch, examples):
    options = {"source": crops(examples), "batch_size": batch, "target": crops(5, 100)}
    steps = -(-examples // batch)
    parts = [batches(0, steps, process=(i, count), **options) for i in range(count)]
    seen = [numbers(b["source"])[b["source"]["mask"]] for part in parts for b in part]
    assert sorted(np.concatenate(seen)) == list(range(examples))
    joined = [jax.tree.map(lambda *x: np.concatenate(x), *b) for b in zip(*parts, strict=True)]
    same(joined, batches(0, steps, **options))


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="batch_size=4 .* by 3 processes; take 3"):
        batches(0, 1, process=(0, 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_becomes_unreadable_is_named(workers):
    png = (b"not a picture",) * 4
    source = ArraySource(png, [0] * 4, classes=("a",), domain="d", names=["a/cat.png"] * 4)
    with pytest.raises(DataError, match="a/cat.png cannot be read as an image"):
        batches(0, 1, source=Crops(source, CROP, memory_bytes=0), workers=workers)


@pytest.mark.parametrize("memory, workers", [(0, 0), (0, 1), (1 << 20, 0), (1 << 20, 1)])
def test_encoding_counts_every_image_once(memory, workers):
    source = crops(10, memory_bytes=memory)
    found = source.encode(lambda x: x[:, 0, 0, :1].astype(np.float32), 4, workers=workers)
    assert found[:, 0].tolist() == list(range(10))


def test_images_that_fit_stay_in_this_process():
    class Counted(ArraySource):
        def __getitem__(self, index):
            assert os.getpid() == here
            read.append(index)
            return super().__getitem__(index)

    here, read = os.getpid(), []
    images = np.zeros((10, 8, 8, 3), np.uint8)
    source = Crops(Counted(images, [0] * 10, classes=("a",), domain="d"), CROP)
    batches(0, 9, source=source, workers=2, threads=1)
    assert sorted(read) == list(range(10))
