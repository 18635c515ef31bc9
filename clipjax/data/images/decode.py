"""Encoded images to upright RGB pixels: PIL, and another decoder for plain JPEG files.

"fast" is libjpeg-turbo without PIL's feeding in pieces (simplejpeg). PIL still reads the header,
and everything that simplejpeg warns of or does not do (CMYK, damaged files, every other format)
goes to PIL: both decoders accept and refuse the same files, with the same bits. What it gains
depends on how PIL was built: nothing with Pillow 13 on an Intel Xeon.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import struct
import zlib
from typing import Any

import numpy as np

from clipjax.data.images.depth import Scaling, is_deep, scaled, scaled_array
from clipjax.errors import ConfigError, DataError, UnreachableError

DECODERS = ("fast", "reference")
# Only these: PIL knows formats whose reading starts other programs, and many seldom tested ones.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
# Where PIL begins to warn of decompression bombs: 89 million, 360 MB as PIL holds them.
MAX_PIXELS = 1024**3 // 12
EXIF_ORIENTATION = 0x0112


def decode(data: bytes, name: str = "image", decoder: str = "fast") -> np.ndarray:
    """An encoded image as upright pixels, uint8 [H, W, 3].

    Files are turned as their EXIF orientation says; transparent parts become white; of several
    frames it is the first. Grey of more than 8 bits and floats are scaled to 8 bits by the range of
    their values, as `clipjax.data.images.depth` says.

    Args:
      data: a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or PPM (PGM, PBM, PFM) file; AVIF and
        JPEG 2000 where PIL was built with them.
      name: of the image, for messages.
      decoder: "fast" or "reference" (PIL alone).

    Raises:
      ConfigError: an unknown decoder.
      DataError: bytes that cannot be decoded whole, or a picture of more than MAX_PIXELS pixels,
        which is refused before memory is taken for it.
      UnreachableError: there was no memory for it.
    """
    from PIL import Image

    if decoder not in DECODERS:
        raise ConfigError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}.")
    try:
        picture = Image.open(io.BytesIO(data), formats=_formats())
        check_pixels(*picture.size)
        pixels = _fast(data, picture) if decoder == "fast" else None
        if pixels is None:
            picture.load()  # before the EXIF is looked for: PNG's may be behind the pixels
            pixels = np.asarray(to_rgb(picture))
        return _upright(pixels, _orientation(picture))
    except MemoryError:  # more of the machine's than of the file's
        raise UnreachableError(
            f"{name} cannot be read as an image (out of memory); lower workers or batch_size."
        ) from None
    except _unreadable() as error:
        raise DataError(
            f"{name} cannot be read as an image ({_reason(error, data)}); replace or remove it."
        ) from None


def check_pixels(width: int, height: int) -> None:
    """Raises ValueError for a picture that is too large to be held.

    >>> check_pixels(60000, 60000)
    Traceback (most recent call last):
    ValueError: 60000 x 60000 pixels, more than 89,478,485
    """
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")


def to_rgb(picture: Any) -> Any:
    """Any PIL mode to RGB of 8 bits; transparency is painted on white.

    Raises:
      ValueError: a mode that PIL does not convert, or values that are NaN or infinite.
    """
    from PIL import Image

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
    """How `decode`, or a crop of an array, scales an image that it can read; None if it does not.

    A picture of 8 bits is opened and not decoded.
    """
    from PIL import Image

    if isinstance(image, np.ndarray):
        return scaled_array(image)[1] if image.ndim == 2 or image.shape[2] == 1 else None
    with Image.open(io.BytesIO(image), formats=_formats()) as picture:
        return scaled(picture)[1] if is_deep(picture) else None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this PIL has a name for: versions before 11.3 lack AVIF."""
    avif = importlib.util.find_spec("PIL.AvifImagePlugin")
    return tuple(name for name in FORMATS if avif or name != "AVIF")


def _fast(data: bytes, picture: Any) -> np.ndarray | None:
    """Pixels uint8 [H, W, 3], or None where PIL must decide: not a plain JPEG file, or damaged."""
    if picture.format != "JPEG" or picture.mode not in ("RGB", "L"):
        return None
    import simplejpeg

    width, height = picture.size
    # The buffer holds what PIL read in the header: nothing larger is decoded.
    buffer = np.empty((height, width, 3), np.uint8)
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, strict=True)
    except ValueError:  # also for what libjpeg only warns of, as missing data
        return None
    return pixels if pixels.shape == buffer.shape else None


def _orientation(picture: Any) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        return picture.getexif().get(EXIF_ORIENTATION, 1)
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error):
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they are to be looked at; EXIF numbers the eight ways to hold a camera."""
    turns = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }
    return turns[orientation](pixels) if orientation in turns else pixels


def _unreadable() -> tuple[type[Exception], ...]:
    """The exceptions that PIL raises for damaged files.

    Of 15,000 mutated ones OSError, the bomb error, SyntaxError and ValueError; the rest is what the
    parsing calls of its plugins may raise.
    """
    from PIL import Image

    return (
        OSError,
        ValueError,
        SyntaxError,
        TypeError,
        EOFError,
        OverflowError,
        LookupError,
        AssertionError,
        RuntimeError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,  # where warnings are errors
    )


def _reason(error: Exception, data: bytes) -> str:
    from PIL import Image

    if isinstance(error, Image.UnidentifiedImageError):
        kind = next((name for name, begins in _KINDS.items() if begins(data or b"")), "")
        return kind or "none of " + ", ".join(_formats())
    return " ".join(str(error).split()) or type(error).__name__


# What PIL has no reader for, or takes for nothing, by how a file begins.
_KINDS = {
    "a TIFF whose kind of pixels PIL does not read": lambda d: (
        d[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    ),
    "HEIC, which PIL does not read; convert it to JPEG": lambda d: (
        d[4:8] == b"ftyp" and d[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1")
    ),
    "AVIF, which this PIL was built without": lambda d: d[4:12] in (b"ftypavif", b"ftypavis"),
}
