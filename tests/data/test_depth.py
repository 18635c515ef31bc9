"""Grey of more than 8 bits, and floats, become the 8 bits that they stand for, in every format."""

import hashlib
import struct

import numpy as np
import PIL
import pytest
from PIL import Image

from clipjax.data.dataset import ArraySource
from clipjax.data.features import cache as features
from clipjax.data.images.decode import DECODERS, decode, scaling
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import DataError
from clipjax.inspect import report as findings
from clipjax.inspect import scan as reading
from clipjax.inspect import stats as census
from clipjax.inspect.verdict import Verdict
from tests.data.image_files import deep_png, encoded, tiff

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)  # what all these pictures show
V = GREY.astype(np.int64)
# Any value of 16 bits within 128 of a multiple of 257 stands for that multiple.
V16 = np.clip(V * 257 + (V * 37 % 257 - 128), 0, 65535)
V12 = np.round(V * 4095 / 255).astype(np.int64)


def packed_12_bits():
    """A TIFF that declares 12 bits: three bytes hold two values."""
    whole = tiff(np.zeros((16, 16), np.uint16))[: -2 * V12.size]
    whole = whole.replace(
        struct.pack("<HHIHH", 258, 3, 1, 16, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0)
    )
    pairs = V12.reshape(-1, 2)
    return whole + b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)


def pgm(maxval):
    values = np.round(V * maxval / 255)
    return b"P5 16 16 %d\n" % maxval + values.astype(">u2").tobytes()


def deep_files():
    """Name -> file that shows GREY."""
    high = np.repeat((V * 256 + 99)[..., None], 3, -1).astype(np.uint16)  # what Pillow keeps of it
    found = {
        "png": deep_png(V16),
        "png, Pillow's": encoded(Image.fromarray(V16.astype(np.uint16)), "PNG"),
        "png, colour": deep_png(high),
        "png, grey and alpha": deep_png(np.stack([V * 256 + 99, V * 0 + 65535], -1)),
        "jpeg 2000": encoded(Image.fromarray(V16.astype(np.uint16)), "JPEG2000"),
        "pgm 65535": pgm(65535),
        "pgm 4095": pgm(4095),
        "ppm 65535": b"P6 16 16 65535\n"
        + np.repeat((V * 257)[..., None], 3, -1).astype(">u2").tobytes(),
        "pfm": encoded(Image.fromarray((V / 255).astype(np.float32)), "PPM"),
        "tiff, 12 bits": packed_12_bits(),
        "tiff, white is zero": tiff((65535 - V16).astype(np.uint16), white_is_zero=True),
        "tiff, unsigned 32": tiff((V * 16843009).astype(np.uint32)),
        "tiff, deflated": encoded(
            Image.fromarray(V16.astype(np.uint16)), "TIFF", compression="tiff_adobe_deflate"
        ),
    }
    for order, name in (("<", "II"), (">", "MM")):
        kinds = {
            "16": V16.astype(np.uint16),
            "signed 16": np.round(V * 32767 / 255).astype(np.int16),
            "signed 16, below 0": (V * 257 - 32768).astype(np.int16),
            "signed 8": (V // 2).astype(np.int8),
            "32 up to 255": V.astype(np.int32),
            "32 up to 65535": V16.astype(np.int32),
            "32 up to 2**31": (V * 8421504).astype(np.int32),
            "floats to 1": (V / 255).astype(np.float32),
            "floats to 255": V.astype(np.float32),
            "floats to 65535": (V * 257).astype(np.float32),
            "floats from -1 to 1": (V / 127.5 - 1).astype(np.float32),
            "floats of any size": (V * 1e6 - 3e5).astype(np.float32),
            "colour": high,
        }
        found |= {f"tiff {name}, {key}": tiff(values, order) for key, values in kinds.items()}
        whitest = (1 - V / 255).astype(np.float32)
        found[f"tiff {name}, floats, white is zero"] = tiff(whitest, order, white_is_zero=True)
    return found


DEEP = deep_files()


@pytest.mark.parametrize("name", DEEP)
def test_deep_pictures_show_what_they_stand_for(name):
    half = (V // 2 * 255 / 127).round().astype(np.uint8)  # a sign takes a bit of 8
    expected = half if "signed 8" in name else GREY
    for decoder in DECODERS:
        pixels = decode(DEEP[name], name, decoder)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, -1), err_msg=name)


def test_deep_drawings_are_the_shallow_ones_in_every_crop():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12), np.uint8))
    grey = np.asarray(coarse.resize((90, 70), resample=3))
    for rules in (Preprocess(size=32), Preprocess(size=40, resize=(50, 60))):
        expected = rules.crop(encoded(Image.fromarray(grey), "PNG"))
        for data in (
            deep_png(grey.astype(np.uint16) * 257),
            tiff(grey.astype(np.uint16) * 257, ">"),
            tiff((grey / 255).astype(np.float32)),
            tiff(grey.astype(np.int32) * 257),
        ):
            np.testing.assert_array_equal(rules.crop(data), expected)


def test_a_resize_may_leave_the_range_of_floats_a_little():
    values = np.array([[-0.04, 0, 0.2, 1, 1.06]], np.float32)
    found = decode(tiff(values))[0, :, 0]
    assert found.tolist() == [0, 0, 51, 255, 255]
    found = decode(tiff(values * 255))[0, :, 0]
    assert found.tolist() == [0, 0, 51, 255, 255]


def test_a_transparent_value_of_16_bits_becomes_white():
    key = int(V16[3, 7])
    found = decode(deep_png(V16, struct.pack(">H", key)))
    expected = np.where(V16 == key, 255, GREY)
    np.testing.assert_array_equal(found[..., 0], expected)
    assert (expected != GREY).sum() == 1
    colour = np.repeat((V * 256 + 7)[..., None], 3, -1)  # the low byte is 7 everywhere
    found = decode(deep_png(colour, struct.pack(">HHH", *[100 * 256 + 7] * 3)))
    np.testing.assert_array_equal(found[..., 0], np.where(V == 100, 255, GREY))


def test_a_dark_picture_stays_dark_in_16_bits():
    values = np.array([[0, 257, 1000, 4095]], np.uint16)
    assert decode(tiff(values))[0, :, 0].tolist() == [0, 1, 4, 16]


def test_8_bits_in_a_file_of_16_stay_as_they_are():
    for data in (tiff(V.astype(np.uint16)), tiff(V.astype(np.uint16), ">"), deep_png(V)):
        np.testing.assert_array_equal(decode(data)[..., 0], GREY)
        assert scaling(data).source == "16 bits, 0 to 255"
    black = b"P5 2 1 65535\n" + np.array([[0, 255]], ">u2").tobytes()  # white is declared
    assert decode(black)[0, :, 0].tolist() == [0, 1]


def test_a_flat_picture_of_no_known_range_is_black():
    assert decode(tiff(np.full((2, 2), 1e9, np.float32))).max() == 0


@pytest.mark.parametrize(
    "values, reason",
    [
        (np.array([[0.5, np.nan, np.inf]], np.float32), "2 pixels are NaN or infinite"),
        (np.ones((2, 2), np.float64), "a TIFF whose kind of pixels PIL does not read"),
        (np.ones((2, 2), np.float16), "a TIFF whose kind of pixels PIL does not read"),
        (np.ones((2, 2, 3), np.float32), "a TIFF whose kind of pixels PIL does not read"),
    ],
)
def test_what_has_no_right_values_is_refused_with_the_reason(values, reason):
    for decoder in DECODERS:
        with pytest.raises(DataError, match=rf"x.tif cannot be read as an image \({reason}\)"):
            decode(tiff(values), "x.tif", decoder)


def test_heic_is_called_so():
    with pytest.raises(DataError, match="HEIC, which PIL does not read; convert it to JPEG"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "x.jpg")


@pytest.mark.parametrize(
    "values",
    [
        V16.astype(np.uint16),
        V16.astype(">u2"),
        np.round(V * 32767 / 255).astype(np.int16),
        (V * 257 - 32768).astype(np.int16),
        V,
        V16.astype(np.int32),
        (V / 255).astype(np.float16),
        V / 255,
        GREY,
        GREY[..., None],
    ],
    ids=lambda v: f"{v.dtype}{list(v.shape)}",
)
def test_grey_arrays_are_scaled_as_files_are(values):
    found = Preprocess(size=16, resize=None).crop(values)
    np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, -1))


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 2), np.nan),
        np.zeros((2, 2, 3), np.uint16),
        np.zeros((2, 2, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.array([["a"]]),
        np.array([[None]]),
    ],
    ids=lambda v: f"{v.dtype}{list(v.shape)}",
)
def test_arrays_without_a_meaning_are_refused(values):
    with pytest.raises(DataError, match=r"row 3 is an array that is no image \(.*give uint8"):
        Preprocess(size=16).crop(values, "row 3")


def test_inspect_counts_what_is_scaled_and_what_stays_dark():
    dim = deep_png(np.full((4, 4), 4095))
    images = [DEEP["png"], DEEP["tiff II, floats to 1"], dim, encoded(Image.fromarray(GREY), "PNG")]
    source = ArraySource([*images, b"none"], [0] * 5, classes=("a",), domain="d")
    rows = census.Rows({("d", "train"): source})
    found = reading.read(rows, Preprocess(size=8), decode=np.ones(5, bool))
    assert {row: scale.dark for row, scale in found.scaled.items()} == {0: False, 1: False, 2: True}
    chapter = findings.images_chapter(rows, found, [], Verdict((), 1, 5, ""), 0.01)
    assert any(
        "3 of 4 readable images" in note
        and "2 of 16 bits, 0 to 65,535; 1 of floats, 0 to 1" in note
        for note in chapter.notes
    )
    assert any(note.startswith("1 of these stay below a quarter") for note in chapter.notes)
    shallow = census.Rows({("d", "train"): ArraySource([GREY], [0], classes=("a",), domain="d")})
    found = reading.read(shallow, Preprocess(size=8), decode=np.ones(1, bool))
    chapter = findings.images_chapter(shallow, found, [], Verdict((), 0, 1, ""), 0.01)
    assert not found.scaled and not any("scaled" in note for note in chapter.notes)


def test_what_is_told_of_a_range():
    told = {
        name: scaling(DEEP[name]).source
        for name in DEEP
        if "colour" not in name and "alpha" not in name and "ppm" not in name
    }
    assert told["png"] == told["tiff MM, 16"] == "16 bits, 0 to 65,535"
    assert told["pgm 4095"] == told["jpeg 2000"] == "scaled to 16 bits, 0 to 65,535"
    assert told["tiff, 12 bits"] == "12 bits, 0 to 4,095"
    assert told["tiff MM, floats to 255"] == "floats, 0 to 255"
    assert told["tiff II, 32 up to 65535"] == "wide integers, 0 to 65,535"
    assert "own lowest to its own highest" in told["tiff II, floats of any size"]
    assert scaling(DEEP["png, colour"]) is None


def test_features_of_the_former_decoding_are_not_read_back():
    rules, source = Preprocess(), ArraySource([GREY], [0], classes=("a",), domain="d")
    parts = (f"3 {PIL.__version__}", "w", repr(rules), repr(source), "d/train", "float32")
    former = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    assert features.cache_key("w", rules, source) != former
