"""What cannot be read now is not remembered; changes end a run; a full disk is left to others."""

import collections
import errno
import os
import shutil
import time
import zipfile

import numpy as np
import pytest

from clipjax.data.dataset import ArraySource
from clipjax.data.features import cache as features
from clipjax.data.features import encode as encoding
from clipjax.data.features.store import FeatureStore
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.readers import files
from clipjax.data.readers.archives import open_archive
from clipjax.data.readers.folders import FolderDataset
from clipjax.errors import ChangedError, ConfigError, DataError, UnreachableError
from clipjax.log import bars

PREPROCESS = Preprocess(size=8)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Four rows a shard."""
    monkeypatch.setattr(encoding, "SHARD_ROWS", 4)


class Disk(ArraySource):
    """18 images, some of which the disk does not give and some of which are none."""

    def __init__(self, away=(), bad=()):
        rng = np.random.default_rng(0)
        images = list(rng.integers(0, 256, (18, 8, 8, 3), np.uint8))
        super().__init__(images, np.arange(18) % 3, classes=("a", "b", "c"), domain="d")
        self.away, self.bad = away, bad

    def __getitem__(self, index):
        if index in self.away:
            raise UnreachableError(f"{self.names[index]} cannot be read (Permission denied).")
        if index in self.bad:
            raise DataError(f"{self.names[index]} is damaged.")
        return super().__getitem__(index)


def encode(images):
    return images.reshape(len(images), -1)[:, :5].astype(np.float32)


def run(folder, source, encode=encode, **options):
    options = {"weights": "w", "batch_size": 3, "say": lambda line: None} | options
    how = {k: options.pop(k) for k in ("batch_size", "workers", "threads") if k in options}
    encoder = encoding.ImageEncoder(encode, PREPROCESS, **how)
    return features.cached_features(encoder, source, cache_dir=folder, **options)


def check(found, gone=()):
    """Features are those of the images that are there."""
    rows = [row for row in range(18) if row not in gone]
    assert found.rows.tolist() == rows
    np.testing.assert_array_equal(
        found.features.features, encode(np.stack(Disk().images))[rows].astype(np.float32)
    )


class Counted:
    """Counts images that were encoded."""

    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return encode(images)


def test_what_can_be_read_again_is_encoded_again_with_its_shard(tmp_path):
    check(run(tmp_path, Disk(away=(2, 9), bad=(16,))), gone=(2, 9, 16))
    count = Counted()
    check(run(tmp_path, Disk(away=(2, 9), bad=(16,)), count), gone=(2, 9, 16))
    assert count.images == 0
    check(run(tmp_path, Disk(away=(2,), bad=(16,)), count), gone=(2, 16))
    assert 0 < count.images <= 12  # one shard of four rows, and a batch in flight
    check(run(tmp_path, Disk(bad=(16,))), gone=(16,))
    count = Counted()
    check(run(tmp_path, Disk(bad=(16,)), count), gone=(16,))
    assert count.images == 0
    (entry,) = tmp_path.iterdir()
    assert len(list(entry.glob("features*.npy"))) == 1 and not list(entry.glob("shard-*"))


def test_shards_of_a_stopped_encoding_are_repaired_too(tmp_path):
    def stop(images):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return encode(images)

    calls = []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Disk(away=(1,)), stop)
    check(run(tmp_path, Disk()))
    check(run(tmp_path, Disk()))


def test_runs_that_missed_different_rows_do_not_mix_their_files(tmp_path):
    """The features of one and the manifest of the other, as many rows each."""
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, Disk(away=(2,)))
    run(two, Disk(away=(9,)))
    (entry,), (other,) = one.iterdir(), two.iterdir()
    assert entry.name == other.name
    shutil.copy(other / "manifest.json", entry / "manifest.json")
    check(run(one, Disk(away=(9,))), gone=(9,))


def test_a_file_that_is_away_is_unreachable_and_one_that_changed_is_refused(folder_dataset):
    source = FolderDataset(folder_dataset, fractions=(1, 0, 0)).source("real", "train")
    path = source[0].name
    os.rename(path, path + ".away")
    with pytest.raises(UnreachableError, match="cannot be read"):
        source[0]
    os.rename(path + ".away", path)
    assert source[0].name == path
    os.utime(path, (1, 1))
    with pytest.raises(ChangedError, match="changed while it was in use; start again"):
        run(None, source)


def test_an_archive_that_changed_is_refused(tmp_path):
    path = tmp_path / "real.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"an image")
    ((members, _),) = open_archive(path, [["a.png"]])
    assert members.read(0) == b"an image"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.png", b"another")
    with pytest.raises(ChangedError, match=r"real.zip changed"):
        members.read(0)
    path.unlink()
    with pytest.raises(UnreachableError, match="cannot be read"):
        members.read(0)


def test_a_file_too_large_to_be_an_image_is_not_read(folder_dataset, monkeypatch):
    source = FolderDataset(folder_dataset, fractions=(1, 0, 0)).source("real", "train")
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="bytes, too many for an image") as caught:
        source[0]
    assert not isinstance(caught.value, UnreachableError | ChangedError)


def test_pillow_is_part_of_the_key(monkeypatch):
    key = features.cache_key("w", PREPROCESS, Disk())
    monkeypatch.setattr("PIL.__version__", "0.1")
    assert features.cache_key("w", PREPROCESS, Disk()) != key


def test_a_full_disk_is_left_to_the_run(tmp_path, monkeypatch):
    real, written, said = FeatureStore._replace, [], []

    def replace(self, path, write):
        if len(written) >= 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        real(self, path, write)

    monkeypatch.setattr(FeatureStore, "_replace", replace)
    check(run(tmp_path, Disk(), say=said.append))
    assert len(said) == 1 and "No space left" in said[0]
    assert not list(tmp_path.rglob("*"))


def test_no_part_is_begun_that_does_not_fit(tmp_path, monkeypatch):
    usage, said = collections.namedtuple("usage", "total used free"), []
    need = 2 * 18 * 5 * 4
    for free in (need, need + 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(0, 0, free))
        check(run(tmp_path, Disk(), say=said.append))
        assert bool(list(tmp_path.rglob("*"))) == (free > need)
    assert len(said) == 1 and "7.2e-07 GB are free" in said[0]


def test_what_killed_writers_left_is_removed(tmp_path):
    run(tmp_path, Disk())
    (entry,) = tmp_path.iterdir()
    old, new = entry / "features.npy.1.partial", entry / "features.npy.2.partial"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    run(tmp_path, Disk())
    assert not old.exists() and new.exists()


def test_entries_of_other_versions_are_passed_over(tmp_path):
    run(tmp_path, Disk())
    for name, text in {
        "one": '{"complete": true}',
        "two": '{"complete": 1, "created": "yesterday", "domain": 1, "split": 2}',
        "three": '{"complete": 1, "created": 3, "domain": null, "split": null}',
        "four": "[]",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    assert len(features.list_cache(tmp_path)) == 1


def test_an_entry_removed_while_the_cache_is_listed_is_passed_over(tmp_path, monkeypatch):
    run(tmp_path, Disk())
    run(tmp_path, Disk(), weights="x")
    real, gone = features.size_on_disk, []

    def remove_first(path):
        if not gone:
            gone.append(path)
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(features, "size_on_disk", remove_first)
    (left,) = features.list_cache(tmp_path)
    assert left.path not in gone and left.rows == 18


@pytest.mark.parametrize("text", ['{"complete": true}', '{"complete": true, "skipped": [[1, 2]]}'])
def test_a_foreign_manifest_is_written_anew(tmp_path, text):
    run(tmp_path, Disk())
    (entry,) = tmp_path.iterdir()
    (entry / "manifest.json").write_text(text)
    check(run(tmp_path, Disk()))
    assert len(features.list_cache(tmp_path)) == 1


@pytest.mark.parametrize("cached", [False, True])
def test_too_many_unreadable_images_end_an_encoding_early(tmp_path, cached):
    count, folder = Counted(), tmp_path if cached else None
    spoiled = Disk(bad=(0, 2, 3))
    check(run(folder, spoiled, most_skipped=3), gone=(0, 2, 3))
    with pytest.raises(
        DataError, match=r"3 of the first \d+ images of d/train.*max_unreadable"
    ) as e:
        run(folder, spoiled, count, most_skipped=2, weights="x")
    assert count.images < 18 and str(e.value).count("damaged") == 3
    if cached:
        with pytest.raises(DataError, match="3 of the first 18 images"):
            run(folder, spoiled, most_skipped=0)


def test_a_batch_of_nothing_is_refused(tmp_path):
    for folder in (None, tmp_path):
        with pytest.raises(ConfigError, match="features.batch_size=0"):
            run(folder, Disk(), batch_size=0)


def test_a_long_encoding_tells_now_and_then_where_no_bar_is(monkeypatch):
    said = []
    monkeypatch.setattr(bars, "TELL_EVERY", 0.0)
    for quiet in (False, True):
        monkeypatch.setattr(bars, "is_quiet", lambda quiet=quiet: quiet)
        run(None, Disk(), say=said.append)
        assert bool(said) == quiet
    assert len(said) == 6 and said[-1].startswith("encode d/train: 18 of 18 images, ")
    assert "images/s" in said[-1] and "-bound" in said[-1] and said[-1].endswith("0 min left")
