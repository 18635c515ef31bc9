"""Parquet datasets in the layouts of Hugging Face `datasets`."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipjax import open_dataset
from clipjax.data.readers import parquet
from clipjax.data.readers.parquet import ParquetDataset
from clipjax.data.splits import SPLITS
from clipjax.data.unlabelled import NO_LABEL
from clipjax.errors import ChangedError, ConfigError, DataError, UnreachableError

NAMES = ["cat", "dog", "emu"]


def blob(row, tag=""):
    return f"image {tag} {row} ".encode() * 20


def table(rows, tag="", *, label=None, names=NAMES, **columns):
    """Rows as `datasets` writes them: image struct, ClassLabel with its names in the metadata."""
    images = [{"bytes": blob(i, tag), "path": f"{i}.jpg"} for i in range(rows)]
    label = [i % 3 for i in range(rows)] if label is None else label
    features = {"image": {"_type": "Image"}}
    if names:
        features["label"] = {"names": names, "_type": "ClassLabel"}
    noted = json.dumps({"info": {"features": features}})
    result = pa.table({"image": images, "label": label, **columns})
    return result.replace_schema_metadata({"huggingface": noted})


def write(path, content, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, **options)


def everything(dataset, domain):
    """(image, label name) of all splits of a domain."""
    return [
        (example.image, dataset.classes[example.label])
        for split in SPLITS
        for example in (lambda s: map(s.__getitem__, range(len(s))))(dataset.source(domain, split))
    ]


@pytest.fixture(params=["in memory", "on demand"])
def size(request, monkeypatch):
    """Every dataset as if it were small, and as if it were big."""
    if request.param == "on demand":
        monkeypatch.setattr(parquet, "SMALL", -1)
    return request.param


def test_shards_of_given_splits(tmp_path, size):
    for split, rows in (("train", 20), ("validation", 5), ("test", 7)):
        for shard in range(2):
            name = f"{split}-{shard:05}-of-00002.parquet"
            write(tmp_path / "data" / name, table(rows, f"{split}{shard}"), row_group_size=3)
    dataset = ParquetDataset(tmp_path)
    assert dataset.domains == (tmp_path.name,) and dataset.classes == tuple(NAMES)
    assert dataset.skipped == ()
    given_as = {"train": ("train", 20), "val": ("validation", 5), "test": ("test", 7)}
    for split, (given, rows) in given_as.items():
        source = dataset.source(tmp_path.name, split)
        expected = [(blob(i, f"{given}{s}"), i % 3) for s in range(2) for i in range(rows)]
        assert [source[i][:2] for i in range(len(source))] == expected
        assert source.labels.tolist() == [label for _, label in expected]
        assert source.labels.dtype == np.int32
        assert source[rows].name == f"data/{given}-00001-of-00002.parquet:0.jpg"


def test_missing_splits_are_dealt_out_of_train(tmp_path, size):
    write(tmp_path / "train.parquet", table(600))
    dataset = ParquetDataset(tmp_path)
    sizes = [len(dataset.source(tmp_path.name, split)) for split in SPLITS]
    assert sum(sizes) == 600 and np.allclose(sizes, [360, 60, 180], atol=45)
    images = [image for image, _ in everything(dataset, tmp_path.name)]
    assert sorted(images) == sorted(blob(i) for i in range(600))
    write(tmp_path / "test.parquet", table(50, "test"))
    again = ParquetDataset(tmp_path)
    sizes = [len(again.source(tmp_path.name, split)) for split in SPLITS]
    assert sizes[2] == 50 and sum(sizes) == 650 and abs(sizes[1] - 600 / 7) < 40


def test_folders_and_columns_name_domains(tmp_path, size):
    for domain in ("sketch", "photo"):
        write(tmp_path / "folders" / domain / "train-00000-of-00001.parquet", table(9, domain))
    dataset = ParquetDataset(tmp_path / "folders")
    assert dataset.domains == ("photo", "sketch")
    got = everything(dataset, "photo")
    assert sorted(got) == sorted((blob(i, "photo"), NAMES[i % 3]) for i in range(9))

    column = ["sketch", "photo", "sketch"] * 3
    write(tmp_path / "column" / "train.parquet", table(9, domain=column))
    dataset = ParquetDataset(tmp_path / "column")
    assert dataset.domains == ("sketch", "photo")
    assert len(everything(dataset, "sketch")) == 6 and len(everything(dataset, "photo")) == 3

    for domain in ("art", "toy"):
        write(tmp_path / "files" / "data" / f"{domain}-00000-of-00001.parquet", table(3, domain))
    assert ParquetDataset(tmp_path / "files").domains == ("art", "toy")


def test_labels_may_be_names(tmp_path, size):
    art = pa.table({"img": [b"a", b"b"], "class": ["dog", "emu"]})
    toy = pa.table({"img": [b"c", b"d"], "class": pa.array(["dog", "ant"]).dictionary_encode()})
    write(tmp_path / "art" / "test.parquet", art)
    write(tmp_path / "toy" / "test.parquet", toy)
    dataset = ParquetDataset(tmp_path, fractions=(0, 0, 1))
    assert dataset.classes == ("ant", "dog", "emu")
    assert dataset.classes_of("art") == ("dog", "emu")
    assert dataset.classes_of("toy") == ("ant", "dog")
    assert sorted(everything(dataset, "toy")) == [(b"c", "dog"), (b"d", "ant")]


def test_declared_names_are_matched_across_files(tmp_path, size):
    write(tmp_path / "art" / "train.parquet", table(3, "art"))
    write(tmp_path / "toy" / "train.parquet", table(2, "toy", label=[0, 1], names=["emu", "ant"]))
    dataset = ParquetDataset(tmp_path, fractions=(1, 0, 0))
    assert dataset.classes == ("cat", "dog", "emu", "ant")
    assert dataset.classes_of("toy") == ("emu", "ant")
    assert sorted(everything(dataset, "toy")) == [(blob(0, "toy"), "emu"), (blob(1, "toy"), "ant")]


def test_rows_without_image_are_skipped_and_those_without_label_have_none(tmp_path, size):
    whole = table(6, label=[0, None, 2, -1, 1, 0])
    images = whole["image"].to_pylist()
    images[2], images[5]["bytes"] = None, None
    struct = pa.array(images, whole["image"].type)
    write(tmp_path / "test.parquet", whole.set_column(0, "image", struct))
    dataset = ParquetDataset(tmp_path, fractions=(0, 0, 1))
    source = dataset.source(tmp_path.name, "test")
    assert source.labels.tolist() == [0, NO_LABEL, NO_LABEL, 1]
    assert [source[i].label for i in range(4)] == source.labels.tolist()
    assert [source[i].image for i in range(4)] == [blob(0), blob(1), blob(3), blob(4)]
    reasons = {skipped.name: skipped.reason for skipped in dataset.skipped}
    assert reasons == {"test.parquet:2": "no image", "test.parquet:5": "no image"}
    assert dataset.unlabelled(tmp_path.name)


def test_domains_may_be_numbers(tmp_path, size):
    write(tmp_path / "train.parquet", table(12, domain=[7, 0, 7, None] * 3))
    dataset = ParquetDataset(tmp_path, fractions=(1, 0, 0))
    assert dataset.domains == ("7", "0") and len(dataset.skipped) == 3
    assert len(everything(dataset, "7")) == 6 and len(everything(dataset, "0")) == 3


def test_a_split_without_labels_stays_one(tmp_path, size):
    """As published test files have them: the split is not taken from train in their place."""
    write(tmp_path / "train.parquet", table(60))
    write(tmp_path / "test.parquet", table(6, label=[-1] * 6))
    dataset = ParquetDataset(tmp_path)
    assert dataset.splits_of(dataset.domains[0]) == SPLITS
    parts = {split: dataset.source(tmp_path.name, split).labels for split in SPLITS}
    assert (parts["train"] >= 0).all() and (parts["val"] >= 0).all()
    assert len(parts["train"]) + len(parts["val"]) == 60
    assert parts["test"].tolist() == [NO_LABEL] * 6


@pytest.mark.parametrize("how", ["-1", "null", "no column"])
def test_a_domain_without_labels(tmp_path, size, how):
    write(tmp_path / "art" / "train.parquet", table(30))
    bare = table(40, label=[None if how == "null" else -1] * 40, names=None)
    bare = bare.drop_columns(["label"]) if how == "no column" else bare
    write(tmp_path / "toy" / "train.parquet", bare)
    dataset = ParquetDataset(tmp_path)
    assert dataset.classes == ("cat", "dog", "emu")  # in the declared order
    assert dataset.unlabelled("toy") and not dataset.unlabelled("art")
    assert dataset.classes_of("toy") == ()
    parts = [dataset.source("toy", split) for split in SPLITS]
    assert sum(map(len, parts)) == 40 and all(map(len, parts))
    assert {label for part in parts for label in part.labels.tolist()} == {NO_LABEL}
    named = {part[i].name: part.name_of(i) for part in parts for i in range(len(part))}
    assert len(set(named.values())) == 40


def test_labels_and_none_mix_in_a_domain(tmp_path, size):
    """What is dealt to val and test has labels; all others are trained on."""
    write(
        tmp_path / "train.parquet", table(90, label=[k % 3 if k < 60 else None for k in range(90)])
    )
    dataset = ParquetDataset(tmp_path)
    labels = {split: dataset.source(tmp_path.name, split).labels for split in SPLITS}
    assert (labels["train"] == NO_LABEL).sum() == 30
    assert (labels["val"] >= 0).all() and (labels["test"] >= 0).all()
    assert 0 < len(labels["val"]) and 0 < len(labels["test"])
    assert sum(map(len, labels.values())) == 90


@pytest.mark.parametrize("below", ["", "photo", "photo/Test", "data/", "photo/data"])
def test_a_root_of_parquet_files_is_seen(tmp_path, below):
    write(tmp_path / below / "0.parquet", table(3))
    (tmp_path / "notes").mkdir()
    assert open_dataset(root=str(tmp_path)).classes == tuple(NAMES)


def test_classes_txt_must_not_contradict_the_files(tmp_path):
    write(tmp_path / "train.parquet", table(6))
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\ndog\nemu\n".encode())
    assert ParquetDataset(tmp_path).classes == tuple(NAMES)
    (tmp_path / "classes.txt").write_text("dog\ncat\nemu\n")
    with pytest.raises(DataError, match="class 'cat' 0, and classes.txt numbers it 1"):
        ParquetDataset(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="classes.txt, line 1: byte 0xe9 is no UTF-8"):
        ParquetDataset(tmp_path)


def test_shares_are_checked_and_single_images_are_trained_on(tmp_path):
    write(tmp_path / "train.parquet", table(4))
    with pytest.raises(ConfigError, match="three shares"):
        ParquetDataset(tmp_path, fractions=(0.5, 0.5))
    dataset = ParquetDataset(tmp_path)
    found = [dataset.source(tmp_path.name, s).labels.tolist() for s in SPLITS]
    assert sorted(sum(found, [])) == [0, 0, 1, 2] and sorted(found[0]) == [0, 1, 2]


def test_big_row_groups_are_kept_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("clipjax.data.readers.parquet_io.KEPT_BYTES", 100)
    monkeypatch.setattr(parquet, "SMALL", -1)
    write(tmp_path / "train.parquet", table(60), row_group_size=20)
    source = ParquetDataset(tmp_path, fractions=(1, 0, 0)).source(tmp_path.name, "train")
    for row in range(0, 60, 20):
        assert source[row].image == blob(row) and len(source.store._kept) == 1


def test_sources_pickle_and_work_in_threads(tmp_path, size, monkeypatch):
    monkeypatch.setattr("clipjax.data.readers.parquet_io.KEPT_BYTES", 0)  # forget at once
    write(tmp_path / "train.parquet", table(200), row_group_size=7)
    source = ParquetDataset(tmp_path, fractions=(1, 0, 0)).source(tmp_path.name, "train")
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source)
    order = np.random.default_rng(0).permutation(200)
    with ThreadPoolExecutor(4) as pool:
        for read in (source, again):
            got = list(pool.map(read.__getitem__, order.tolist()))
            assert [e.image for e in got] == [blob(i) for i in order]


def test_repr_sees_every_change(tmp_path, size):
    def opened(folder, content):
        write(tmp_path / folder / "train.parquet", content)
        dataset = ParquetDataset(tmp_path / folder, "name", fractions=(1, 0, 0))
        return repr(dataset.source("name", "train"))

    first = opened("a", table(9))
    changes = [table(9, "other"), table(9, label=[0] * 9), table(9, names=["x", "y", "z"])]
    assert first not in {opened(f"b{k}", change) for k, change in enumerate(changes)}


def test_small_datasets_are_keyed_by_content_alone(tmp_path):
    def opened(folder):
        write(tmp_path / folder / "train.parquet", table(9))
        return repr(ParquetDataset(tmp_path / folder, "name").source("name", "train"))

    assert opened("a") == opened("b")


def test_a_part_of_a_small_dataset_is_read_once():
    dataset = open_dataset()
    assert dataset.source("flat", "val") is dataset.source("flat", "val")


def test_the_embedded_dataset_reads_the_same_on_demand(monkeypatch):
    small = open_dataset("emoji")
    monkeypatch.setattr(parquet, "SMALL", 0)
    big = open_dataset("emoji")
    for domain in small.domains:
        one, two = small.source(domain, "val"), big.source(domain, "val")
        assert one.labels.tolist() == two.labels.tolist() and len(one) > 0
        assert [one[i] for i in range(len(one))] == [two[i] for i in range(len(two))]


def damaged(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    "content, said",
    [
        (lambda: table(3, names=None), "classes.txt"),
        (lambda: table(3, label=[0, 1, 3]), "0 .. 2"),
        (lambda: table(3, label=[0, 1, -7]), "-7"),
        (lambda: table(3, label=[0.5, 1.0, 2.0]), "holds 0.5"),
        (lambda: table(3).rename_columns(["image", "target"]), "image, target"),
        (lambda: table(3).drop_columns(["image"]), "no column of images"),
        (lambda: table(3).set_column(0, "image", [[None] * 3]), "images"),
    ],
)
def test_bad_columns_are_explained(tmp_path, content, said):
    write(tmp_path / "train.parquet", content())
    with pytest.raises(DataError, match=said):
        ParquetDataset(tmp_path)


def test_bad_files_are_explained(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="not a Parquet dataset"):
        ParquetDataset(tmp_path)
    file = tmp_path / "train.parquet"
    write(file, table(50))
    monkeypatch.setattr(parquet, "SMALL", 0)
    source = ParquetDataset(tmp_path, fractions=(1, 0, 0)).source(tmp_path.name, "train")
    file.rename(tmp_path / "away")
    with pytest.raises(UnreachableError, match="train.parquet cannot be read now"):
        source[0]
    (tmp_path / "away").rename(file)
    damaged(file)
    with pytest.raises(ChangedError, match="train.parquet.*changed"):
        source[0]
    with pytest.raises(DataError, match="train.parquet.*damaged"):
        ParquetDataset(tmp_path)


def test_columns_may_be_chosen(tmp_path):
    content = table(3, right=["x", "y", "x"], where=["p", "q", "p"])
    write(tmp_path / "train.parquet", content)
    dataset = ParquetDataset(tmp_path, label="right", domain="where")
    assert dataset.domains == ("p", "q") and dataset.classes == ("x", "y")
    with pytest.raises(DataError, match="no column 'wrong'.*where"):
        ParquetDataset(tmp_path, label="wrong")
