"""Counts, hashes and readings of a dataset, against plain Python on the same files."""

import collections
import hashlib
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from clipjax.data.dataset import ArraySource, open_parts
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.open import open_dataset
from clipjax.errors import DataError
from clipjax.inspect import scan as reading
from clipjax.inspect import stats as census

PREPROCESS = Preprocess(size=16)


def encoded(rng, size=(24, 18), kind="PNG"):
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def make_sources(images, labels, parts, classes=("cat", "dog", "owl")):
    """Sources from parallel lists: part -> its images."""
    found = {}
    for part in dict.fromkeys(parts):
        rows = [i for i, p in enumerate(parts) if p == part]
        found[part] = ArraySource(
            [images[i] for i in rows],
            [labels[i] for i in rows],
            classes=classes,
            domain=part[0],
            split=part[1],
        )
    return found


@pytest.fixture
def mixed():
    """Two domains; row 5 equals row 0 (other split), row 7 equals row 2 (other domain and class),
    row 4 equals row 3 (same part); row 6 is no image."""
    rng = np.random.default_rng(0)
    images = [encoded(rng) for _ in range(8)]
    images[5], images[7], images[4], images[6] = images[0], images[2], images[3], b"no image"
    parts = [("a", "train")] * 5 + [("a", "test")] * 2 + [("b", "train")]
    return make_sources(images, [0, 0, 1, 1, 1, 0, 2, 0], parts)


def read_all(sources, **options):
    rows = census.Rows(sources)
    options = {"decode": np.ones(len(rows), bool)} | options
    return rows, reading.read(rows, PREPROCESS, **options)


def test_rows_are_the_parts_one_after_the_other(mixed):
    rows = census.Rows(mixed)
    names = [f"{'/'.join(part)}/{i}" for part, s in mixed.items() for i in range(len(s))]
    assert [rows[i].name for i in range(len(rows))] == names
    assert rows.labels.tolist() == [rows[i].label for i in range(len(rows))]
    assert rows.key(0).tolist() == [0] * 7 + [1] and rows.key(1).tolist() == [0] * 5 + [1, 1, 0]
    again = pickle.loads(pickle.dumps(rows))
    assert again[6].image == b"no image"


def test_counts_are_those_of_the_labels(mixed):
    counts = census.class_counts(mixed, 3)
    for part, source in mixed.items():
        times = collections.Counter(source.labels.tolist())
        assert counts[part].tolist() == [times[k] for k in range(3)]
    assert census.domain_counts(counts)["a"].tolist() == [3, 3, 1]
    assert census.missing_classes(counts) == {"a": [], "b": [1, 2]}


def test_balance_of_equal_and_unequal_classes():
    for k in (1, 2, 7):
        even = census.balance(np.full(k, 5))
        assert even.ratio == 1 and even.effective == pytest.approx(k)
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 50, 9)
    found = census.balance(np.concatenate([counts, [0, 0]]))
    assert counts[found.largest] == counts.max() and counts[found.smallest] == counts.min()
    assert found.ratio == pytest.approx(counts.max() / counts.min())
    assert 1 < found.effective < 9
    assert census.balance(np.zeros(3, int)) == (None, None, None, None)


def test_repeated_contents_are_those_with_equal_bytes(mixed):
    rows, found = read_all(mixed)
    by_bytes = collections.defaultdict(list)
    for i in range(len(rows)):
        by_bytes[hashlib.sha256(rows[i].image).digest()].append(i)
    groups = census.repeated(found.hashes, found.hashed)
    assert [g.tolist() for g in groups] == sorted(g for g in by_bytes.values() if len(g) > 1)


def test_many_random_repeats_against_a_dictionary():
    rng = np.random.default_rng(2)
    hashes = rng.integers(0, 12, (300, 2)).astype(np.uint64)
    hashed = rng.random(300) < 0.8
    expected = collections.defaultdict(list)
    for i in np.flatnonzero(hashed):
        expected[tuple(hashes[i])].append(int(i))
    groups = census.repeated(hashes, hashed)
    assert [g.tolist() for g in groups] == sorted(g for g in expected.values() if len(g) > 1)
    assert census.repeated(hashes, np.zeros(300, bool)) == []


def test_what_repeats_cross(mixed):
    rows, found = read_all(mixed)
    groups = census.repeated(found.hashes, found.hashed)
    assert census.crossings(groups, rows.key(1)) == [(0, 5)]
    assert census.crossings(groups, rows.key(0)) == [(2, 7)]
    assert census.crossings(groups, rows.labels) == [(2, 7)]
    train, test, other = mixed
    assert census.shared_contents(groups, rows) == {
        (train, train): 1, (train, test): 1, (train, other): 1,
    }  # fmt: skip


def test_reading_finds_sizes_formats_and_what_cannot_be_read():
    rng = np.random.default_rng(3)
    kinds = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]
    sizes = [(10 + i, 30 - i) for i in range(len(kinds))]
    images = [encoded(rng, size, kind) for size, kind in zip(sizes, kinds, strict=True)]
    images += [images[1][:40], b"", rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)]
    sources = make_sources(images, [0] * 9, [("a", "train")] * 9)
    rows, found = read_all(sources)
    assert sorted(found.unreadable) == [6, 7] and not len(found.unopened)
    assert reading.unreadable_images(rows, found) == {("a", "train"): pytest.approx(2)}
    assert all(rows[i].name in found.unreadable[i] for i in (6, 7))
    readable = [0, 1, 2, 3, 4, 5, 8]
    assert found.formats[readable].tolist() == [*kinds, "array"]
    assert found.sizes[readable].tolist() == [*map(list, sizes), [9, 12]]
    assert found.hashed.all() and found.decoded.all() and found.tried.all()
    assert [found.names[i] for i in range(9)] == [rows[i].name for i in range(9)]


def test_only_what_is_wanted_is_decoded_or_hashed(mixed):
    decode = np.zeros(8, bool)
    decode[[1, 6]] = True
    _, some = read_all(mixed, decode=decode)
    assert some.hashed.all() and some.decoded.tolist() == decode.tolist()
    assert list(some.unreadable) == [6]
    _, none = read_all(mixed, decode=np.zeros(8, bool), hashing=False)
    assert not none.hashed.any() and not none.unreadable and not none.tried.any()
    _, only = read_all(mixed, decode=decode, hashing=False)
    assert not only.hashed.any() and only.decoded.tolist() == decode.tolist()
    assert [bool(only.names[i]) for i in range(8)] == only.tried.tolist() == decode.tolist()


def test_a_file_that_vanished_counts_as_unreadable(folder_dataset):
    dataset = open_dataset("folder", str(folder_dataset))
    sources, closed = open_parts(dataset)
    assert not closed
    victim = sources["real", "train"][0].name
    rows = census.Rows(sources)
    (folder_dataset / victim).unlink()
    found = reading.read(rows, PREPROCESS, decode=np.zeros(len(rows), bool))
    assert list(found.unreadable) == [0] and victim in found.unreadable[0]
    assert found.hashed.sum() == len(rows) - 1 and found.tried.all() and not found.decoded.any()
    assert found.unopened.tolist() == [0]
    assert reading.unreadable_images(rows, found)["real", "train"] == 1  # none is foretold by it


class Damaged(ArraySource):
    """Rows below `unopened` cannot be opened, the next ones below `bad` not be decoded."""

    def __init__(self, n, unopened, bad, domain="a"):
        pixels = np.zeros((n, 4, 4, 3), np.uint8)
        super().__init__(pixels, np.zeros(n), classes=("cat",), domain=domain)
        self.limits = unopened, bad

    def __getitem__(self, index):
        if index < self.limits[0]:
            raise DataError(f"{self.names[index]} cannot be opened")
        example = super().__getitem__(index)
        return example if index >= self.limits[1] else example._replace(image=b"no image")


def test_what_cannot_be_opened_is_counted_and_what_cannot_be_decoded_foretold():
    sources = {("a", "train"): Damaged(200, 4, 4), ("b", "train"): Damaged(100, 10, 30, "b")}
    rows = census.Rows(sources)
    decode = np.zeros(300, bool)
    decode[:200:10] = True  # one unopened, 19 good
    decode[200::10] = True  # one unopened, 2 bad, 7 good
    found = reading.read(rows, PREPROCESS, decode=decode)
    assert len(found.unopened) == 14 and len(found.unreadable) == 16
    estimate = reading.unreadable_images(rows, found)
    assert estimate == {("a", "train"): 4, ("b", "train"): pytest.approx(10 + 90 * 2 / 9)}
    found = reading.read(rows, PREPROCESS, decode=decode, hashing=False)  # only the sample is known
    estimate = reading.unreadable_images(rows, found)
    assert estimate == {("a", "train"): pytest.approx(10), ("b", "train"): pytest.approx(30)}
    found = reading.read(rows, PREPROCESS, decode=np.ones(300, bool))
    assert list(reading.unreadable_images(rows, found).values()) == [4, 30]


def test_thread_counts_do_not_matter(mixed):
    one, three = read_all(mixed, threads=1)[1], read_all(mixed, threads=3)[1]
    assert all(np.array_equal(a, b) for a, b in zip(one[:6], three[:6], strict=True))
    assert list(one.unreadable) == list(three.unreadable)


def test_samples_are_seeded_and_of_every_domain(mixed):
    rows = census.Rows(mixed)
    first = census.sample_rows(rows, 3, seed=0)
    assert np.bincount(rows.key(0)[first]).tolist() == [3, 1]
    assert np.array_equal(first, census.sample_rows(rows, 3, seed=0))
    assert any((first != census.sample_rows(rows, 3, seed=s)).any() for s in range(1, 5))
    assert census.sample_rows(rows, 100, seed=0).all()


def test_hashes_tell_arrays_of_equal_bytes_apart():
    zeros = np.zeros((2, 6, 3), np.uint8)
    assert reading.content_hash(zeros) != reading.content_hash(zeros.reshape(6, 2, 3))
    assert reading.content_hash(zeros) == reading.content_hash(zeros.copy())
    assert reading.content_hash(zeros[:, ::2]) == reading.content_hash(zeros[:, ::2].copy())


def test_splits_that_are_not_there_say_why():
    found, closed = open_parts(OneSplit())
    assert list(found) == [("a", "train")] and set(closed) == {("a", "val"), ("a", "test")}
    assert "train only" in closed["a", "val"]


def test_a_part_that_fails_in_its_own_way_is_closed_with_a_sentence():
    class Odd(OneSplit):
        def source(self, domain, split):
            if split == "val":
                raise KeyError("image\ncolumn")
            return super().source(domain, split)

    found, closed = open_parts(Odd())
    assert list(found) == [("a", "train")] and closed["a", "val"].startswith("KeyError: ")
    assert "\n" not in closed["a", "val"]
    assert len(census.Rows({})) == 0


class OneSplit:
    """A dataset of one domain that has a training split alone."""

    domains = ("a",)

    def source(self, domain, split):
        if split != "train":
            raise DataError("train only")
        return ArraySource([b"x"], [0], classes=("cat",), domain=domain)
