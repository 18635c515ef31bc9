"""Batches for encoding and evaluation: every row once, whatever the sizes and the images."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from clipjax.data.dataset import ArraySource, Example
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.loader import BatchLoader, image_batches
from clipjax.errors import DataError

PREPROCESS = Preprocess(size=4)


def source(n, bad=()):
    """Images whose every pixel is their row; those in `bad` are no images."""
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(n)]
    for row in bad:
        images[row] = b"not an image"
    labels = np.arange(n) % 3
    return ArraySource(images, labels, classes=("a", "b", "c"), domain="d")


def rows_of(batches):
    return np.concatenate([b["row"][b["mask"]] for b in batches] or [np.zeros(0, int)]).tolist()


@pytest.mark.parametrize("n, batch", [(1, 4), (4, 4), (7, 3), (7, 10)])
def test_every_example_comes_once_and_padding_is_masked(n, batch):
    batches = list(image_batches(source(n), PREPROCESS, batch))
    assert all(b["image"].shape == (batch, 4, 4, 3) for b in batches)
    assert rows_of(batches) == list(range(n))
    for b in batches:
        np.testing.assert_array_equal(b["image"][b["mask"], 0, 0, 0], b["row"][b["mask"]])
        np.testing.assert_array_equal(b["label"][b["mask"]], b["row"][b["mask"]] % 3)
        assert (b["row"][~b["mask"]] == -1).all()
        kinds = {k: b[k].dtype for k in ("image", "label", "mask", "row")}
        assert kinds == {"image": np.uint8, "label": np.int32, "mask": bool, "row": np.int32}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("n, batch", [(0, 2), (1, 2), (10, 4), (23, 3), (4, 50)])
def test_all_processes_together_see_every_row_once(n, batch, processes, threads):
    shares = [
        list(image_batches(source(n), PREPROCESS, batch, process=(p, processes), threads=threads))
        for p in range(processes)
    ]
    assert sorted(sum(map(rows_of, shares), [])) == list(range(n))
    assert len({len(share) for share in shares}) == 1  # or a collective would wait for ever


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_batches(workers):
    plain = list(image_batches(source(11, bad=(3,)), PREPROCESS, 2))
    found = list(image_batches(source(11, bad=(3,)), PREPROCESS, 2, workers=workers, threads=1))
    for one, two in zip(plain, found, strict=True):
        assert [p.name for p in one["problems"]] == [p.name for p in two["problems"]]
        for key in ("image", "label", "mask", "row"):
            np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.parametrize("first", [0, 2, 4, 9])
def test_starting_later_gives_the_rest(first):
    whole = list(image_batches(source(10), PREPROCESS, 3))
    rest = list(image_batches(source(10), PREPROCESS, 3, first=first))
    assert rows_of(rest) == rows_of(whole[first:]) and len(rest) == len(whole[first:])


class Unplugged(ArraySource):
    """A source whose second example cannot even be fetched."""

    def __getitem__(self, index: int) -> Example:
        if index == 1:
            raise DataError("disk/1.png cannot be read (gone); restore it.")
        return super().__getitem__(index)


def test_what_cannot_be_read_is_masked_and_told():
    images = [np.zeros((4, 4, 3), np.uint8)] * 3 + [b"not an image"]
    broken = Unplugged(images, [0, 1, 0, 1], classes=("a", "b"), domain="d", split="val")
    (batch,) = image_batches(broken, PREPROCESS, 6)
    assert batch["mask"].tolist() == [True, False, True, False, False, False]
    assert batch["row"].tolist() == [0, 1, 2, 3, -1, -1]
    fetched, decoded = batch["problems"]
    assert fetched.name == "d/val[1]" and "disk/1.png" in fetched.reason
    assert decoded.name == "d/val/3" and decoded.reason.startswith("cannot be read as an image")


@pytest.mark.parametrize("options", [{"process": (2, 2)}, {"process": (-1, 2)}])
def test_a_process_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="process"):
        image_batches(source(3), PREPROCESS, 2, **options)
    with pytest.raises(ValueError, match="batch_size"):
        image_batches(source(3), PREPROCESS, 0)


def test_a_worker_process_needs_no_jax_backend(tmp_path):
    file = tmp_path / "loader"
    file.write_bytes(pickle.dumps(BatchLoader(source(3), PREPROCESS, 2)))
    code = (
        "import pickle, sys\n"
        f"batch = pickle.load(open({str(file)!r}, 'rb'))(1)\n"
        "assert batch['row'].tolist() == [2, -1]\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
