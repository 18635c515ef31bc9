"""Encoded images to upright RGB pixels: PIL, and another decoder for plain JPEG files.

The decoder "fast" is libjpeg-turbo (simplejpeg). PIL still reads the header, and all files that
simplejpeg warns of or does not support: both give the same bits, and refuse the same files.
"""

import functools
import importlib.util
import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from clipjax.data.images.depth import Scaling, is_deep, scaled, scaled_array
from clipjax.errors import ConfigError, DataError, UnreachableError

DECODERS = ("fast", "reference")
# Only these: reading some of PIL's other formats starts programs, and many are seldom tested.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
MAX_PIXELS = 1024**3 // 12  # beyond, PIL warns of decompression bombs: 89 million, 360 MB
EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF numbers the eight ways to hold a camera
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
SIDEWAYS = (5, 6, 7, 8)  # of them, those that exchange height and width
_UNSUPPORTED = {  # formats that PIL does not recognise, by how a file begins
    rb"II[*+]\0|MM\0[*+]": "a TIFF whose kind of pixels PIL does not read",
    rb"(?s)....ftypavi[fs]": "AVIF, which this PIL was built without",
    rb"(?s)....ftyp(hei[cxms]|hevc|mif1)": "HEIC, which PIL does not read; convert it to JPEG",
}
# For 15,000 mutated files PIL raised the first three; its parsing calls may raise the others.
_UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError, LookupError)
_UNREADABLE += (AssertionError, RuntimeError, struct.error, zlib.error)


def decode(data: bytes, name: str = "image", decoder: str = "fast") -> np.ndarray:
    """Decode an image to upright pixels, uint8 [H, W, 3].

    The EXIF orientation is applied; transparent parts become white; of several frames the first is
    read. Grey of more than 8 bits and floats are scaled to 8 bits, see `clipjax.data.images.depth`.

    `data` is a file in one of FORMATS (PPM: also PGM, PBM, PFM) that PIL was built with, and
    `decoder` "fast" or "reference" (PIL alone). DataError, with the `name`, for damaged bytes or
    more than MAX_PIXELS pixels, before memory is allocated; UnreachableError if there is none.
    """
    return decode_turned(data, name, decoder)[0]


def decode_turned(data: bytes, name: str = "image", decoder: str = "fast"):
    """Return what `decode` does, and the EXIF orientation by which it was turned, 1 to 8."""
    if decoder not in DECODERS:
        raise ConfigError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}.")
    try:
        picture = Image.open(io.BytesIO(data), formats=_formats())
        check_pixels(*picture.size)
        # PIL turns TIFF as it is loaded, and then says 1.
        first = orientation_of(picture) if picture.format == "TIFF" else 1
        pixels = _fast(data, picture) if decoder == "fast" else None
        pixels = _pixels(picture) if pixels is None else _upright(picture, pixels)
        return pixels, first if first != 1 else orientation_of(picture)
    except MemoryError:  # the machine's fault, not the file's
        remedy = "(out of memory); lower workers or batch_size."
        raise UnreachableError(f"{name} cannot be read as an image {remedy}") from None
    # The bomb's warning is raised where warnings are errors.
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        remedy = f"({_reason(error, data)}); replace or remove it."
        raise DataError(f"{name} cannot be read as an image {remedy}") from None


def pixels_of(picture: Image.Image, name: str = "image") -> np.ndarray:
    """Return the upright pixels of an open PIL image, uint8 [H, W, 3], as `decode` of its file.

    DataError, with the `name`: damaged bytes, a closed file, or more than MAX_PIXELS pixels.
    """
    try:
        check_pixels(*picture.size)
        return _pixels(picture)
    except _UNREADABLE as error:
        raise DataError(f"{name} cannot be read as an image ({_reason(error, b'')}).") from None


def _pixels(picture: Image.Image) -> np.ndarray:
    picture.load()  # before the EXIF is looked for: PNG's may be behind the pixels
    return _upright(picture, np.asarray(to_rgb(picture)))


def _upright(picture: Image.Image, pixels: np.ndarray) -> np.ndarray:
    return upright(pixels, orientation_of(picture))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels [H, W, ...] as an EXIF orientation says."""
    return _UPRIGHT.get(orientation, lambda x: x)(pixels)


def orientation_of(picture: Any) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none or it is damaged."""
    try:
        found = picture.getexif().get(EXIF_ORIENTATION, 1)
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error):
        return 1
    return found if found in _UPRIGHT else 1


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError for a picture that is too large."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")


def to_rgb(picture: Any) -> Any:
    """Convert any PIL mode to 8-bit RGB, on white; ValueError for NaN, infinity and odd modes."""
    if is_deep(picture):
        return Image.fromarray(scaled(picture)[0]).convert("RGB")
    key = picture.info.get("transparency")
    if "A" in picture.getbands() or key is not None:
        if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, which PIL reads as 8
            picture.info["transparency"] = tuple(value >> 8 for value in key)
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # convert copies


def scaling(image: bytes | np.ndarray) -> Scaling | None:
    """Tell how `decode`, or a crop of an array, scales a readable image to 8 bits; None if not."""
    if isinstance(image, np.ndarray):
        return scaled_array(image)[1] if image.ndim == 2 or image.shape[2] == 1 else None
    with Image.open(io.BytesIO(image), formats=_formats()) as picture:
        return scaled(picture)[1] if is_deep(picture) else None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that this PIL knows: versions before 11.3 lack AVIF."""
    avif = importlib.util.find_spec("PIL.AvifImagePlugin")
    return tuple(name for name in FORMATS if avif or name != "AVIF")


def _fast(data: bytes, picture: Any) -> np.ndarray | None:
    """Decode a plain JPEG file to uint8 [H, W, 3]; None if PIL must decide."""
    if picture.format != "JPEG" or picture.mode not in ("RGB", "L"):
        return None
    width, height = picture.size
    # The buffer has the size in the header: nothing larger is decoded.
    buffer = np.empty((height, width, 3), np.uint8)
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, strict=True)
    except ValueError:  # also for what libjpeg only warns of, as missing data
        return None
    return pixels if pixels.shape == buffer.shape else None


def _reason(error: Exception, data: bytes) -> str:
    if not isinstance(error, Image.UnidentifiedImageError):
        return " ".join(str(error).split()) or type(error).__name__
    kinds = (kind for begin, kind in _UNSUPPORTED.items() if re.match(begin, data or b""))
    return next(kinds, "none of " + ", ".join(_formats()))
