"""Texts as people hand them over: their encodings, their line ends, the columns of their tables."""

import codecs
import re

import pytest

from clipjax import open_dataset
from clipjax.data.images.preprocess import load_preprocess
from clipjax.data.readers.list_files import class_names, find_lists, read_list
from clipjax.data.readers.tfds import find_builders
from clipjax.errors import CheckpointError, ConfigError, DataError
from clipjax.io.texts import read_text
from clipjax.model.hf.weights import read_json
from clipjax.model.prompts import read_class_names

LIST = "images/0.png,café\nimages/1.png,dog\nimages/2.png,café\nimages/3.png,dog\n"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.fixture
def root(tmp_path):
    """Four images in one folder; no reader of lists looks into them."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        (tmp_path / "images" / f"{i}.png").write_bytes(b"image")
    return tmp_path


def listed(root, content, name="photo_train.csv"):
    """(domain, split) -> class names of the images, in order, of a dataset with this list."""
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = open_dataset(root=str(root))
    given = {(d, s): dataset._parts[d, s].labels for d, s in dataset._parts}
    return {part: [dataset.classes[k] for k in labels] for part, labels in given.items()}


def refusal(root, content, name="photo_train.csv"):
    """The sentence on a list that is not read; never a long one."""
    with pytest.raises(DataError) as error:
        listed(root, content, name)
    said = str(error.value)
    assert name in said and len(said.splitlines()) == 1 and len(said) < 1500
    return said


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", MARKED)
def test_marked_texts_are_read_by_every_reader(root, encoding, ends):
    def write(name, text):
        data = MARKED[encoding] + text.replace("\n", ends).encode(encoding)
        (root / name).write_bytes(data)
        return root / name

    lines = read_list(write("a_train.csv", LIST + "\n\n"))
    assert lines.labels == ["café", "dog"] * 2 and lines.paths[3] == "images/3.png"
    assert list(lines.numbers) == [1, 2, 3, 4]
    write("classes.txt", "café\ndog\n\n \n")
    assert class_names(root) == ("café", "dog") and list(find_lists(root)) == ["a"]
    names = write("names.json", '{\n"café": "coffee house"\n}')
    assert read_class_names(names, ["café", "dog"]) == {"café": "coffee house"}
    assert read_json(names) == {"café": "coffee house"}
    write("preprocessor_config.json", '{"size": 32, "crop_size": 32}')
    assert load_preprocess(root).size == 32
    write("dataset_info.json", '{"name": "toys"}')
    assert find_builders(str(root)) == {"toys": root}


FAULTS = {
    "latin-1": ("é".encode("latin-1"), "byte 0xe9 is no UTF-8.*iconv -f ISO-8859-1"),
    "zero": (b"a\0b", "a zero byte"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_other_encodings_are_refused_with_their_line(tmp_path, fault, ends):
    path, (wrong, said) = tmp_path / "classes.txt", FAULTS[fault]
    path.write_bytes(ends.join([b"class"] * 3999 + [wrong, b"dog", b""]))
    with pytest.raises(DataError, match=f"classes.txt, line 4000: {said}"):
        class_names(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_texts_without_their_mark_are_named(root, encoding):
    said = refusal(root, LIST.encode(encoding))
    unhyphened = encoding.upper()[:-3] + encoding.upper()[-2:]  # as iconv spells it
    assert "line 1: a zero byte" in said and f"iconv -f {unhyphened} -t UTF-8" in said


def test_a_damaged_mark_and_zeros_behind_one_are_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF16_LE + "ab\ncd".encode("utf-16-le") + b"x")
    with pytest.raises(DataError, match="a.txt, line 2: byte 0x78 is no UTF-16-LE"):
        read_text(path)
    path.write_bytes(codecs.BOM_UTF16_LE + "ab\n\0d".encode("utf-16-le"))
    with pytest.raises(DataError, match="a.txt, line 2: a zero character"):
        read_text(path)


def test_class_names_and_model_files_in_latin_1(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_bytes('{"cat":\n"é"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match="class_names file .*, line 2: byte 0xe9"):
        read_class_names(path, ["cat"])
    for read in (read_json, lambda _: load_preprocess(tmp_path)):
        with pytest.raises(CheckpointError, match="line 2: byte 0xe9"):
            read(path)


def test_empty_texts(root):
    (root / "classes.txt").write_bytes(b"")
    with pytest.raises(DataError, match="classes.txt, line 1 is empty"):
        class_names(root)
    (root / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match="classes.txt, line 2 is empty"):
        class_names(root)
    (root / "a_train.txt").write_bytes(codecs.BOM_UTF8)
    with pytest.raises(DataError, match="a_train.txt lists no images"):
        read_list(root / "a_train.txt")
    (root / "names.json").write_bytes(b" \n")
    with pytest.raises(ConfigError, match="it is empty"):
        read_class_names(root / "names.json", ["cat"])


TABLES = {
    "others between": 'path,author,label\nimages/0.png,x,cat\nimages/1.png,"y, z",dog\n',
    "other order": "w;target;filepath\n3;cat;images/0.png\n4;dog;images/1.png\n",
    "an index": ",image,class\n0,images/0.png,cat\n1,images/1.png,dog\n",
    "tabs": "Image Path\tw\tClass Name\nimages/0.png\t1\tcat\nimages/1.png\t2\tdog\n",
    "semicolons": "images/0.png;cat\nimages/1.png;dog\n",
    "labels first": "cat,images/0.png\ndog,images/1.png\n",
    "a header of both": "label,path\ncat,images/0.png\ndog,images/1.png\n",
    "an odd header": "picture,breed\nimages/0.png,cat\nimages/1.png,dog\n",
    "quoted": '"images/0.png" , " cat "\n"images/1.png","dog"\n',
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_columns_are_found(root, table, suffix):
    name = f"photo_train.{suffix}"
    assert listed(root, TABLES[table], name) == {("photo", "train"): ["cat", "dog"]}


def test_a_wide_table_beside_class_folders_is_no_list_unasked(root):
    for name in ("cat", "dog"):
        (root / "photo" / name).mkdir(parents=True)
        (root / "photo" / name / "0.png").write_bytes(b"image")
    text = "filename,label,w\nphoto/cat/0.png,cat,1\nphoto/dog/0.png,dog,1\n"
    (root / "metadata.csv").write_text(text)
    (root / "images").rename(root / ".images")
    assert open_dataset(root=str(root)).domains == ("photo",)
    assert open_dataset("lists", str(root)).domains == ("metadata",)
    (root / "photo").rename(root / ".photo")  # nothing else that it could be
    (root / "metadata.csv").write_text(text.replace("photo", ".photo"))
    assert open_dataset(root=str(root)).domains == ("metadata",)


def test_quotes_between_spaces(root):
    text = 'images/0.png "t shirt"\n"images/1.png" dog\n'
    assert listed(root, text, "photo_train.txt") == {("photo", "train"): ["t shirt", "dog"]}


def test_columns_of_splits_and_domains_are_followed(root):
    rows = ["0.png,cat,train,real", "1.png,dog,Validation,real", "2.png,cat,test,toy"]
    text = "path,label,split,domain\n" + "".join(f"images/{row}\n" for row in rows)
    expected = {("real", "train"): ["cat"], ("real", "val"): ["dog"], ("toy", "test"): ["cat"]}
    assert listed(root, text, "all_list.csv") == expected
    assert "line 3 has split 'Validation', and the file is named after train" in refusal(root, text)
    (root / "photo_train.csv").unlink()
    said = refusal(root, text.replace("Validation", "fold 1"), "all_list.csv")
    assert "line 3 has split 'fold 1', and splits are train, val and test" in said
    (root / "all_list.csv").write_text(text)
    assert "both list images of domain 'real', train" in refusal(
        root, "images/0.png,cat\n", "real_train.csv"
    )


REFUSED = {
    "no header": ("images/0.png,cat,x\n", "line 1 has 3 columns and there is no header"),
    "two labels": (
        "path,label,class\nimages/0.png,0,cat\n",
        r"2 columns that may hold the label \('label', 'class'\)",
    ),
    "no label": (
        "path,author,w\nimages/0.png,x,1\n",
        r"no column for the label \('path', 'author', 'w'\).*call just one column label",
    ),
    "a split for a label": (
        "path,split\nimages/0.png,train\nimages/1.png,test\n",
        r"no column for the label \('path', 'split'\)",
    ),
    "too wide": (
        ",".join(f"c{i}" for i in range(999)) + "\nimages/0.png" + ",x" * 998 + "\n",
        r"no column for the path \('c0', .*'c9', \.\.\.\)",
    ),
    "a short row": ("path,label,w\nimages/0.png,cat,1\nimages/1.png,dog\n", "line 3: .* 3 columns"),
    "an open quote": (
        'path,label\n"images/0.png,cat\n' + "images/1.png,dog\n" * 99,
        "line 2: a quoted field does not end on its line",
    ),
    "a long open quote": ('images/0.png,cat\n"images/1.png,' + "dog " * 50000, "line 2 .*quote"),
    "a note of two lines": (
        'path,label,note\nimages/0.png,cat,"a\nb"\nimages/1.png,dog,c\n',
        "line 2: a quoted field does not end on its line",
    ),
    "an empty cell": ("path,label,w\nimages/0.png,,1\n", "line 2: .* the label is empty"),
}


@pytest.mark.parametrize("table", REFUSED)
def test_unclear_tables_are_refused_in_a_sentence(root, table):
    text, said = REFUSED[table]
    assert re.search(said, refusal(root, text))


def test_more_than_two_words_are_refused(root):
    said = refusal(root, "images/0.png cat 1\nimages/1.png dog 2\n", "photo_train.txt")
    assert "line 1 holds more than a path and a label" in said
    said = refusal(root, "images/0.png t shirt\nimages/1.png dog\n", "photo_train.txt")
    assert "line 1 holds more than a path and a label" in said  # it was taken for a header


def test_an_image_of_two_labels_is_refused(root):
    boxes = "filename,class,xmin\nimages/0.png,cat,1\nimages/1.png,dog,2\nimages/0.png,{},3\n"
    expected = {("photo", "train"): ["cat", "dog", "cat"]}
    assert listed(root, boxes.format("cat")) == expected
    said = refusal(root, boxes.format("dog"))
    assert "line 4: image 'images/0.png' has label 'dog', and 'cat' in line 2" in said
    assert "line 1 names two images" in refusal(root, "images/0.png,images/1.png\n")


def test_messages_stay_short(root):
    for text in ("images/0.png,0\nimages/1.png," + "z" * 5000, "images/{}.png,cat\n"):
        refused = text.format("q" * 5000) * 9
        (root / "photo_train.csv").write_text(refused)
        with pytest.raises(DataError) as error:
            open_dataset(root=str(root))
        assert len(str(error.value)) < 1500


def test_other_stores_are_no_place_for_data(tmp_path):
    with pytest.raises(DataError, match="data.root 'gs://b/x' is in an object store"):
        open_dataset("folder", "gs://b/x")
    with pytest.raises(DataError, match="data.lists 'gs://b/x' is in an object store"):
        open_dataset("lists", str(tmp_path), lists="gs://b/x")
