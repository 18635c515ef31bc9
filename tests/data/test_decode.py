"""Decoding: the fast decoder gives the reference's pixels and verdicts, whole files or broken."""

import collections
import io
import subprocess
import sys

import numpy as np
import pytest

from clipjax.data.images import decode as decoding
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import ConfigError, DataError, UnreachableError
from tests.conftest import REPO
from tests.data.image_files import bombs, encoded, jpegs, mutants, others, pixels, png

RULES = [
    Preprocess(size=32),
    Preprocess(size=40, resize=64),
    Preprocess(size=40, resize=(50, 60)),
    Preprocess(size=50, resize=None),
    Preprocess(size=24, resample=1),
]


def both(rules, data, name):
    """The crop of each decoder, or the message of its DataError."""
    found = []
    for decoder in decoding.DECODERS:
        fields = {f: getattr(rules, f) for f in rules.__dataclass_fields__} | {"decoder": decoder}
        try:
            found.append(Preprocess(**fields).crop(data, name))
        except DataError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_the_fast_decoder_gives_the_reference_pixels(rules):
    files = jpegs() | others()
    assert len(files) > 70
    for name, data in files.items():
        fast, reference = both(rules, data, name)
        # One step is what is promised; the same bits are what these two decoders give.
        np.testing.assert_array_equal(fast, reference, err_msg=name)


def test_plain_jpeg_files_and_only_they_take_the_fast_way():
    from PIL import Image

    def fast(data):
        return decoding._fast(data, Image.open(io.BytesIO(data))) is not None

    assert {name for name, data in jpegs().items() if not fast(data)} == {"cmyk"}
    assert not any(fast(data) for data in others().values())
    whole = jpegs()["96x72, subsampling 2"]
    assert not fast(whole[:-40])


def test_orientation_is_that_of_pil():
    from PIL import Image, ImageOps

    rules = Preprocess(size=60, resize=None)
    for name, data in jpegs().items():
        if name.startswith("orientation"):
            turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            plain = io.BytesIO()
            turned.convert("RGB").save(plain, "PNG")
            np.testing.assert_array_equal(rules.crop(data), rules.crop(plain.getvalue()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PIL's, of damaged tags
def test_500_damaged_files_are_read_or_refused_alike_and_all_counted():
    verdicts = collections.Counter()
    files = mutants(500)
    for number, (how, data) in enumerate(files):
        name = f"file {number}"
        fast, reference = both(Preprocess(size=32), data, name)
        if isinstance(reference, str):
            assert fast == reference and name in fast and "\n" not in fast, how
        else:
            np.testing.assert_array_equal(fast, reference, err_msg=how)
        verdicts[how.split()[0], isinstance(fast, str)] += 1
    assert sum(verdicts.values()) == len(files) == 500
    assert verdicts["flip", False] > 20 and verdicts["exif", False] > 20  # not everything is fatal
    for kind in ("empty", "zeros", "bomb", "cut", "wrong_magic", "flip", "header", "splice"):
        assert verdicts[kind, True], kind


def test_cut_jpeg_files_are_refused_wherever_they_end():
    data = jpegs()["96x72, subsampling 2"]
    for length in range(0, len(data) - 2, 29):
        with pytest.raises(DataError, match="cut.jpg"):
            Preprocess(size=32).crop(data[:length], "cut.jpg")


def test_bombs_are_refused_with_a_sentence():
    for name, data in bombs().items():
        assert len(data) < 100_000, name
        fast, reference = both(Preprocess(size=32), data, f"a/{name}")
        assert fast == reference and fast.startswith(f"a/{name} "), name
        assert "pixels" in fast, name


@pytest.mark.slow
def test_bombs_take_no_memory():
    pytest.importorskip("resource")
    # In a process whose address space ends 500 MB above what importing took.
    code = """
import resource, warnings
from PIL import Image
Image.init()
import simplejpeg
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import DataError
from tests.data.image_files import bombs
warnings.simplefilter("ignore")
files = bombs()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)
for name, data in files.items():
    for decoder in ("fast", "reference"):
        try:
            Preprocess(size=32, decoder=decoder).crop(data, name)
        except DataError:
            print(name)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == [name for name in bombs() for _ in range(2)]


def test_the_limit_counts_pixels_before_they_are_decoded():
    side = int(decoding.MAX_PIXELS**0.5) + 1
    with pytest.raises(DataError, match=rf"big.png .*{side} x {side} pixels"):
        with pytest.warns():  # PIL warns where we refuse
            Preprocess(size=32).crop(png(side, side), "big.png")


def test_formats_that_start_other_programs_are_not_tried():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    with pytest.raises(DataError, match="none of JPEG, PNG"):
        Preprocess(size=32).crop(eps)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of AVIF, which PIL was built without
def test_a_pillow_without_avif_reads_all_else(monkeypatch):
    from PIL import Image

    picture = Image.fromarray(pixels(8, 8, 0))
    avif, pgm = encoded(picture, "AVIF"), encoded(picture.convert("L"), "PPM")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "AVIF")
    decoding._formats.cache_clear()
    try:
        assert decoding.decode(pgm).shape == (8, 8, 3)
        with pytest.raises(DataError, match="x.avif .*AVIF, which this PIL was built without"):
            decoding.decode(avif, "x.avif")
        with pytest.raises(DataError, match=r"none of JPEG, .*, PPM\)"):
            decoding.decode(b"nothing")
    finally:
        decoding._formats.cache_clear()


def test_the_decoder_is_a_known_one_and_keys_the_cache():
    with pytest.raises(ConfigError, match="'cv2'.*fast, reference"):
        Preprocess(size=32, decoder="cv2").crop(jpegs()["cmyk"])
    assert "decoder='reference'" in repr(Preprocess(decoder="reference"))


def test_arrays_that_are_no_images_are_named():
    with pytest.raises(DataError, match="row 7"):
        Preprocess(size=32).crop(np.zeros((4, 4, 3)), "row 7")


@pytest.mark.parametrize("error", [OverflowError, KeyError, RuntimeError, AssertionError])
def test_whatever_a_plugin_raises_is_a_sentence(monkeypatch, error):
    from PIL import Image

    def fail(self):
        raise error("odd")

    data = encoded(Image.fromarray(pixels(8, 8, 0)), "BMP")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(DataError, match="x.bmp cannot be read as an image .*odd"):
        decoding.decode(data, "x.bmp")


def test_no_memory_is_no_fault_of_the_file(monkeypatch):
    from PIL import Image

    def fail(self):
        raise MemoryError

    data = encoded(Image.fromarray(pixels(8, 8, 0)), "BMP")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UnreachableError, match="out of memory"):
        decoding.decode(data, "x.bmp")
