"""List files: DomainNet as published, in folders and in zips, and anyone's own lists."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from clipjax import open_dataset
from clipjax.data.readers.list_files import find_lists, read_list
from clipjax.data.readers.lists import ListDataset
from clipjax.data.splits import SPLITS
from clipjax.errors import ConfigError, DataError

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
CLASSES = {0: "aircraft_carrier", 1: "axe", 327: "t-shirt", 328: "table"}  # of the official 345


def encoded(*seed):
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def paths_of(domain, classes=CLASSES, count=6):
    """(path, label) as the official lists have them; painting has no t-shirt."""
    d = DOMAINS.index(domain)
    held = {label: name for label, name in classes.items() if (domain, label) != ("painting", 327)}
    return [
        (f"{domain}/{name}/{domain}_{label + 1:03d}_{i:06d}.png", label, (d, label, i))
        for label, name in held.items()
        for i in range(count)
    ]


def write_lists(folder, domain, rows):
    """Two thirds train, one third test."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", [0, 1, 2, 3]), ("test", [4, 5])):
        lines = [f"{path} {label}\n" for path, label, (_, _, i) in rows if i in part]
        (folder / f"{domain}_{split}.txt").write_text("".join(lines))


def unpack(root, domain, rows):
    for path, _, seed in rows:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(*seed))


def pack(root, domain, rows):
    with zipfile.ZipFile(root / f"{domain}.zip", "w") as archive:
        archive.mkdir(f"{domain}/")
        for number, (path, _, seed) in enumerate(rows):
            kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(path, encoded(*seed), compress_type=kind)


@pytest.fixture(params=[pack, unpack], ids=["zips", "folders"])
def domainnet(request, tmp_path):
    """The six domains, as downloaded or unpacked, with the official lists beside them."""
    for domain in DOMAINS:
        rows = paths_of(domain)
        request.param(tmp_path, domain, rows)
        write_lists(tmp_path, domain, rows)
    return tmp_path


def test_the_official_files(domainnet):
    dataset = open_dataset("domainnet", str(domainnet))
    assert (dataset.name, dataset.domains, dataset.skipped) == ("domainnet", DOMAINS, ())
    assert dataset.classes == tuple(CLASSES.values()) == dataset.classes_of("painting")
    for domain in DOMAINS:
        seeds = {path: seed for path, _, seed in paths_of(domain)}
        found = {}
        for split in SPLITS:
            source = dataset.source(domain, split)
            for i in range(len(source)):
                example = source[i]
                path = example.name[example.name.index(f"/{domain}/") + 1 :]
                path = path[path.index(f"{domain}/") :]
                assert dataset.classes[example.label] == path.split("/")[1]
                assert example.image == encoded(*seeds[path])
                found[path] = split
        assert found.keys() == seeds.keys()
        tests = {path for path, split in found.items() if split == "test"}
        assert tests == {path for path, seed in seeds.items() if seed[2] > 3}
    assert 2 not in dataset.source("painting", "test").labels
    assert 2 in dataset.source("real", "test").labels


def test_sources_travel_to_workers(domainnet):
    source = ListDataset(domainnet).source("real", "train")
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source) and copy[3] == source[3]
    assert repr(source) != repr(ListDataset(domainnet).source("real", "test"))


def test_smaller_lists_of_the_same_images(domainnet):
    """DomainNet-126 numbers fewer classes anew and gives no splits; mini-DomainNet gives splits."""
    fewer = {0: "axe", 1: "t-shirt"}
    for domain in ("clipart", "real"):
        rows = {path: seed for path, _, seed in paths_of(domain)}
        again = [
            (path, label, seed)
            for label, name in fewer.items()
            for path, seed in rows.items()
            if f"/{name}/" in path
        ]
        lines = [f"{path} {label}\n" for path, label, _ in again]
        (domainnet / "lists126").mkdir(exist_ok=True)
        (domainnet / "lists126" / f"{domain}_list.txt").write_text("".join(lines))
        write_lists(domainnet / "splits_mini", domain, again)
    whole = open_dataset("lists", str(domainnet), lists="lists126", fractions=(0.5, 0.2, 0.3))
    assert whole.domains == ("clipart", "real") and whole.classes == ("axe", "t-shirt")
    assert sum(len(whole.source("real", split)) for split in SPLITS) == 12
    mini = ListDataset(domainnet, str(domainnet / "splits_mini"))
    assert mini.classes == whole.classes and len(mini.source("clipart", "test")) == 4
    for list_file in domainnet.glob("*.txt"):
        list_file.unlink()
    assert open_dataset(root=str(domainnet)).classes == mini.classes  # the only ones left


def test_lists_of_two_kinds_are_not_mixed(domainnet):
    (domainnet / "real_list.txt").write_text("real/axe/real_002_000000.png 0\n")
    with pytest.raises(DataError, match="real_list.txt.*two lists.*data.lists"):
        ListDataset(domainnet)
    (domainnet / "real_list.txt").unlink()
    (domainnet / "real_test.txt").write_text("real/axe/real_002_000000.png 0\n")
    with pytest.raises(DataError, match="real_test.txt, line 1: class 'axe' has label 0"):
        ListDataset(domainnet)


def test_missing_images_are_counted(domainnet):
    with (domainnet / "real_train.txt").open("a") as file:
        file.writelines(f"real/axe/none{i}.png 1\n" for i in range(7))
    with pytest.raises(DataError, match="7 of 145 .*none0.png.*none4.png, ...") as error:
        ListDataset(domainnet)
    assert "none5" not in str(error.value)


def test_empty_images_are_skipped(domainnet):
    path = "real/axe/real_002_000000.png"
    if (domainnet / "real").is_dir():
        (domainnet / path).write_bytes(b"")
    else:
        rows = paths_of("real")
        with zipfile.ZipFile(domainnet / "real.zip", "w") as archive:
            for name, _, seed in rows:
                archive.writestr(name, b"" if name == path else encoded(*seed))
    dataset = ListDataset(domainnet)
    assert [(s.name.endswith(path), s.reason) for s in dataset.skipped] == [
        (True, "empty, 0 bytes")
    ]
    assert sum(len(dataset.source("real", split)) for split in SPLITS) == 23


@pytest.fixture
def zipped(tmp_path):
    rows = paths_of("real")
    pack(tmp_path, "real", rows)
    write_lists(tmp_path, "real", rows)
    return tmp_path


def test_incomplete_and_damaged_archives_are_named(zipped):
    archive = zipped / "real.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="real.zip is damaged or incomplete"):
        ListDataset(zipped)
    archive.write_bytes(whole)
    source, changed = ListDataset(zipped).source("real", "test"), archive.stat().st_mtime_ns
    for place in range(0, len(whole), 97):  # whatever is hit: its image or a sentence
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        os.utime(archive, ns=(changed, changed))  # as a bad disk does: the date stays
        for i in range(len(source)):
            try:
                source[i]
            except DataError as error:
                assert "real.zip/real/" in str(error)
    archive.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source[0]


def test_archives_that_cannot_be_read_in_place(zipped):
    (path, *_) = paths_of("real")[0]
    with zipfile.ZipFile(zipped / "real.zip", "w") as archive:
        for name, _, seed in paths_of("real"):
            archive.writestr(name, encoded(*seed), compress_type=zipfile.ZIP_BZIP2)
    with pytest.raises(DataError, match=f"{path}.*other than deflate"):
        ListDataset(zipped)


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "heic"])
def test_lists_of_images_of_other_names_are_lists(tmp_path, suffix):
    own(tmp_path, photo__txt="".join(f"images/{i}.{suffix} {i % 2}\n" for i in range(6)))
    for i in range(6):
        (tmp_path / "images" / f"no {i}.png").rename(tmp_path / "images" / f"{i}.{suffix}")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = open_dataset(root=str(tmp_path), fractions=(1, 0, 0))
    assert dataset.domains == ("photo",) and len(dataset.source("photo", "train")) == 6


def test_a_changed_archive_changes_the_source(zipped):
    before = repr(ListDataset(zipped).source("real", "test"))
    rows = [(path, label, (9, *seed)) for path, label, seed in paths_of("real")]
    pack(zipped, "real", rows)
    assert repr(ListDataset(zipped).source("real", "test")) != before


def own(root, **lists):
    """A dataset of 2 x 3 images in one flat folder, with these list files."""
    (root / "images").mkdir(exist_ok=True)
    for i in range(6):
        (root / "images" / f"no {i}.png").write_bytes(encoded(i))
    for name, text in lists.items():
        (root / name.replace("__", ".")).write_text(text)
    return root


@pytest.mark.parametrize(
    "line, header, suffix",
    [
        ("images/no {i}.png {name}", "", "txt"),
        ("images/no {i}.png {name}", "path label", "txt"),
        ("images/no {i}.png,{name}", "", "txt"),
        ('"images/no {i}.png", "{name}"', "image,label", "csv"),
        ("./images/no {i}.png\t{name}", "", "txt"),
        ("images/no {i}.png\t{name}\r", "file\tclass\r", "tsv"),
    ],
)
@pytest.mark.parametrize("numbered", [False, True])
def test_ways_to_write_a_list(tmp_path, line, header, suffix, numbered):
    names = ("0", "1") if numbered else ("cat", "dog")
    lines = [line.format(i=i, name=names[i % 2]) for i in range(6)]
    text = "\n".join([header] * bool(header) + lines[:2] + [""] + lines[2:]) + "\n"
    own(tmp_path, **{f"photo__{suffix}": text}, classes__txt="cat\ndog\n")
    dataset = open_dataset(root=str(tmp_path), fractions=(1, 0, 0))
    assert dataset.domains == ("photo",) and dataset.classes == ("cat", "dog")
    source = dataset.source("photo", "train")
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 1] and source[3].image == encoded(3)


def test_labels_are_checked_with_their_line(tmp_path):
    rows = [f"images/no {i}.png" for i in range(3)]
    own(tmp_path, a_train__txt=f"{rows[0]} 0\n{rows[1]} 2\n", classes__txt="cat\ndog\n")
    with pytest.raises(DataError, match="a_train.txt, line 2: label '2' is not within 0 and 1"):
        ListDataset(tmp_path)
    own(tmp_path, a_train__txt=f"{rows[0]} 0\n{rows[1]} -1\n")
    with pytest.raises(DataError, match="line 2: label '-1'"):
        ListDataset(tmp_path)
    own(tmp_path, a_train__txt=f"{rows[0]} cat\n\n{rows[1]} cow\n")
    with pytest.raises(DataError, match="line 3: label 'cow' is not in classes.txt"):
        ListDataset(tmp_path)
    own(tmp_path, a_train__txt=f"{rows[0]} 0\n{rows[1]} cow\n")
    with pytest.raises(DataError, match="line 2: label 'cow' is a name where others are numbers"):
        ListDataset(tmp_path)
    own(tmp_path, a_train__txt=f"{rows[0]} 0\n{rows[1]} 0\nonly/a/path.png\n")
    with pytest.raises(DataError, match="line 3: expected a path and a label"):
        ListDataset(tmp_path)
    own(tmp_path, a_train__txt=f"{rows[0]} 0\n", classes__txt="cat\ncat\n")
    with pytest.raises(DataError, match="a different one"):
        ListDataset(tmp_path)


def test_an_image_with_a_label_in_two_splits_is_refused(tmp_path):
    """It would be trained on and tested; a list without labels may name test images, too."""
    lines = [f"images/no {i}.png {('cat', 'dog')[i % 2]}\n" for i in range(6)]
    own(tmp_path, a_train__txt="".join(lines[:4]), a_test__txt="".join(lines[3:]))
    told = r"a_test.txt, line 1: image 'images/no 3.png' is of test, and of train in .*a_train.txt"
    with pytest.raises(DataError, match=told + r", line 4 \(1 image in all\)"):
        ListDataset(tmp_path)
    own(tmp_path, a_test__txt="".join(lines[4:]), a_unlabeled__txt='"images/no 4.png"\n')
    assert len(ListDataset(tmp_path).source("a", "test")) == 2
    for name in ("a_test.txt", "a_train.txt", "a_unlabeled.txt"):
        (tmp_path / name).unlink()
    rows = [f"{line.rsplit(' ', 1)[0]},{line.split()[-1]},train\n" for line in lines]
    own(tmp_path, a__csv="".join(["path,label,split\n", *rows, rows[2].replace("train", "test")]))
    with pytest.raises(DataError, match="a.csv, line 8: image .* of train in .*a.csv, line 4"):
        ListDataset(tmp_path)


def test_flat_folders_need_names(tmp_path):
    own(tmp_path, a_train__txt="images/no 0.png 0\nimages/no 1.png 1\n")
    with pytest.raises(DataError, match="line 2: class 'images' has label 1.*classes.txt"):
        ListDataset(tmp_path)


def test_numbers_may_begin_anywhere(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded(1))
    (tmp_path / "a_train.txt").write_text("dog/1.png 7\ncat/1.png 1\n")
    source = ListDataset(tmp_path, fractions=(1, 0, 0)).source("a", "train")
    assert source.classes == ("cat", "dog") and source.labels.tolist() == [1, 0]


def test_absolute_paths_need_no_root(tmp_path):
    own(tmp_path)
    (tmp_path / "own").mkdir()
    lines = "".join(f"{tmp_path}/images/no {i}.png,thing\n" for i in range(6))
    (tmp_path / "own" / "a_test.csv").write_text(lines)
    dataset = open_dataset("lists", lists=str(tmp_path / "own"))
    assert sum(len(dataset.source("a", split)) for split in SPLITS) == 6


def test_classes_with_few_images_are_trained_on_then_tested(tmp_path):
    own(tmp_path, a_list__txt="images/no 0.png cat\nimages/no 1.png cat\nimages/no 2.png dog\n")
    found = ListDataset(tmp_path)
    assert [sorted(found.source("a", s).labels) for s in SPLITS] == [[0, 1], [], [0]]


def test_lists_are_found_by_their_names(tmp_path):
    own(tmp_path, readme__txt="about the data", notes_1__txt="", a__txt="images/no 0.png 0\n")
    assert {d: list(found) for d, found in find_lists(tmp_path).items()} == {"a": [""]}
    own(tmp_path, real_world_train__txt="images/no 0.png 0\n")
    assert list(find_lists(tmp_path)) == ["real_world"]
    with pytest.raises(DataError, match="holds no list files"):
        ListDataset(tmp_path / "images")
    with pytest.raises(DataError, match="nowhere"):
        ListDataset(tmp_path, "nowhere")
    with pytest.raises(ConfigError, match="data.root"):
        open_dataset("domainnet")


def test_what_is_only_called_like_a_list_is_none(folder_dataset):
    """PACS comes with such files: of classes, not of images."""
    (folder_dataset / "class_list.txt").write_text("0 dog\n1 cat\n")
    assert open_dataset(root=str(folder_dataset)).domains == ("real", "sketch")
    with pytest.raises(DataError, match="class_list.txt|listed images"):
        open_dataset("lists", str(folder_dataset))
    (folder_dataset / "image_list").mkdir()
    (folder_dataset / "image_list" / "real.txt").write_text("real/red/0.png 0\n")
    assert open_dataset(root=str(folder_dataset)).domains == ("real",)
    (folder_dataset / "image_list" / "real.txt").unlink()
    lines = "sketch/red/0.png 0\nsketch/red/1.png 0\n"
    (folder_dataset / "sketch_Validation.txt").write_text(lines)
    dataset = open_dataset(root=str(folder_dataset))
    assert dataset.domains == ("sketch",) and dataset._given == {"sketch": ("val",)}


def test_a_list_that_begins_badly_is_not_left_out(folder_dataset):
    (folder_dataset / "real_test.txt").write_text("real/red/0.png 0\n")
    (folder_dataset / "real_train.txt").write_text("real/red/1.png\nreal/red/2.png 0\n")
    with pytest.raises(DataError, match="real_train.txt, line 1"):
        open_dataset(root=str(folder_dataset))


def test_zips_without_lists(zipped):
    (zipped / "splits").mkdir()
    for file in zipped.glob("*.txt"):
        file.unlink()
    for name in ("domainnet", "folder", "auto"):
        with pytest.raises(DataError, match=r"holds \d zips.*no lists: put real_train.txt"):
            open_dataset(name, str(zipped))


def test_lists_without_images_beside_folders(folder_dataset):
    (folder_dataset / "real_train.txt").write_text("real/red/99.png 0\n")
    with pytest.raises(DataError, match="1 of 1 listed.*--config.data.name=folder"):
        open_dataset(root=str(folder_dataset))


def test_names_that_contradict_the_folders_are_refused(folder_dataset):
    lines = "real/red/0.png 0\nreal/red/1.png 0\nreal/blue/0.png 1\nreal/blue/1.png 1\n"
    (folder_dataset / "real_train.txt").write_text(lines)
    (folder_dataset / "classes.txt").write_text("\ufeffred\nblue\n", "utf-8")
    assert ListDataset(folder_dataset).classes == ("red", "blue")
    (folder_dataset / "classes.txt").write_text("Rot\nBlau\n")
    assert ListDataset(folder_dataset).classes == ("Rot", "Blau")
    (folder_dataset / "classes.txt").write_text("blue\nred\n")
    with pytest.raises(DataError, match="line 1: .*'red' has label 0, but .* calls 0 'blue'"):
        ListDataset(folder_dataset)


def test_unreadable_lists_are_named(tmp_path):
    (tmp_path / "a_train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="a_train.txt, line 1: byte 0x00 is no UTF-16"):
        read_list(tmp_path / "a_train.txt")
    (tmp_path / "a_train.txt").write_text("path label\n")
    with pytest.raises(DataError, match="lists no images"):
        read_list(tmp_path / "a_train.txt")


def test_folders_and_lists_split_alike(folder_dataset):
    """The same hash of class and name, so an own list of a folder's images keeps its splits."""
    folder = open_dataset("folder", str(folder_dataset))
    paths = sorted(folder_dataset.glob("real/*/*.png"))
    lines = [f"{path.relative_to(folder_dataset)} {path.parent.name}\n" for path in paths]
    (folder_dataset / "real_list.txt").write_text("".join(lines))
    listed = ListDataset(folder_dataset)
    for split in SPLITS:
        one, two = folder.source("real", split), listed.source("real", split)
        assert [one[i] for i in range(len(one))] == [two[i] for i in range(len(two))]
