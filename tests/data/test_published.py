"""WILDS, CoOp's datasets and ImageNet's variants, read from small fakes in their layout."""

import json
import random

import numpy as np
import pytest

from clipjax.data.few_shot import CoopSampler, CoopValidation
from clipjax.data.open import open_dataset
from clipjax.data.readers.coop import FOLDERS, CoopDataset
from clipjax.data.readers.imagenet import ImagenetDataset
from clipjax.data.readers.wilds import CATEGORIES, FmowDataset, IwildcamDataset
from clipjax.data.recognise import recognise
from clipjax.errors import ConfigError, DataError
from clipjax.model.prompts import fill_prompts
from clipjax.study.epochs import training_rows
from clipjax.study.parts import Data
from tests.data import published as fakes

MAKERS = {
    "wilds_fmow": fakes.fmow,
    "wilds_iwildcam": fakes.iwildcam,
    "coop": fakes.coop,
    "imagenet": fakes.imagenet,
}


def numbers(source):
    """The numbers of a fake's images, as `fakes.png` draws them, read from their bytes."""
    import io

    from PIL import Image

    read = lambda example: int(np.asarray(Image.open(io.BytesIO(example.image)))[0, 0, 0])
    return [read(source[i]) for i in range(len(source))]


@pytest.mark.parametrize("name", MAKERS)
def test_what_lies_at_a_root_is_recognised(name, tmp_path):
    root = MAKERS[name](tmp_path / "data")
    assert recognise(root).name == name
    assert type(open_dataset(root=str(root))) is type(open_dataset(name, str(root)))


def test_aircraft_and_a_table_of_ones_own_are_told_apart(tmp_path):
    assert recognise(fakes.aircraft(tmp_path / "planes")).name == "coop"
    fakes.write(tmp_path / "own/metadata.csv", "path,label\nphoto/cat/1.png,cat\n")
    fakes.write(tmp_path / "own/train/cat/1.png", fakes.png(1))
    assert recognise(tmp_path / "own").name == "lists"


def test_fmow_is_cut_by_year_in_utc_and_numbered_by_row_of_the_whole_table(tmp_path):
    dataset = FmowDataset(fakes.fmow(tmp_path))
    assert dataset.domains == ("id", "ood") and dataset.classes == tuple(CATEGORIES)
    assert len(CATEGORIES) == 62 and CATEGORIES[40] == "race_track"
    assert dataset.splits_of("id") == ("train", "val", "test")
    assert dataset.splits_of("ood") == ("val", "test")
    parts = {(d, s): dataset.source(d, s) for d in dataset.domains for s in dataset.splits_of(d)}
    found = {key: numbers(source) for key, source in parts.items()}
    assert found == {
        ("id", "train"): [0, 3],
        ("id", "val"): [4],
        ("id", "test"): [8],
        ("ood", "val"): [5, 6],
        ("ood", "test"): [10, 11, 12],
    }
    called = [CATEGORIES[label] for label in parts["ood", "test"].labels]
    assert called == ["race_track", "zoo", "zoo"]
    regions = lambda part: [("none", *part.group_names)[g + 1] for g in part.groups]
    assert regions(parts["ood", "test"]) == ["Europe", "Asia", "none"]
    assert regions(parts["ood", "val"]) == ["Africa", "none"]
    with pytest.raises(DataError, match="domain 'ood' of fmow has no train split; it has val, tes"):
        dataset.source("ood", "train")
    assert "ood" in repr(dataset) and "-" in repr(dataset)


def test_iwildcam_reads_all_splits_from_train_and_keeps_texts_that_classes_share(tmp_path):
    dataset = IwildcamDataset(fakes.iwildcam(tmp_path))
    assert dataset.classes == ("empty", "lowland paca 1", "jaguar", "lowland paca 3")
    assert dataset.texts == {name: "lowland paca" for name in dataset.classes[1::2]}
    parts = [("id", "train"), ("id", "val"), ("id", "test"), ("ood", "val"), ("ood", "test")]
    sources = [dataset.source(*part) for part in parts]
    assert [numbers(source) for source in sources] == [[0, 1], [2], [3], [4], [5, 6]]
    assert [source.labels.tolist() for source in sources] == [[0, 1], [2], [3], [0], [1, 2]]
    assert sources[-1].groups.tolist() == [2, 0] and sources[-1].group_names[2] == "camera 2"


def test_a_coop_split_keeps_its_order_and_its_folder(tmp_path):
    dataset = CoopDataset(fakes.coop(tmp_path))
    assert dataset.domains == ("caltech101",) and dataset.classes == ("kind_0", "kind_1", "kind_2")
    train = dataset.source("caltech101", "train")
    assert train.labels.tolist() == [2, 1, 0] * 6 and numbers(train)[:7] == [0, 1, 2, 3, 4, 5, 12]
    assert train.name_of(0).endswith("/101_ObjectCategories/kind_2/0.jpg")
    assert [len(dataset.source("caltech101", s)) for s in ("val", "test")] == [9, 9]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "Caltech101"])
def test_every_coop_dataset_has_its_folder(name, tmp_path):
    root = fakes.coop(tmp_path, name, FOLDERS[name] or "cars_train", classes=1, images=4)
    if name == "StanfordCars":  # paths from the root
        table = root / f"split_zhou_{name}.json"
        text = table.read_text().replace("kind_0/", "cars_train/kind_0/")
        table.write_text(text)
    assert numbers(CoopDataset(root).source(name.lower(), "test")) == [3]


def test_aircraft_is_read_from_its_lists(tmp_path):
    dataset = CoopDataset(fakes.aircraft(tmp_path))
    assert dataset.classes == ("DH-82", "707-320", "BAE 146-200")  # in the order of variants.txt
    assert dataset.source("aircraft", "val").labels.tolist() == [2, 1, 0]
    assert numbers(dataset.source("aircraft", "test")) == [2, 2, 2]


def test_coops_sampler_draws_its_examples():
    sampler, labels = CoopSampler(1), np.arange(30) // 10
    assert sampler.draw(labels, 2).tolist() == [2, 1, 14, 11, 27, 29]
    assert sampler.draw(labels, 2).tolist() == [7, 6, 13, 11, 27, 20]


def test_shots_by_coops_rule_are_those_of_its_code(tmp_path):
    dataset = CoopDataset(fakes.coop(tmp_path))
    train, val = (dataset.source("caltech101", split) for split in ("train", "val"))
    # As Dassl's generate_fewshot_dataset: a dict of lists by label, in order of appearance.
    random.seed(2)
    expected = []
    for source, shots in ((train, 5), (val, 4)):
        items: dict = {}
        for row, label in enumerate(source.labels.tolist()):
            items.setdefault(label, []).append(row)
        drawn = [random.sample(v, shots) if len(v) >= shots else v for v in items.values()]
        expected.append(sorted(sum(drawn, [])))
    data = Data(source="caltech101", shots=5, shots_rule="coop", subset_seed=2)
    assert training_rows(data, train.labels, dataset.classes).tolist() == expected[0]
    few = CoopValidation(dataset, "caltech101", 5, 2).source("caltech101", "val")
    assert few.rows.tolist() == expected[1] and len(few) == 9  # 3 a class: fewer than 4, so all


def test_shots_above_a_class_and_shares_that_empty_one_are_refused_by_name():
    labels, names = np.array([0] * 9 + [1] * 3), ("cat", "dog")
    data = Data(source="a", shots=4)
    with pytest.raises(ConfigError, match=r"class 'dog' has 3 .*data.shots_missing=all"):
        training_rows(data, labels, names)
    for rule in ("nested", "coop"):
        data = Data(source="a", shots=4, shots_missing="all", shots_rule=rule)
        rows = training_rows(data, labels, names)
        assert np.bincount(labels[rows]).tolist() == [4, 3]
    data = Data(source="a", fraction=0.1, fraction_how="uniform")
    with pytest.raises(ConfigError, match=r"leaves 1 class without .*'cat'.*how=stratified"):
        training_rows(data, labels, names)
    rows = [set(training_rows(Data(source="a", fraction=f, fraction_how="uniform", subset_seed=1),
                              labels, names)) for f in (0.5, 0.75)]  # fmt: skip
    assert rows[0] < rows[1] and [len(r) for r in rows] == [6, 9]


def test_imagenets_variants_have_their_classes_and_the_numbers_of_labels(tmp_path):
    dataset = ImagenetDataset(fakes.imagenet(tmp_path), (0.6, 0.1, 0.3))
    variants = ("imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r")
    assert dataset.domains == ("imagenet", *variants)
    assert dataset.classes[0] == "tench" and dataset.classes[1] == f"missile {fakes.WNIDS[1]}"
    assert dataset.texts == {f"missile {fakes.WNIDS[k]}": "missile" for k in (1, 11)}
    assert fill_prompts(dataset.texts[dataset.classes[11]], "simple") == ["a photo of a missile."]
    two = dataset.source("imagenet_v2", "test")
    assert dict(zip(two.labels.tolist(), numbers(two), strict=True)) == {
        k: 20 + k
        for k in range(12)  # "10" is not before "2"
    }
    few = tuple(dataset.classes[k] for k in (1, 4, 11))
    assert dataset.classes_of("imagenet_a") == dataset.classes_of("imagenet_r") == few
    assert dataset.source("imagenet_a", "test").labels.tolist() == [1, 4, 11]
    assert all(dataset.splits_of(domain) == ("test",) for domain in variants)
    sizes = [len(dataset.source("imagenet", s)) for s in ("train", "val", "test")]
    assert sizes == [108, 12, 12] or (sum(sizes[:2]), sizes[2]) == (120, 12)
    assert set(numbers(dataset.source("imagenet", "test"))) == {10}


def drop(file):
    return lambda root: (root / file).unlink()


def swap(file, old, new):
    def change(root):
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return change


SPLIT = "split_zhou_Caltech101.json"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("wilds_fmow", swap("rgb_metadata.csv", "timestamp", "time"), "no column 'timestamp'; its"),
        ("wilds_fmow", drop("country_code_mapping.csv"), "country_code_mapping.csv is missing"),
        ("wilds_fmow", drop("images/rgb_img_5.png"), "1 of them are not in .*rgb_img_5.png"),
        ("wilds_fmow", swap("rgb_metadata.csv", "zoo", "Zoo"), "line 2: category 'Zoo' is none of"),
        ("wilds_fmow", swap("rgb_metadata.csv", "2012-12", "2012-13"), "timestamp '2012-13"),
        ("wilds_fmow", swap("rgb_metadata.csv", "train", "dev"), "line 2: split 'dev' is none of"),
        ("wilds_iwildcam", swap("metadata.csv", "filename", "file"), "no column 'filename'"),
        ("wilds_iwildcam", drop("labels.csv"), "no table of the animals' names; put labels.csv"),
        ("wilds_iwildcam", drop("train/3.jpg"), "1 of them are not in .*train/3.jpg"),
        ("wilds_iwildcam", swap("metadata.csv", "id_val", "cis"), "line 4: split 'cis' is none of"),
        ("wilds_iwildcam", swap("labels.csv", "3,low", "7,low"), "without gaps"),
        ("wilds_iwildcam", swap("metadata.csv", ",0,0.jpg", ",9,0.jpg"), "y '9' is none of"),
        ("coop", drop("101_ObjectCategories/kind_1/0.jpg"), SPLIT + " names 36 images, and 1 of"),
        ("coop", swap(SPLIT, '"val"', '"dev"'), "must hold lists train, val and test"),
        ("coop", swap(SPLIT, "kind_2\"]", "kind_x\"]"), "label 2 is 'kind_2', and before it was"),
        ("coop", swap(SPLIT, ", 2, ", ", \"2\", "), r"\['kind_2/0.jpg', '2'.* is no \[path"),
        ("coop", swap(SPLIT, "{", "["), "is not valid JSON"),
        ("coop", lambda root: (root / "split_zhou_B.json").write_text("{}"), "leave one split"),
        ("imagenet", drop("imagenet/classnames.txt"), "classnames.txt is missing"),
        ("imagenet", swap("imagenet/classnames.txt", "n00000003", "n00000004"), "twice"),
        ("imagenet", swap("imagenet/classnames.txt", "n00000004", "n9"), "no wnids of classnames"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(name, change, words, tmp_path):
    root = MAKERS[name](tmp_path)
    change(root)
    with pytest.raises(DataError, match=words) as error:
        open_dataset(name, str(root))
    assert len(str(error.value).splitlines()) == 1


def test_a_split_that_is_empty_or_numbered_with_gaps_is_refused(tmp_path):
    file = fakes.coop(tmp_path) / SPLIT
    split = json.loads(file.read_text())
    gaps = {s: [[p, 2 * label, n] for p, label, n in rows] for s, rows in split.items()}
    file.write_text(json.dumps(gaps))
    with pytest.raises(DataError, match="labels 0 to 4 of 3 classes; number them from 0"):
        CoopDataset(tmp_path)
    with pytest.raises(DataError, match="no split of CoOp; put split_zhou_NAME.json"):
        CoopDataset(tmp_path / "101_ObjectCategories")
