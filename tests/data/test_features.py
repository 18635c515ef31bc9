"""The feature cache: what is read back, what is encoded again, and what a killed run leaves."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import open_dataset
from clipjax.data.dataset import ArraySource
from clipjax.data.features import cache as features
from clipjax.data.features import encode as encoding
from clipjax.data.features.store import FeatureStore
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import ConfigError, DataError, NonFiniteError
from tests.data.image_files import mutants

PREPROCESS = Preprocess(size=8)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Four rows a shard."""
    monkeypatch.setattr(encoding, "SHARD_ROWS", 4)


def source(n=18, bad=(), split="val"):
    """Noise; the rows in `bad` are no images."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (n, 8, 8, 3), np.uint8))
    for row in bad:
        images[row] = b"not an image"
    return ArraySource(images, np.arange(n) % 3, classes=("a", "b", "c"), domain="d", split=split)


class Encoder:
    """Counts its calls, and stops at one if told so."""

    def __init__(self, last=None):
        self.calls, self.last = 0, last

    def __call__(self, images):
        if self.calls == self.last:
            raise KeyboardInterrupt
        self.calls += 1
        return images.reshape(len(images), -1)[:, :5].astype(np.float32) / 7


def run(folder, encode=None, of=None, **options):
    options = {"weights": "w", "batch_size": 3, "say": lambda line: None} | options
    preprocess = options.pop("preprocess", PREPROCESS)
    how = {k: options.pop(k) for k in ("batch_size", "dtype", "workers", "threads") if k in options}
    encoder = encoding.ImageEncoder(encode or Encoder(), preprocess, **how)
    of = source() if of is None else of
    return features.cached_features(encoder, of, cache_dir=folder, **options)


def entry(folder):
    (only,) = folder.iterdir()
    return only


def test_features_are_those_of_a_plain_loop():
    """Rows in order, three by three, the last batch padded."""
    images = np.stack(source().images)
    pixels = np.stack([PREPROCESS.crop(image) for image in images])
    expected = np.concatenate([Encoder()(pixels[i : i + 3]) for i in range(0, 18, 3)])
    found = run(None)
    np.testing.assert_array_equal(found.features.features, expected)
    np.testing.assert_array_equal(found.features.labels, np.arange(18) % 3)
    assert found.rows.tolist() == list(range(18)) and found.rows.dtype == np.int64
    assert found.features.features.dtype == np.float32 and found.skipped == ()


def test_the_cache_is_read_and_keyed_by_everything(tmp_path):
    encode = Encoder()
    first = run(tmp_path, encode)
    assert encode.calls == 6
    again = run(tmp_path, encode)
    assert encode.calls == 6
    np.testing.assert_array_equal(first.features.features, again.features.features)
    for change in (
        {"weights": "other"},
        {"preprocess": Preprocess(size=7)},
        {"of": source(split="test")},
        {"of": source(17)},
        {"dtype": "float16"},
    ):
        made = encode.calls
        run(tmp_path, encode, **change)
        assert encode.calls == made + 6, change
    assert len(list(tmp_path.iterdir())) == 6
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("shard-*"))


def test_the_batch_size_is_not_part_of_the_key(tmp_path):
    encode = Encoder()
    one, two = run(tmp_path, encode), run(tmp_path, encode, batch_size=7)
    assert encode.calls == 6
    np.testing.assert_array_equal(one.features.features, two.features.features)


def test_an_embedded_source_goes_through(tmp_path):
    part = open_dataset("emoji").source("render", "val")
    one, two = (run(folder, of=part, batch_size=64) for folder in (tmp_path, None))
    np.testing.assert_array_equal(one.features.features, two.features.features)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_features_are_mapped_in_the_type_asked_for(tmp_path, dtype):
    full, found = run(None), run(tmp_path, dtype=dtype)
    for each in (found, run(tmp_path, dtype=dtype)):
        array = each.features.features
        assert array.dtype == encoding.DTYPES[dtype] and not array.flags.owndata
        np.testing.assert_array_equal(array, full.features.features.astype(array.dtype))
        assert float(jnp.sum(jnp.asarray(array))) > 0  # jax takes it
    assert json.loads((entry(tmp_path) / "manifest.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
@pytest.mark.parametrize("second_size", [3, 5])
def test_a_stopped_encoding_goes_on_behind_its_last_shard(tmp_path, calls, second_size):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Encoder(last=calls))
    kept = max(0, 3 * (calls - 1)) // 4 * 4  # rows in whole shards; one batch was in flight
    encode = Encoder()
    found = run(tmp_path, encode, batch_size=second_size)
    assert encode.calls == -(-18 // second_size) - kept // second_size
    np.testing.assert_array_equal(found.features.features, run(None).features.features)


KILLED = """
import os, signal, sys
import numpy as np
from clipjax.data.features import encode as encoding
from tests.data import test_features as t
encoding.SHARD_ROWS = 4
calls = []
def encode(images):
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(1)
    return t.Encoder()(images)
t.run(sys.argv[1], encode)
"""


@pytest.mark.slow
def test_a_killed_process_loses_only_the_shard_under_way(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    encode = Encoder()
    found = run(tmp_path / "cache", encode)
    assert encode.calls == 4  # rows 8 to 17, from batch 2 on
    whole = run(tmp_path / "other")
    np.testing.assert_array_equal(found.features.features, whole.features.features)
    files = [entry(tmp_path / name) / "features.npy" for name in ("cache", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_damaged_shard_is_encoded_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Encoder(last=5))
    assert sorted(f.name for f in entry(tmp_path).glob("*.npy")) == [
        f"shard-0000{i}.npy" for i in range(3)
    ]
    damaged = entry(tmp_path) / "shard-00001.npy"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    encode = Encoder()
    found = run(tmp_path, encode)
    assert encode.calls == 5  # from row 4 on, which is in batch 1
    np.testing.assert_array_equal(found.features.features, run(None).features.features)


@pytest.mark.parametrize("name", ["features.npy", "manifest.json"])
def test_a_damaged_entry_is_made_anew(tmp_path, name):
    whole = run(tmp_path).features.features.copy()
    damaged = entry(tmp_path) / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    encode = Encoder()
    np.testing.assert_array_equal(run(tmp_path, encode).features.features, whole)
    assert encode.calls == 6
    run(tmp_path, encode)
    assert encode.calls == 6


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_features_that_are_not_finite_are_never_kept(tmp_path, dtype):
    """Neither an overflow in the tower nor a damaged file on disk passes for features."""
    encoder = Encoder()
    infinite = lambda images: encoder(images) + np.where(images[:, :1, 0, 0] > 200, np.inf, 0)
    with pytest.raises(NonFiniteError, match="1 of 3 images of d/val"):
        run(tmp_path, infinite, dtype=dtype)
    expected = np.array(run(tmp_path, dtype=dtype).features.features)  # not the poisoned shard
    assert np.isfinite(expected).all()
    file = entry(tmp_path) / "features.npy"
    stored = np.load(file)
    stored[7, 2] = np.float32(np.nan) if stored.dtype != np.uint16 else 0x7FC0  # bfloat16's NaN
    np.save(file, stored)
    again = run(tmp_path, dtype=dtype).features.features
    np.testing.assert_array_equal(np.array(again), expected)


def test_unreadable_rows_are_left_out_and_told_at_every_start(tmp_path):
    bad = (0, 5, 6, 7, 17)
    full, encode = run(None), Encoder()
    good = [i for i in range(18) if i not in bad]
    for _ in range(2):
        found = run(tmp_path, encode, source(bad=bad))
        assert found.rows.tolist() == good
        assert [s.name for s in found.skipped] == [f"d/val/{i}" for i in bad]
        assert all("cannot be read" in s.reason for s in found.skipped)
        np.testing.assert_array_equal(found.features.features, full.features.features[good])
        np.testing.assert_array_equal(found.features.labels, np.array(good) % 3)
    assert encode.calls == 6


def test_a_shard_without_any_readable_row_is_kept_too(tmp_path):
    bad = source(bad=(4, 5, 6, 7))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Encoder(last=5), bad)
    encode = Encoder()
    found = run(tmp_path, encode, bad)
    assert encode.calls == 2 and len(found.rows) == 14


def test_nothing_to_encode_is_explained(tmp_path):
    with pytest.raises(DataError, match="'val' of domain 'd' has no images"):
        run(tmp_path, of=source(0))
    for _ in range(2):
        with pytest.raises(DataError, match=r"none of the 2 images of d/val.*d/val/0 cannot"):
            run(tmp_path, of=source(2, bad=(0, 1)))
    with pytest.raises(ConfigError, match="float32, float16, bfloat16"):
        run(tmp_path, dtype="int8")


@pytest.mark.parametrize("before", [0, 1, 5, 8, 11, 12, 13])
def test_a_full_disk_ends_the_cache_and_not_the_run(tmp_path, monkeypatch, before):
    """The disk is full after `before` writes; it takes 13 to make an entry."""
    real, written, said = FeatureStore._replace, [], []

    def replace(self, path, write):
        if len(written) >= before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        real(self, path, write)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "_replace", replace)
        found = run(tmp_path, of=source(bad=(9,)), say=said.append)
    whole = run(None, of=source(bad=(9,)))
    np.testing.assert_array_equal(found.features.features, whole.features.features)
    assert [s.name for s in found.skipped] == ["d/val/9"]
    assert len(said) == (before < 13)
    assert all("No space left" in line and "without it" in line for line in said)
    again = run(tmp_path, of=source(bad=(9,)))
    np.testing.assert_array_equal(again.features.features, whole.features.features)


def test_half_a_file_is_removed_when_the_disk_is_full(tmp_path):
    store = FeatureStore(tmp_path, 4, np.float32, {})

    def half(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError):
        store._replace(tmp_path / "shard-00000.npy", half)
    assert not list(tmp_path.iterdir())


def test_a_cache_dir_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    found = run(tmp_path / "file", say=said.append)
    assert len(found.rows) == 18 and len(said) == 1 and "file" in said[0]


def test_two_at_once_end_with_one_whole_entry(tmp_path):
    results, start = [None, None], threading.Barrier(2)

    def slow(images):
        time.sleep(0.002)
        return Encoder()(images)

    def work(place):
        start.wait()
        results[place] = run(tmp_path, slow)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encode, whole = Encoder(), run(None)
    for found in (*results, run(tmp_path, encode)):
        np.testing.assert_array_equal(found.features.features, whole.features.features)
    assert encode.calls == 0
    assert sorted(f.name for f in entry(tmp_path).iterdir()) == ["features.npy", "manifest.json"]


def test_the_cache_is_listed(tmp_path):
    assert features.list_cache(tmp_path / "none") == []
    (tmp_path / "0123.npy").write_bytes(b"of an older version")
    (tmp_path / "other").mkdir()
    run(tmp_path, of=source(bad=(2,)), model="tiny")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Encoder(last=4), source(split="train"))
    begun, whole = features.list_cache(tmp_path)
    assert (begun.domain, begun.split, begun.rows, begun.complete) == ("d", "train", 8, False)
    assert (whole.domain, whole.split, whole.rows, whole.complete) == ("d", "val", 17, True)
    assert 0 <= whole.age_s < 100 and whole.path.parent == tmp_path
    assert whole.bytes == sum(f.stat().st_size for f in whole.path.iterdir()) > 17 * 5 * 4
    assert json.loads((whole.path / "manifest.json").read_text())["model"] == "tiny"


def test_changed_images_get_a_new_key():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    one = ArraySource(images, [0, 0], classes=("a",), domain="d")
    images = images.copy()
    images[1, 0, 0, 0] = 1
    two = ArraySource(images, [0, 0], classes=("a",), domain="d")
    assert features.cache_key("w", PREPROCESS, one) != features.cache_key("w", PREPROCESS, two)


def test_fingerprint_sees_every_weight():
    one = {"a": np.zeros(3, np.float32)}
    assert features.fingerprint(one) != features.fingerprint({"b": one["a"]})
    assert features.fingerprint(one) != features.fingerprint({"a": np.array([0, 0, 1], np.float32)})


class Result:
    """Stands for an array that is still being computed; tells when somebody waits for it."""

    def __init__(self, number, events):
        self.number, self.events = number, events

    def __array__(self, dtype=None, copy=None):
        self.events.append(f"fetch {self.number}")
        return np.zeros((3, 2), np.float32)


def test_a_result_is_fetched_when_the_next_batch_is_under_way():
    events = []

    def encode(images):
        number = sum(event.startswith("start") for event in events)
        events.append(f"start {number}")
        return Result(number, events)

    features.encode_source(encoding.ImageEncoder(encode, PREPROCESS, 3), source(9))
    assert events == ["start 0", "start 1", "fetch 0", "start 2", "fetch 1", "fetch 2"]


def test_what_holds_the_encoding_up_is_told(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(encoding.time, "perf_counter", lambda: now[0])
    clock = encoding.Throughput()
    for decode, compute in ((50.0, 100.0), (3.0, 1.0), (3.0, 1.0)):  # the first pass starts things
        for on, seconds in (("decode", decode), ("compute", compute)):
            with clock.spent(on):
                now[0] += seconds
    assert clock.bound() == "decode-bound 75 %"
    with clock.spent("compute"):
        now[0] += 22.0
    assert clock.bound() == "compute-bound 80 %"


def test_a_long_encoding_says_how_fast_it_was(monkeypatch):
    said, encoder = [], encoding.ImageEncoder(Encoder(), PREPROCESS, 3)
    features.encode_source(encoder, source(), say=said.append)
    assert not said
    monkeypatch.setattr(encoding, "TELL_AFTER", 0.0)
    features.encode_source(encoder, source(), say=said.append)
    assert len(said) == 1 and said[0].startswith("encoded 18 images of d/val: ")
    assert all(word in said[0] for word in ("images/s", "-bound", "GB in memory"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PIL's, of damaged tags
def test_500_damaged_files_end_no_encoding_and_are_all_counted(tmp_path):
    files = [data for _, data in mutants(500)]
    spoiled = ArraySource(files, np.arange(500) % 3, classes=("a", "b", "c"), domain="d")
    encode = lambda images: jnp.asarray(images, jnp.float32).mean(axis=(1, 2))
    encoder = encoding.ImageEncoder(encode, PREPROCESS, 32, workers=1)
    found = features.cached_features(encoder, spoiled, weights="w", cache_dir=tmp_path)
    assert len(found.rows) + len(found.skipped) == 500
    assert min(len(found.rows), len(found.skipped)) > 50
    np.testing.assert_array_equal(found.features.labels, spoiled.labels[found.rows])
