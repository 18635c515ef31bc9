"""Scale grey pictures of more than 8 bits, or of floats, to 8 bits by the range of their values.

Pillow (and transformers, which uses it) clips such values at 255: all but black becomes white. Here
the range that a file declares becomes 0 to 255: 16 bits (PNG, TIFF, JPEG 2000, PGM) are divided by
257 and rounded, a TIFF of 12 bits by 4095 / 255. A PNG or TIFF of 16 bits without a value above 255
holds 8 bits, which stay as they are. 32-bit integers, signed ones and floats declare no range that
pictures fill; `_range` finds theirs. Of several channels Pillow reads the high byte of 16 bits.
"""

from typing import Any, NamedTuple

import numpy as np

DARK = 64  # of 255; 14 bits in a file of 16 reach no higher
_DECLARED = {"12 bits": 4095, "scaled to 16 bits": 65535}  # white; the latter by Pillow
_USUAL = {  # possible values of white
    "floats": (1, 255, 65535),
    "16 bits": (255, 65535),
    "wide integers": (255, 65535),
    "signed 16 bits": (255, 32767),
    "signed 8 bits": (127,),
}
_KINDS = {"i1": "signed 8 bits", "u2": "16 bits", "i2": "signed 16 bits"}  # of arrays
# TIFF's tags, and their defaults.
_BITS, _WHITE_IS_ZERO, _SAMPLE_FORMAT = (258, 1), (262, 0), (339, 1)


class Scaling(NamedTuple):
    """How a picture of more than 8 bits was scaled to 8."""

    source: str  # kind of its values, and which of them are black and white
    dark: bool  # nothing in it is brighter than `DARK`


def is_deep(picture: Any) -> bool:
    """Tell whether a PIL picture has other values than 0 to 255: more bits, floats or signs."""
    return picture.mode.startswith("I") or picture.mode == "F" or _is_signed_byte(picture)


def scaled(picture: Any) -> tuple[np.ndarray, Scaling]:
    """Scale a deep picture to uint8 [H, W], transparent white; ValueError for NaN and infinity."""
    values, kind = _values(picture)
    pixels, told = _scaled(values, kind)
    if _tag(picture, _WHITE_IS_ZERO, 1) == 0:  # Pillow inverts those of 8 bits itself
        pixels = 255 - pixels
    dark = bool(pixels.max(initial=0) <= DARK)
    key = picture.info.get("transparency")
    if isinstance(key, int):
        pixels[values == key] = 255
    return pixels, Scaling(told, dark)


def scaled_array(values: np.ndarray) -> tuple[np.ndarray, Scaling | None]:
    """Scale a grey array [H, W] to uint8; ValueError for NaN or infinity, TypeError for others."""
    dtype = values.dtype
    if dtype == np.uint8:
        return values, None
    if dtype == np.bool_:
        return values * np.uint8(255), None  # True is white
    if dtype.kind not in "uif":
        raise TypeError("no real numbers")
    wide = "floats" if dtype.kind == "f" else "wide integers"
    pixels, told = _scaled(values, _KINDS.get(dtype.str[1:], wide))
    return pixels, Scaling(told, bool(pixels.max(initial=0) <= DARK))


def _is_signed_byte(picture: Any) -> bool:
    """Tell whether it is a TIFF of signed bytes, which Pillow takes for unsigned ones."""
    return picture.mode == "L" and _tag(picture, _SAMPLE_FORMAT, 1) == 2


def _values(picture: Any) -> tuple[np.ndarray, str]:
    """Return the values of a deep picture, [H, W], and their kind."""
    values = np.asarray(picture)
    if picture.mode == "F":
        return values, "floats"
    if _is_signed_byte(picture):
        return values.view(np.int8), "signed 8 bits"
    bits = _tag(picture, _BITS, 16)
    if picture.format in ("PPM", "JPEG2000"):  # from the white that they declare
        return values, "scaled to 16 bits"
    if picture.mode != "I" or picture.format == "PNG":
        return values, "12 bits" if bits == 12 else "16 bits"
    if picture.format == "TIFF" and bits == 16:
        return values, "signed 16 bits"
    unsigned = _tag(picture, _SAMPLE_FORMAT, 2) == 1
    return (values.view(np.uint32) if unsigned else values), "wide integers"


def _scaled(values: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    """Scale values to uint8; also tell which of them are black and white."""
    if kind == "floats" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"{count:,} pixels are NaN or infinite")
    low, high, told = _range(values, kind)
    # In float64 every integer of 32 bits is exact.
    share = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(share, 0, 255)).astype(np.uint8), told


def _range(values: np.ndarray, kind: str) -> tuple[float, float, str]:
    """Return black, white and their description: declared, else the smallest usual, else found.

    Floats may exceed a usual range a little, as after a resize, and are clipped; up to 2 is still a
    range of 1, for with 255 as white it would be black.
    """
    if white := _DECLARED.get(kind):
        return 0, white, f"{kind}, 0 to {white:,}"
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    floats = kind == "floats"
    for white in _USUAL[kind]:
        if low >= -0.1 * min(white, max(high, 0)) * floats and high <= white * (1 + floats):
            return 0, white, f"{kind}, 0 to {white:,}"
    told = f"{kind}, each from its own lowest to its own highest value"
    flat = low + max(1.0, abs(low))  # white of a picture of one value, which is black
    return low, high if high > low else flat, told


def _tag(picture: Any, tag: tuple[int, int], otherwise: int) -> int:
    """Return the first value of a TIFF's tag; `otherwise` for another format."""
    number, missing = tag
    if picture.format != "TIFF":
        return otherwise
    value = picture.tag_v2.get(number, missing)
    return value[0] if isinstance(value, tuple) else value
