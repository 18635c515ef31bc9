"""Images with masks as they lie on disk: published layouts, folders, Parquet; tables; faults."""

import io
import json
import pickle
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipjax.data.masks import LabelFault, SizeFault
from clipjax.data.open_masks import open_masks, recognise_masks
from clipjax.data.readers.mask_files import decode_mask, masked
from clipjax.data.readers.mask_labels import (
    ADE20K,
    CITYSCAPES,
    KNOWN,
    VOC,
    LabelTable,
    read_table,
)
from clipjax.errors import ConfigError, DataError
from tests.data import mask_sets
from tests.data.mask_sets import NAMES, save, scene


def parts(dataset):
    """(domain, split) -> number of images with masks."""
    return {
        (d, s): len(dataset.source(d, s)) for d in dataset.domains for s in dataset.splits_of(d)
    }


@pytest.mark.parametrize(
    ("kind", "raw"), [("labelIds", (7, 26, 4)), ("labelTrainIds", (0, 13, 255))]
)
def test_cityscapes_is_read_through_the_table_of_its_ids(tmp_path, kind, raw):
    mask_sets.cityscapes(tmp_path, kind)
    assert recognise_masks(tmp_path).name == "cityscapes"
    found = open_masks(root=str(tmp_path))
    assert found.classes == CITYSCAPES and len(CITYSCAPES) == 19
    assert parts(found) == {("cityscapes", "train"): 2, ("cityscapes", "val"): 2}  # test is void
    one = found.source("cityscapes", "train")[1]
    image, mask = scene(1 + 10 * len("train"), values=raw)
    assert np.array_equal(one.image, image) and one.name.endswith(
        "bonn_000000_000001_leftImg8bit.png"
    )
    assert np.array_equal(one.mask, np.select([mask == raw[0], mask == raw[1]], [0, 13], 255))


def test_the_table_of_cityscapes_is_the_official_one():
    numbers = KNOWN["cityscapes"].numbers
    known = {7: "road", 8: "sidewalk", 11: "building", 17: "pole", 19: "traffic light", 23: "sky"}
    known |= {24: "person", 26: "car", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
    assert {CITYSCAPES[numbers[value]] for value in known} == set(known.values())
    assert all(CITYSCAPES[numbers[value]] == name for value, name in known.items())
    assert sorted(v for v in numbers.values() if v != 255) == list(range(19))
    assert all(numbers[v] == 255 for v in (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30))


def test_conditions_of_acdc_are_domains_and_reference_images_are_left_out(tmp_path):
    found = open_masks("acdc", str(mask_sets.acdc(tmp_path)))
    assert found.domains == ("fog", "night", "rain", "snow") and found.classes == CITYSCAPES
    assert set(parts(found)) == {(d, s) for d in found.domains for s in ("train", "val")}
    rain = found.source("rain", "val")
    assert len(rain) == 2 and not any("ref" in rain.name_of(i) for i in range(2))
    _, mask = scene(200 + 10 * len("val"), values=(0, 13, 255))
    assert np.array_equal(rain[0].mask, mask)
    with pytest.raises(ConfigError, match="'fog' of acdc has no test split with masks; it has"):
        found.source("fog", "test")


def test_ade20k_leaves_out_zero_and_counts_from_one(tmp_path):
    found = open_masks(root=str(mask_sets.ade20k(tmp_path)))
    assert found.domains == ("ade20k",) and len(found.classes) == len(set(ADE20K)) == 150
    assert (ADE20K[0], ADE20K[7], ADE20K[149]) == ("wall", "bed", "flag")
    _, mask = scene(1, values=(0, 1, 150))
    one = found.source("ade20k", "val")[1]
    assert np.array_equal(one.mask, np.select([mask == 1, mask == 150], [0, 149], 255))
    assert parts(found) == {("ade20k", "train"): 2, ("ade20k", "val"): 2}


def test_voc_reads_indices_of_palettes_and_the_lists(tmp_path):
    found = open_masks(root=str(mask_sets.voc(tmp_path)))
    assert found.classes == VOC and len(VOC) == 21
    assert parts(found) == {("voc", "train"): 2, ("voc", "val"): 1}
    val = found.source("voc", "val")
    assert np.array_equal(val[0].mask, scene(2, values=(0, 15, 255))[1])  # 255, the border, stays
    assert [name.rpartition("/")[2] for name in val.missing] == ["2007_000003.jpg"]
    assert [entry.reason for entry in found.skipped] == ["no image in JPEGImages"]


def test_datasets_in_folders_of_a_root_are_joined_if_their_classes_agree(tmp_path):
    mask_sets.cityscapes(tmp_path / "cityscapes")
    mask_sets.acdc(tmp_path / "acdc")
    game = tmp_path / "game"
    image, mask = scene(0, values=(7, 26, 4))
    for i in range(3):
        save(game / "images" / "train" / f"{i}.png", image)
        save(game / "masks" / "train" / f"{i}.png", mask, palette=True)
    (game / "classes.json").write_text('"cityscapes"')  # ids as there
    kind = recognise_masks(tmp_path)
    assert (
        kind.name == "joined" and "acdc/: acdc, cityscapes/: cityscapes, game/: folder" in kind.why
    )
    found = open_masks(root=str(tmp_path))
    assert found.domains == ("fog", "night", "rain", "snow", "cityscapes", "game")
    assert np.array_equal(np.unique(found.source("game", "train")[0].mask), [0, 13, 255])
    (game / "classes.json").write_text('["road", "car"]')
    with pytest.raises(DataError, match="game and acdc in .* have different classes; give both"):
        open_masks(root=str(tmp_path))
    shutil.rmtree(game)
    shutil.copytree(tmp_path / "acdc", tmp_path / "second")
    with pytest.raises(DataError, match="holds two domains 'fog'; rename one"):
        open_masks(root=str(tmp_path))


def test_folders_are_read_by_domain_and_split_or_dealt(tmp_path):
    given = open_masks(root=str(mask_sets.folders(tmp_path / "given")))
    assert given.classes == NAMES and given.domains == ("clear", "fog")
    assert [parts(given)["fog", s] for s in ("train", "val", "test")] == [4, 2, 3]
    assert np.array_equal(given.source("clear", "val")[1].mask, scene(100 * 3 + 1)[1])
    around = tmp_path / "around"
    for split in ("train", "val"):
        for i in range(5):
            image, mask = scene(i)
            save(around / "photo" / split / "images" / "x" / f"{i}.jpg", image)
            save(around / "photo" / split / "masks" / "x" / f"{i}.png", mask)
    (around / "classes.txt").write_text("\n".join(NAMES))
    found = open_masks("folder", str(around))
    assert parts(found) == {("photo", "train"): 3, ("photo", "val"): 5, ("photo", "test"): 2}
    whole = tmp_path / "whole"
    for i in range(10):
        image, mask = scene(i)
        save(whole / "images" / f"{i}.png", image)
        save(whole / "masks" / f"{i}.png", mask)
    (whole / "classes.txt").write_text("\n".join(NAMES))
    found = open_masks(root=str(whole))
    assert parts(found) == {("whole", "train"): 6, ("whole", "val"): 1, ("whole", "test"): 3}
    names = [found.source("whole", s).name_of(i) for _, s in parts(found)
             for i in range(parts(found)["whole", s])]  # fmt: skip
    assert len(set(names)) == 10  # each image once


def test_what_is_missing_is_told_and_the_repr_changes_with_the_content(tmp_path):
    root = mask_sets.folders(tmp_path)
    before = open_masks(root=str(root)).source("fog", "test")
    again = pickle.loads(pickle.dumps(before))
    assert repr(again) == repr(before) and np.array_equal(again[0].mask, before[0].mask)
    (root / "fog" / "masks" / "test" / "1.png").unlink()
    save(root / "fog" / "masks" / "test" / "9.png", scene(0)[1])
    found = open_masks(root=str(root))
    source = found.source("fog", "test")
    assert len(source) == 2 and repr(source) != repr(before)
    assert [name.rpartition("fog")[2] for name in source.missing] == ["/images/test/1.png"]
    assert [entry.reason for entry in found.skipped] == ["a mask without an image"]
    (root / "classes.txt").write_text("ground\nbox\nball\nsky\n")
    assert repr(open_masks(root=str(root)).source("fog", "test")) != repr(source)


@pytest.mark.parametrize("column", ["annotation", "semantic_segmentation", "label"])
def test_parquet_with_two_columns_of_images(tmp_path, column):
    found = open_masks(root=str(mask_sets.parquet(tmp_path, column)))
    assert found.domains == ("clear", "fog") and found.classes == NAMES
    test = found.source("fog", "test")
    assert len(test) == 3 and not test.missing
    image, mask = scene(100 + 10 * len("test") + 1)
    assert np.array_equal(test[1].mask, mask) and np.array_equal(test[1].image, image)
    train, val = (found.source("fog", split) for split in ("train", "val"))  # dealt out of train
    assert len(train) + len(val) == 2 and len(train.missing) == 1 and not val.missing
    assert pickle.loads(pickle.dumps(test))[2].name == test[2].name
    assert repr(test) == repr(open_masks(root=str(tmp_path)).source("fog", "test"))


def grey(bits: int, values: np.ndarray) -> bytes:
    """A grey PNG of few bits, by the specification alone: Pillow writes none."""
    packed = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]) for row in values]

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_masks_of_every_kind_keep_their_values(tmp_path):
    values = np.random.default_rng(0).integers(0, 16, (8, 16), np.uint8)
    file = tmp_path / "mask.png"
    for kind, palette in (("grey", False), ("palette", True)):
        save(file, values, palette=palette)
        assert np.array_equal(decode_mask(file.read_bytes(), kind), values)
    deep = values.astype(np.uint16) * 1000
    save(file, deep)
    assert np.array_equal(decode_mask(file.read_bytes()), deep)
    for bits in (1, 2, 4):
        few = values % 2**bits
        assert np.array_equal(decode_mask(grey(bits, few)), few)
    picture = Image.fromarray(values)
    picture.convert("RGB").save(file)  # three equal channels
    assert np.array_equal(decode_mask(file.read_bytes()), values)
    picture.putpalette(range(256 * 3 // 3), "RGB")
    picture.save(tmp_path / "few.png", bits=4)
    assert np.array_equal(decode_mask((tmp_path / "few.png").read_bytes()), values)


@pytest.mark.parametrize(
    ("name", "pixels", "words"),
    [
        ("m.jpg", np.zeros((8, 8), np.uint8), "is a JPEG, which changes the values"),
        ("m.png", scene(0)[0], "is a picture in colours; write the values of classes"),
        ("m.tif", np.zeros((8, 8), np.float32), "holds fractions"),
    ],
)
def test_masks_that_hold_no_values_of_classes_are_refused(tmp_path, name, pixels, words):
    save(tmp_path / name, pixels)
    with pytest.raises(DataError, match=f"its mask {words}"):
        decode_mask((tmp_path / name).read_bytes(), "its mask")
    with pytest.raises(DataError, match="its mask cannot be read as a mask"):
        decode_mask((tmp_path / name).read_bytes()[:50], "its mask")


def turned(pixels, orientation, form):
    """A file whose EXIF says how to turn what it stores."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, form, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_masks_are_turned_as_exif_turns_their_images(orientation, form):
    image, mask = scene(4, (16, 24))
    table = LabelTable(NAMES, {0: 0, 1: 1, 2: 2})
    files = [io.BytesIO(turned(x, orientation, "PNG")) for x in (image, mask)]
    wanted = [np.asarray(ImageOps.exif_transpose(Image.open(file))) for file in files]
    picture = turned(image, orientation, form)
    both = masked(picture, turned(mask, orientation, form), table, "a.jpg", "a.png")
    assert np.array_equal(both.image, wanted[0]) and np.array_equal(both.mask, wanted[1])
    for stored in (mask, wanted[1]):  # without EXIF: as the camera has it, or upright
        given = picture, mask_sets.png(stored), table, "a.jpg", "a.png"
        if orientation in (2, 3, 4):
            with pytest.raises(
                DataError, match=f"a.jpg is turned by its EXIF orientation {orientation}"
            ):
                masked(*given)
        else:
            assert np.array_equal(masked(*given).mask, wanted[1])
    square = scene(5, (16, 16))
    given = turned(square[0], orientation, form), mask_sets.png(square[1]), table, "a.jpg", "a.png"
    if orientation == 1:
        assert np.array_equal(masked(*given).mask, square[1])
    else:
        with pytest.raises(DataError, match="its size does not say; store both upright"):
            masked(*given)


def test_a_mask_of_another_size_and_a_label_beyond_the_table_are_refused_by_name(tmp_path):
    root = mask_sets.folders(tmp_path)
    save(root / "fog" / "masks" / "test" / "0.png", np.zeros((24, 16), np.uint8))
    save(root / "fog" / "masks" / "test" / "1.png", np.full((16, 24), 7, np.uint8))
    source = open_masks(root=str(root)).source("fog", "test")
    size = "fog/images/test/0.png is 24 x 16, and the image 16 x 24 pixels .height x width.; make"
    with pytest.raises(SizeFault, match=size):
        source[0]
    beyond = "fog/images/test/1.png has the value 7 beyond the table of 3 classes; name them in"
    with pytest.raises(LabelFault, match=beyond):
        source[1]
    assert source[2].mask.max() <= 2
    table = LabelTable(("a",), {0: 0})
    assert table.beyond(np.array([[0, 255, 3, -1, 70000]])) == [-1, 70000]
    assert table.beyond(np.array([[0, 255, 3, 9]])) == [3, 9]


@pytest.mark.parametrize(
    ("given", "classes", "numbers"),
    [
        ('{"0": "road", "7": null, "3": "car", "4": "road"}', ("road", "car"), (0, 255, 1, 0)),
        ('["road", "a", "b", "car", "c", "d", "e", "f"]', None, (0, 7, 3, 4)),
        ('"voc"', VOC, (0, 7, 3, 4)),
    ],
)
def test_tables_of_ones_own(tmp_path, given, classes, numbers):
    (tmp_path / "classes.json").write_text(given)
    table = read_table(tmp_path)
    assert classes is None or table.classes == classes
    assert tuple(table.encode(np.array([0, 7, 3, 4]), "a")) == numbers


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            '{"0": "road", "255": "car"}',
            "names value 255 'car', which is always ignored; give that",
        ),
        (json.dumps([f"c{i}" for i in range(256)]), "has 256 classes .c0, c1, .*at most 255 fit"),
        (json.dumps({str(300 + i): f"c{i}" for i in range(256)}), "has 256 classes"),
        ("{}", "names no class"),
        ('{"a": "road"}', "has the value 'a'; give a number below 65536"),
        ('{"0": "sky", "1": "road", "1": "car"}', "has the value 1 twice; give it one class"),
        ('{"1": "road", "01": "car"}', "has the value 01 twice"),
        ('{"1": 2}', "calls value 1 2; give a name, or null"),
        ('"pascal"', "names the table 'pascal'; known: cityscapes, cityscapes_train_ids"),
        ("3", "holds 3; give "),
        ("[", "is no JSON"),
        (None, "has no classes.txt, which names the class of value 0, 1"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, given, words):
    if given is not None:
        (tmp_path / "classes.json").write_text(given)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path)


def test_roots_that_hold_nothing_or_too_much_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no images with masks; what is read: domain/images"):
        recognise_masks(tmp_path)
    mask_sets.cityscapes(tmp_path)
    mask_sets.acdc(tmp_path)
    both = "holds cityscapes and acdc; say which: data.name=cityscapes or data.name=acdc"
    with pytest.raises(DataError, match=both):
        open_masks(root=str(tmp_path))
    shutil.rmtree(tmp_path / "gtFine")
    with pytest.raises(DataError, match="none of the 2 images in .*train has a mask in .*gtFine"):
        open_masks("cityscapes", str(tmp_path))
    for name, words in (("voc", "holds no ImageSets"), ("ade20k", "holds no images/training")):
        with pytest.raises(DataError, match=words):
            open_masks(name, str(tmp_path))
    with pytest.raises(DataError, match="holds no folder with images and masks"):
        open_masks("folder", str(tmp_path))
    for arguments, words in (
        (("kitti", str(tmp_path)), "unknown data.name 'kitti'; known: auto, scenes, folder"),
        (("voc", ""), "data.name='voc' needs --config.data.root"),
        (("scenes", str(tmp_path)), "data.name=scenes has no files, and data.root="),
    ):
        with pytest.raises(ConfigError, match=words):
            open_masks(*arguments)
