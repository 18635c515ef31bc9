"""What a label means: numbers however they are written, names in one form, each class once."""

import decimal
import hashlib
import json
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipjax import open_dataset
from clipjax.configs import dann
from clipjax.data.classes import match_classes
from clipjax.data.dataset import ArraySource
from clipjax.data.readers import folder_index as index
from clipjax.data.readers.folders import FolderDataset
from clipjax.data.readers.lists import ListDataset
from clipjax.data.readers.parquet import ParquetDataset
from clipjax.errors import ConfigError, DataError
from clipjax.model.prompts import read_class_names
from clipjax.study.workdir import config_text
from tests.conftest import parsed

NAMES = ("cat", "dog", "emu")
NFC, NFD = "café", unicodedata.normalize("NFD", "café")


def images(root, *folders, count=4):
    """Files that are images by their names: nothing here looks into them."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / folder / f"{i}.png").write_bytes(b"image")
    return root


def listed(root, labels, classes=NAMES, folder="images"):
    """The class names that a list of these labels gives its images."""
    images(root, folder, count=len(labels))
    lines = (f"{folder}/{i}.png,{label}\n" for i, label in enumerate(labels))
    (root / "photo_train.csv").write_text("".join(lines))
    if classes:
        (root / "classes.txt").write_text("\n".join(classes))
    dataset = ListDataset(root)
    return [dataset.classes[k] for k in dataset._parts["photo", "train"].labels]


def stored(root, labels, classes=(), names=None, file="train.parquet", **columns):
    """A dataset of Parquet files; its rows' class names are in `named`."""
    labels = labels if isinstance(labels, pa.Array) else pa.array(labels)
    pictures = [{"bytes": b"image %d" % i} for i in range(len(labels))]
    table = pa.table({"image": pictures, "label": labels, **columns})
    if names is not None:
        feature = {"label": {"_type": "ClassLabel", "names": names}}
        noted = json.dumps({"info": {"features": feature}})
        table = table.replace_schema_metadata({"huggingface": noted})
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / file)
    if classes:
        (root / "classes.txt").write_text("\n".join(classes))
    return ParquetDataset(root)


def named(dataset):
    """The class name of each row; None where it has none."""
    return [dataset.classes[k] if k >= 0 else None for k in dataset._labels]


# Texts of the numbers 0, 1, 2, 1.
NUMBERS = {
    "floats": ["0.0", "1.0", "2.0", "1.0"],
    "with a point": ["0.", "1.", "2.00", ".1e1"],
    "exponents": ["0e0", "1e0", "2E+0", "10e-1"],
    "zeros in front": ["00", "01", "002", "1"],
    "signs": ["-0", "+1", "+2", "1"],
    "mixed": ["0", "1.0", "2", "01"],
    "quoted": ['" 0"', '"1 "', '"2"', "1"],
}


@pytest.mark.parametrize("way", NUMBERS)
def test_numbers_in_lists(tmp_path, way):
    assert listed(tmp_path, NUMBERS[way]) == ["cat", "dog", "emu", "dog"]


def test_numbers_that_folders_name(tmp_path):
    images(tmp_path, "cat", "dog")
    (tmp_path / "a_train.txt").write_text("cat/0.png 0.0\ndog/0.png 1.0\ndog/1.png 1\n")
    dataset = ListDataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset._parts["a", "train"].labels.tolist() == [0, 1, 1]


BAD_NUMBERS = {
    "a fraction": (["0", "1.5"], "line 2: label '1.5' is no whole number"),
    "a decimal comma": (["0", '"1,0"'], "line 2: label '1,0' is no whole number"),
    "too small": (["0", "-1.0"], "line 2: label '-1.0' is not within 0 and 2"),
    "too large": (["0", "1e400"], "line 2: label '1e400' is no whole number"),
    "from 1": (["1.0", "2", "3"], "line 3: label '3' .*labels run from 1 to 3: number them from 0"),
    "missing": (["0.0", "nan"], "line 2: label 'nan' says that there is none"),
    "missing, newer": (["0", "<NA>"], "line 2: label '<NA>' says that there is none"),
    "empty": (["0.0", ""], "line 2: .* the label is empty"),
    "a name": (["0.0", "cow"], "line 2: label 'cow' is a name where others are numbers"),
}


@pytest.mark.parametrize("way", BAD_NUMBERS)
def test_bad_numbers_in_lists(tmp_path, way):
    labels, said = BAD_NUMBERS[way]
    with pytest.raises(DataError, match=said):
        listed(tmp_path, labels)


def test_names_that_are_numbers(tmp_path):
    """Labels that are names of `classes.txt` are these names; what could be either is refused."""
    digits = ("1", "2", "3")
    assert listed(tmp_path, ["1", "2", "3"], digits) == ["1", "2", "3"]
    assert listed(tmp_path, ["1.0", "2.0", "3.0"], digits) == ["1", "2", "3"]
    assert listed(tmp_path, ["1", "0"], ("0", "1")) == ["1", "0"]
    assert listed(tmp_path, ["7", "cat"], ("cat", "7")) == ["7", "cat"]
    with pytest.raises(DataError, match="line 1: label '1' may be number 1 of classes.txt"):
        listed(tmp_path, ["1", "2"], digits)
    with pytest.raises(DataError, match="label '1' may be number 1 of classes.txt"):
        stored(tmp_path / "other", [1, 2], digits)
    assert named(stored(tmp_path / "third", [1, 2, 3], digits)) == ["1", "2", "3"]


def decimals(*texts):
    return pa.array([None if t is None else decimal.Decimal(t) for t in texts])


# Columns of the numbers 0, 1, none, 2.
COLUMNS = {
    "float64": [0.0, 1.0, None, 2.0],
    "NaN": pa.array(np.array([0, 1, np.nan, 2])),
    "float32": pa.array([0, 1, None, 2], pa.float32()),
    "float16": pa.array(np.array([0, 1, -1, 2], np.float16)),
    "decimal": decimals("0.00", "1.00", None, "2.00"),
    "uint8": pa.array([0, 1, None, 2], pa.uint8()),
    "uint64": pa.array([0, 1, None, 2], pa.uint64()),
    "strings": ["0", "1", None, "2"],
    "strings of floats": ["0.0", "1.0", "nan", "2.0"],
    "other strings": ["00", " 1", "", "+2"],
    "dictionary of ints": pa.array([0, 1, None, 2]).dictionary_encode(),
    "dictionary of floats": pa.array([0.0, 1.0, None, 2.0]).dictionary_encode(),
    "dictionary of strings": pa.array(["0", "1", None, "2"]).dictionary_encode(),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_numbers_in_parquet(tmp_path, column):
    expected = ["cat", "dog", None, "emu"]
    assert named(stored(tmp_path / "a", COLUMNS[column], NAMES)) == expected
    assert named(stored(tmp_path / "b", COLUMNS[column], names=NAMES)) == expected
    with pytest.raises(DataError, match=r"b.*train.parquet are numbers.* without names"):
        stored(tmp_path / "c" / "b", COLUMNS[column])


def test_truth_values_are_numbers(tmp_path):
    assert named(stored(tmp_path, [True, None, False], ("no", "yes"))) == ["yes", None, "no"]


@pytest.mark.parametrize(
    "column, said",
    [
        ([0.0, 1.5], "column 'label' .* holds 1.5"),
        ([0.0, float("inf")], "holds inf"),
        (decimals("0.0", "0.5"), "holds 0.5"),
        ([-2.0, 0.0], "holds -2; numbers start at 0"),
        (pa.array([0, 2**63 + 5], pa.uint64()), "holds 9223372036854775813"),
        ([0, 2**40], "holds 1099511627776"),
        ([0, 300], "300.*0 .*2"),
        (["0", "3"], "'3' is not within 0 and 2"),
        (["1", "2", "3"], "labels run from 1 to 3: number them from 0"),
        (["0", "1.5"], "'1.5' is no whole number"),
        (["cat", "cow"], "'cow' is not in"),
        (pa.array([b"cat", b"caf\xe9"]), "no UTF-8"),
        (pa.array([1, 2], pa.date32()), "must be integers or strings"),
    ],
)
def test_bad_numbers_in_parquet(tmp_path, column, said):
    for number, how in enumerate(({"classes": NAMES}, {"names": NAMES})):
        with pytest.raises(DataError, match=said):
            stored(tmp_path / str(number), column, **how)


def test_shards_of_numbers_and_names(tmp_path):
    """Each file by the names that it declares; one without any beside them is not guessed."""
    stored(tmp_path, [0, 1], names=["cat", "dog"], file="train-0.parquet")
    dataset = stored(tmp_path, [0, 1], names=["dog", "cat"], file="train-1.parquet")
    assert named(dataset) == ["cat", "dog", "dog", "cat"]
    with pytest.raises(DataError, match="train-2.parquet are numbers in strings, like '0'"):
        stored(tmp_path, ["0", "1"], file="train-2.parquet")
    assert named(stored(tmp_path / "ocr", ["A", "0"])) == ["A", "0"]


TWICE = {"equal": ["cat", "dog", "cat"], "forms": [NFC, "dog", NFD], "blanks": ["cat", "x", "cat "]}


@pytest.mark.parametrize("way", TWICE)
def test_a_name_twice_is_refused_in_every_table(tmp_path, way):
    names, said = TWICE[way], "classes 0 and 2 the same name"
    with pytest.raises(DataError, match=f"ClassLabel 'label' of .*train.parquet gives {said}"):
        stored(tmp_path, [0, 1, 2], names=names)
    with pytest.raises(DataError, match=said):
        ArraySource([b"image"], [0], classes=names, domain="a")
    with pytest.raises(DataError, match="classes.txt, line 3 names .* again, as line 1 does"):
        listed(tmp_path, ["0", "1"], names)
    pairs = (
        f"{json.dumps(name)}: {json.dumps(called)}"
        for name, called in zip(names, "abc", strict=True)
    )
    (tmp_path / "names.json").write_text("{" + ", ".join(pairs) + "}")
    with pytest.raises(ConfigError, match="names class .* twice"):
        read_class_names(tmp_path / "names.json", [NFC, "cat", "dog"])


def test_other_faults_of_declared_names(tmp_path):
    assert named(stored(tmp_path, [0, 1], names={"1": "dog", "0": "cat"})) == ["cat", "dog"]
    for names, said in [(["cat", " "], "class 1 an empty name"), ([3, 4], "3 for a name")]:
        with pytest.raises(DataError, match=said):
            stored(tmp_path, [0, 1], names=names)
    with pytest.raises(DataError, match="number its names from 0"):
        stored(tmp_path, [0, 1], names={"1": "cat", "2": "dog"})


def test_class_names_tell_classes_apart(tmp_path):
    file, classes = tmp_path / "names.json", ["cat", "dog", NFC]
    file.write_text(json.dumps({NFD: "coffee house", "cat": "dog", "dog": "cat"}))
    expected = {NFC: "coffee house", "cat": "dog", "dog": "cat"}
    assert read_class_names(file, classes) == expected
    for content, said in [
        ({"cat": "dog"}, "calls class 'cat' 'dog', as class 'dog' is called"),
        ({"cat": "sea_lion", "dog": "sea lion"}, "as class 'cat' is called"),
        ({"cat": " "}, "class 'cat' an empty name"),
        ({"cat": "\ud800"}, "class 'cat' half a character"),
        ({"0": "cat", "1": "dog"}, "Classes go by their names, not by numbers"),
    ]:
        file.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=said):
            read_class_names(file, classes)
    file.write_text(json.dumps({str(k): "x" for k in range(900)}))
    with pytest.raises(ConfigError) as error:
        read_class_names(file, [f"class {k}" for k in range(900)])
    assert len(str(error.value)) < 1000


def test_folders_of_two_forms_are_one_class_and_domain(tmp_path):
    images(tmp_path, f"real/{NFC}", "real/dog", f"sk{NFD}/{NFD}", f"sk{NFD}/dog")
    dataset = FolderDataset(tmp_path)
    assert dataset.classes == (NFC, "dog") and dataset.domains == ("real", f"sk{NFC}")
    for name in (f"sk{NFC}", f"sk{NFD}"):
        same, notes = match_classes(dataset, "real", name, [])
        assert same is dataset and not notes
        files = dataset.source(name, "train").files
        assert all((tmp_path / files.path(i)).is_file() for i in range(len(files)))


@pytest.mark.parametrize(
    "folders",
    [
        (f"a/{NFC}", f"a/{NFD}"),
        (f"{NFC}/a", f"{NFD}/a"),
        ("a/cat", "a/cat "),
        (f"a/train/{NFC}", f"a/train/{NFD}", "a/test/b"),
    ],
)
def test_two_folders_of_one_name_are_refused(tmp_path, folders):
    images(tmp_path, *folders)
    with pytest.raises(DataError, match="two folders for '(café|cat)', '(caf|cat).*' and"):
        FolderDataset(tmp_path)


def test_letter_case_tells_classes_apart(tmp_path):
    images(tmp_path, "a/Turkey", "a/turkey")
    assert FolderDataset(tmp_path).classes == ("Turkey", "turkey")


@pytest.mark.parametrize("disk, told", [(NFD, NFC), (NFC, NFD)])
def test_lists_and_folders_in_two_forms(tmp_path, disk, told):
    images(tmp_path, f"ré{disk}/{disk}", f"ré{disk}/dog")
    lines = "".join(f"ré{told}/{c}/{i}.png {c}\n" for c in (told, "dog") for i in range(4))
    (tmp_path / f"ré{told}_list.txt").write_text(lines)
    lists = ListDataset(tmp_path)
    assert lists.domains == (f"ré{NFC}",) and lists.classes == (NFC, "dog")
    folders = open_dataset("folder", str(tmp_path))
    for split in ("train", "val", "test"):  # by the same hash, whatever the form
        one, two = lists.source(f"ré{told}", split), folders.source(f"ré{disk}", split)
        assert [one[i] for i in range(len(one))] == [two[i] for i in range(len(two))]


def test_lists_of_both_forms(tmp_path):
    assert listed(tmp_path, [NFC, NFD, "dog"], (NFD, "dog")) == [NFC, NFC, "dog"]
    images(tmp_path, NFC, "dog")
    lines = f"{NFC}/0.png 0\n{NFD}/1.png 0\ndog/0.png 1\n"
    (tmp_path / "photo_train.csv").unlink()
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "photo_train.txt").write_text(lines)
    assert ListDataset(tmp_path).classes == (NFC, "dog")
    (tmp_path / "classes.txt").write_text(f"dog\n{NFD}\n")
    with pytest.raises(DataError, match="'café' has label 0, but classes.txt calls 0 'dog'"):
        ListDataset(tmp_path)


def test_parquet_of_both_forms(tmp_path):
    stored(tmp_path, [NFC, "dog "], file="photo/train.parquet")
    dataset = stored(tmp_path, ["dog", NFD], file=f"{NFD}/train.parquet")
    assert set(dataset.domains) == {"photo", NFC} and dataset.classes == (NFC, "dog")
    assert dataset.classes_of(NFD) == dataset.classes_of("photo") == (NFC, "dog")
    dataset = stored(tmp_path / "column", ["a", "b"], domain=[NFC, NFD])
    assert dataset.domains == (NFC,)
    assert named(stored(tmp_path / "listed", [NFD, "dog"], ("dog", NFC))) == [NFC, "dog"]
    assert named(stored(tmp_path / "declared", [0, 1], names=[NFD, "dog"])) == [NFC, "dog"]


def test_a_config_names_domains_in_one_form():
    config = dann.get_config()
    texts = []
    for name in (NFC, NFD):
        config.data.source, config.data.domains = name, (name, "sketch")
        config.sweep = ({"data.target": (name, "sketch")},)
        config.methods.dann.data = {"target": name}
        texts.append(config_text(parsed(config)))
    assert texts[0] == texts[1] and config.data.source == NFD


def test_an_index_of_the_former_meaning_is_not_read(tmp_path, monkeypatch):
    """Its positions are hashes of names as the disk spells them."""
    images(tmp_path / "data", f"real/{NFD}", "real/dog")
    with monkeypatch.context() as former:
        former.setattr(index, "FORMAT", 2)
        found = index.find_files(tmp_path / "data", tmp_path / "cache", least=0)
        index.save_index(index.index_path(tmp_path / "data", tmp_path / "cache"), found)
    again = index.find_files(tmp_path / "data", tmp_path / "cache", least=0)
    assert index.load_index(index.index_path(tmp_path / "data", tmp_path / "cache")) is None
    keys = [f"{found.folders[f][2]}/{n}" for f, n in zip(again.folder, again.names, strict=True)]
    composed = [unicodedata.normalize("NFC", key).encode() for key in keys]
    digests = [hashlib.sha256(key).digest()[:8] for key in composed]
    expected = [int.from_bytes(digest, "big") / 2**64 for digest in digests]
    assert again.positions.tolist() == expected
