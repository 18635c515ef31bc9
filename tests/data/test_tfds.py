"""Prepared TFDS builders, read without TensorFlow; a small fake DomainNet stands for the real."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clipjax.data.classes import match_classes
from clipjax.data.open import open_dataset
from clipjax.data.readers import tfds_io as tfds_records
from clipjax.data.readers.tfds import TfdsDataset
from clipjax.data.splits import SPLITS
from clipjax.errors import ConfigError, DataError

CONFIGS = ("real", "clipart")
ROWS = {"train": 40, "test": 9}


def jpeg(config, split, row):
    """A tiny JPEG whose brightness says which row it is."""
    level = (7 * row + 100 * (split == "test") + 31 * CONFIGS.index(config)) % 256
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (level, 0, 255 - level)).save(buffer, "JPEG")
    return buffer.getvalue()


def prepare(builder_class, data_dir, **options):
    builder_class(data_dir=data_dir, file_format="array_record", **options).download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Two configs of DomainNet with few images, and a builder of our own."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification.domainnet.domainnet import Domainnet as Real

    class Domainnet(Real, skip_registration=True):
        name, code_path = "domainnet", None  # no checksums of what is not downloaded

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in ROWS}

        def _generate_examples(self, split):
            for row in range(ROWS[split]):
                image = io.BytesIO(jpeg(self.builder_config.name, split, row))
                yield row, {"image": image, "label": (row % 20 * 11) % 345}

    class Toys(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name, code_path, VERSION = "toys", None, tfds.core.Version("2.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["bee", "zebra", "angel"])
            picture = tfds.features.Image(shape=(4, 4, 3), encoding_format="png")
            features = {"picture": picture, "kind": label, "note": tfds.features.Text()}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            for row in range(30):
                picture = io.BytesIO()  # encoded here: arrays would be by TensorFlow
                Image.new("RGB", (4, 4), (row, row, row)).save(picture, "PNG")
                picture.seek(0)
                yield row, {"picture": picture, "kind": row % 3, "note": "x"}

    class Words(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name, code_path, VERSION = "words", None, tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": iter([(0, {"text": "x"})])}

        def _generate_examples(self):
            raise NotImplementedError

    root = tmp_path_factory.mktemp("tfds")
    for config in CONFIGS:
        prepare(Domainnet, root, config=config)
    prepare(Toys, root)
    prepare(Words, root)
    return root


def examples(dataset, domain, split):
    source = dataset.source(domain, split)
    return [source[i] for i in range(len(source))]


def test_domainnet_has_its_configs_as_domains(data_dir):
    dataset = TfdsDataset("domainnet", str(data_dir))
    assert dataset.domains == CONFIGS and len(dataset.classes) == 345
    assert (
        dataset.classes_of("real") == dataset.classes and dataset.classes[0] == "aircraft_carrier"
    )
    assert dataset.skipped == () and dataset.splits_of("real") == SPLITS
    for domain in CONFIGS:
        test = examples(dataset, domain, "test")
        expected = [(jpeg(domain, "test", row), row * 11 % 345) for row in range(ROWS["test"])]
        assert sorted(e[:2] for e in test) == sorted(expected)  # bytes as they were written
        labels = dataset.source(domain, "test").labels
        assert labels.dtype == np.int32 and labels.tolist() == [e.label for e in test]


def test_val_is_dealt_out_of_train(data_dir):
    dataset = TfdsDataset("domainnet", str(data_dir), fractions=(0.5, 0.5, 0.0))
    train, val = (examples(dataset, "real", split) for split in ("train", "val"))
    names = [e.name for e in (*train, *val)]
    assert len(set(names)) == ROWS["train"] and 8 < len(val) < 32
    again = TfdsDataset("domainnet", str(data_dir), fractions=(0.5, 0.5, 0.0))
    assert [e.name for e in examples(again, "real", "val")] == [e.name for e in val]


def test_any_builder_with_image_and_label(data_dir):
    dataset = TfdsDataset("toys", str(data_dir))
    assert dataset.domains == ("toys",) and dataset.classes == ("bee", "zebra", "angel")
    every = [e for split in SPLITS for e in examples(dataset, "toys", split)]  # it has test only
    pixels = [np.asarray(Image.open(io.BytesIO(e.image))) for e in every]
    assert sorted(int(p[0, 0, 0]) for p in pixels) == list(range(30))
    assert all(p[0, 0, 0] % 3 == e.label for p, e in zip(pixels, every, strict=True))


def test_several_builders_are_matched_by_class_name(data_dir):
    dataset = TfdsDataset("domainnet/real+toys", str(data_dir))
    assert dataset.domains == ("real", "toys") and len(dataset.classes) == 345
    for example in examples(dataset, "toys", "test"):
        row = np.asarray(Image.open(io.BytesIO(example.image)))[0, 0, 0]
        assert dataset.classes[example.label] == ("bee", "zebra", "angel")[row % 3]
    with pytest.raises(ConfigError, match="as in domainnet/real"):
        TfdsDataset("domainnet+toys", str(data_dir))
    view, _ = match_classes(dataset, "real", "toys", [], "intersection")
    assert view.classes == ("angel", "bee", "zebra") and len(view.source("toys", "test"))


@pytest.mark.parametrize(
    "path, domains",
    [
        ("toys/2.0.0", ("toys",)),
        ("toys", ("toys",)),
        ("domainnet", ("clipart", "real")),
        ("domainnet/real", ("real",)),
    ],
)
def test_paths(data_dir, path, domains):
    dataset = TfdsDataset(str(data_dir / path))
    assert dataset.domains == domains and len(dataset.source(domains[0], "test"))


def test_sources_pickle_with_a_stable_repr(data_dir):
    source = TfdsDataset("domainnet", str(data_dir)).source("real", "train")
    again = pickle.loads(pickle.dumps(source))
    other = TfdsDataset("domainnet", str(data_dir)).source("real", "train")
    assert repr(again) == repr(other) == repr(source) and len(again) > 0
    assert [again[i] for i in range(len(again))] == [source[i] for i in range(len(source))]
    dataset = TfdsDataset("domainnet", str(data_dir))
    reprs = {repr(dataset.source(domain, split)) for domain in CONFIGS for split in SPLITS}
    assert len(reprs) == 6


def test_labels_are_read_once(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    first = TfdsDataset("domainnet", str(data_dir)).source("real", "test")

    def again(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(tfds_records.Records, "labels", again)
    second = TfdsDataset("domainnet", str(data_dir)).source("real", "test")
    assert second.labels.tolist() == first.labels.tolist()
    with pytest.raises(AssertionError, match="read again"):
        TfdsDataset("domainnet", str(data_dir)).source("clipart", "test")
    assert not list(tmp_path.rglob("*.partial"))


def test_a_damaged_label_cache_or_none_is_no_harm(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    dataset = TfdsDataset("domainnet", str(data_dir))
    labels = dataset.source("real", "test").labels.tolist()
    (file,) = tmp_path.rglob("*.npy")
    for content in (b"", file.read_bytes()[:-8], b"other"):
        file.write_bytes(content)
        assert dataset.source("real", "test").labels.tolist() == labels
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not cached"):
        assert dataset.source("real", "test").labels.tolist() == labels


def test_threads_read_what_one_thread_reads(data_dir):
    source = TfdsDataset("domainnet", str(data_dir)).source("real", "train")
    again = pickle.loads(pickle.dumps(source))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(source)), 8)).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(again.__getitem__, order)) == [source[i] for i in order]


def test_tensorflow_and_image_decoders_are_not_imported(data_dir, tmp_path):
    """In a fresh process, whose labels are not cached."""
    code = f"""
import sys
from clipjax.data.readers.tfds import TfdsDataset
source = TfdsDataset("domainnet", {str(data_dir)!r}).source("real", "train")
assert len(source.labels) and source[0].image[:2] == b"\\xff\\xd8"
assert not {{"tensorflow", "cv2", "PIL.JpegImagePlugin"}} & set(sys.modules)
"""
    environment = os.environ | {"CLIPJAX_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_what_is_not_prepared_comes_with_its_command(tmp_path):
    with pytest.raises(DataError) as error:
        TfdsDataset("domainnet", str(tmp_path))
    said = str(error.value)
    assert "download_and_prepare" in said and "file_format='array_record'" in said
    assert "'domainnet/real', 'domainnet/painting'" in said and str(tmp_path) in said
    assert "clipjax[tfds-prepare]" in said and "TensorFlow" in said and "18 GB" in said
    with pytest.raises(ConfigError, match="'domainet'.*mean domainnet"):
        TfdsDataset("domainet", str(tmp_path))
    with pytest.raises(DataError, match="no prepared TFDS"):
        TfdsDataset(str(tmp_path))


def test_without_tensorflow_datasets_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match=r"tfds:toys needs TensorFlow Datasets: pip install 'cl"):
        open_dataset("tfds:toys")


def test_tfrecord_data_comes_with_the_conversion(data_dir, tmp_path):
    shutil.copytree(data_dir / "toys", tmp_path / "toys")
    info = tmp_path / "toys" / "2.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="tfds convert_format.*--out_file_format=array_record"):
        TfdsDataset("toys", str(tmp_path))
    noted = json.loads(info.read_text())  # what the conversion leaves
    info.write_text(json.dumps(noted | {"alternativeFileFormats": ["array_record"]}))
    assert len(examples(TfdsDataset("toys", str(tmp_path)), "toys", "test"))


def test_unusable_builders_are_explained(data_dir, tmp_path):
    with pytest.raises(DataError, match="image.*features: text Text"):
        TfdsDataset("words", str(data_dir))
    shutil.copytree(data_dir / "toys", tmp_path / "toys")
    (shard,) = (tmp_path / "toys" / "2.0.0").glob("*.array_record*")
    content = bytearray(shard.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    shard.write_bytes(content)
    with pytest.raises(DataError, match="toys"):
        examples(TfdsDataset("toys", str(tmp_path)), "toys", "test")
    shard.unlink()
    with pytest.raises(DataError, match="toys"):
        TfdsDataset("toys", str(tmp_path)).source("toys", "test")


@pytest.mark.parametrize("damage", ["{", "[]", '{"name": 1, "wrong": {}}', '{"name": "toys"}'])
@pytest.mark.parametrize("whole_path", [True, False])
def test_damaged_metadata_is_named(data_dir, tmp_path, damage, whole_path):
    shutil.copytree(data_dir / "toys", tmp_path / "toys")
    (tmp_path / "toys" / "2.0.0" / "dataset_info.json").write_text(damage)
    with pytest.raises(DataError, match="toys"):
        TfdsDataset(str(tmp_path / "toys") if whole_path else "toys", str(tmp_path))


def test_shares_are_checked(data_dir):
    with pytest.raises(ConfigError, match="three shares"):
        TfdsDataset("toys", str(data_dir), fractions=(0.5, 0.5))


def test_labels_that_are_no_class_are_refused(data_dir, tmp_path):
    shutil.copytree(data_dir / "toys", tmp_path / "toys")
    folder = tmp_path / "toys" / "2.0.0"
    (folder / "kind.labels.txt").write_text("bee\nzebra\n")
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["kind"]["classLabel"]["numClasses"] = "2"
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(DataError, match="from 0 to 2.*2 classes"):
        TfdsDataset("toys", str(tmp_path)).source("toys", "test")


def test_names_that_go_or_are_equal_are_refused(data_dir, tmp_path, monkeypatch):
    """Labels that were read before outlive the names that they number."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    shutil.copytree(data_dir / "toys", tmp_path / "toys")
    folder = tmp_path / "toys" / "2.0.0"
    assert len(TfdsDataset("toys", str(tmp_path)).source("toys", "test"))
    (folder / "kind.labels.txt").write_text("bee\ncaf\xe9\ncafe\u0301\n", "utf-8")
    with pytest.raises(DataError, match="'kind' of .*2.0.0 gives classes 1 and 2 the same name"):
        TfdsDataset("toys", str(tmp_path))
    (folder / "kind.labels.txt").write_text("\ufeffbee\nzebra\n", "utf-8")
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["kind"]["classLabel"]["numClasses"] = "2"
    (folder / "features.json").write_text(json.dumps(features))
    dataset = TfdsDataset("toys", str(tmp_path))
    assert dataset.classes == ("bee", "zebra")
    with pytest.raises(DataError, match="from 0 to 2, but it has 2 classes"):
        dataset.source("toys", "test")
