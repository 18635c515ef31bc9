"""Seeded image files of every kind, and damaged ones, for the tests of decoding."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np

SIZES = ((96, 72), (72, 96), (33, 57), (48, 48), (49, 48), (1, 1), (7, 3), (150, 20), (20, 150))
MODES = {
    "PNG": ("RGB", "RGBA", "LA", "L", "P", "1", "I;16"),
    "GIF": ("P", "L"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "CMYK", "L", "I;16", "F"),
}


def pixels(width: int, height: int, seed: int, kind: str = "smooth") -> np.ndarray:
    """uint8 [H, W, 3]: smooth noise, or black and white dots, which a resize overshoots most."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    if kind == "dots":
        return rng.integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)
    coarse = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), resample=3))


def encoded(picture, form: str, **options) -> bytes:
    """The bytes of a file."""
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def jpegs() -> dict[str, bytes]:
    """Name -> JPEG file: sizes, subsampling, progressive, restarts, orientations, grey, CMYK."""
    from PIL import Image

    found = {}
    for seed, size in enumerate(SIZES):
        picture = Image.fromarray(pixels(*size, seed))
        for sampling in (0, 1, 2):
            name = f"{size[0]}x{size[1]}, subsampling {sampling}"
            found[name] = encoded(picture, "JPEG", quality=90, subsampling=sampling)
        found[f"{size}, progressive"] = encoded(picture, "JPEG", progressive=True, quality=60)
        found[f"{size}, grey"] = encoded(picture.convert("L"), "JPEG")
    for seed, size in enumerate(SIZES[:4]):
        dots = Image.fromarray(pixels(*size, seed, "dots"))
        found[f"{size}, dots"] = encoded(dots, "JPEG", quality=100, subsampling=0)
    picture = Image.fromarray(pixels(96, 72, 50))
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"orientation {orientation}"] = encoded(picture, "JPEG", exif=exif)
    found["rgb, not ycc"] = encoded(picture, "JPEG", keep_rgb=True)
    found["restarts"] = encoded(picture, "JPEG", restart_marker_blocks=2, optimize=True)
    found["cmyk"] = encoded(picture.convert("CMYK"), "JPEG")
    found["trailing bytes"] = encoded(picture, "JPEG") + b"behind the end"
    return found


def others() -> dict[str, bytes]:
    """Name -> file of another format: palettes, alpha, 1 bit, 16 bit, floats."""
    from PIL import Image

    found = {}
    for form, modes in MODES.items():
        for seed, mode in enumerate(modes):
            values = pixels(96, 72, seed)
            if mode == "F":
                picture = Image.fromarray(values[..., 0].astype(np.float32))
            elif mode == "I;16":
                picture = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
            elif mode in ("RGBA", "LA"):
                alpha = Image.fromarray(values[..., 0]).resize((96, 72))
                picture = Image.fromarray(values).convert(mode)
                picture.putalpha(alpha)
            else:
                picture = Image.fromarray(values).convert(mode)
            found[f"{form} {mode}"] = encoded(picture, form)
    rgb = Image.fromarray(pixels(96, 72, 9))
    found["TIFF lzw"] = encoded(rgb, "TIFF", compression="tiff_lzw")
    found["WEBP lossless"] = encoded(rgb, "WEBP", lossless=True)
    found["GIF transparent"] = encoded(rgb.convert("P"), "GIF", transparency=3)
    frames = [Image.fromarray(pixels(96, 72, s)) for s in (1, 2)]
    found["GIF of 2 frames"] = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return found


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A one-bit grey PNG that declares a size, with any pixel data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


def deep_png(values: np.ndarray, transparent: bytes = b"") -> bytes:
    """A PNG of 16 bits from uint16 [H, W] or [H, W, 2 to 4], by the specification alone."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    height, width = values.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.size // (height * width)]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    if transparent:
        parts.insert(1, chunk(b"tRNS", transparent))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values: np.ndarray, order: str = "<", *, white_is_zero: bool = False) -> bytes:
    """A TIFF of grey [H, W] or colour [H, W, 3] values of any type, by the specification alone."""
    height, width = values.shape[:2]
    samples = values.size // (height * width)
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    photometric = 2 if samples == 3 else int(not white_is_zero)
    short, long, first = 3, 4, 8 + 2 + 10 * 12 + 4  # `first` byte behind the directory
    each = (struct.pack(order + "3H", *[n] * 3) for n in (8 * values.itemsize, kind))
    bits, kinds = each if samples == 3 else (b"", b"")
    fields = [(256, short, 1, width), (257, short, 1, height)]
    fields += [(258, short, samples, first if bits else 8 * values.itemsize)]
    fields += [(259, short, 1, 1), (262, short, 1, photometric)]
    fields += [(273, long, 1, first + len(bits + kinds)), (277, short, 1, samples)]
    fields += [(278, short, 1, height), (279, long, 1, len(data))]
    fields += [(339, short, samples, first + len(bits) if kinds else kind)]
    entries = b""
    for tag, form, count, value in fields:
        wide = form == long or count > 2
        packed = struct.pack(order + ("I" if wide else "H"), value).ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, form, count) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "IH", 8, len(fields)) + entries + bytes(4)
    return head + bits + kinds + data


def bombs() -> dict[str, bytes]:
    """Name -> small file that declares, or holds, far more pixels than memory."""
    from PIL import Image

    small = Image.fromarray(pixels(96, 72, 3))
    side = struct.pack("<i", 60000)
    found = {"PNG 60000": png(60000, 60000), "PNG 20000": png(20000, 20000, bytes(20000 * 2501))}
    found["PNG thin"] = png(2, 2_000_000, bytes(2_000_000 * 2))  # fits, until it is resized
    jpeg = encoded(small, "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    found["JPEG"] = jpeg[:at] + struct.pack(">HH", 60000, 60000) + jpeg[at + 4 :]
    bmp = encoded(small, "BMP")
    found["BMP"] = bmp[:18] + side + side + bmp[26:]
    gif = encoded(small.convert("P"), "GIF")
    found["GIF"] = gif[:6] + struct.pack("<HH", 60000, 60000) + gif[10:]
    tiff = encoded(small, "TIFF")
    for tag, value in ((256, 96), (257, 72)):
        old = struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", value)
        short = struct.pack("<HHIHH", tag, 3, 1, value, 0)
        new = struct.pack("<HHII", tag, 4, 1, 60000)
        assert old in tiff or short in tiff
        tiff = tiff.replace(old, new).replace(short, new)
    found["TIFF"] = tiff
    webp = encoded(small, "WEBP", lossless=True)
    at = webp.index(b"VP8L") + 9  # 14 bits of width - 1, 14 of height - 1
    found["WEBP"] = webp[:at] + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + webp[at + 4 :]
    return found


def mutants(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """(how, damaged file): cut, wrong magic, zeros, huge size, flipped bytes, bad EXIF, spliced."""
    rng = np.random.default_rng(seed)
    whole = list((jpegs() | others()).items())
    exif = [item for item in whole if item[0].startswith("orientation")]
    magic = [data[:12] for _, data in whole] + [bytes(12), b"%!PS-Adobe-3", b"<html><body>"]

    def pick(items):
        return items[int(rng.integers(len(items)))]

    def cut(data):
        return data[: int(rng.integers(len(data)))]

    def wrong_magic(data):
        head = pick(magic)
        return head[: int(rng.integers(1, 13))] + data[int(rng.integers(13)) :]

    def zeros(data):
        first = int(rng.integers(len(data)))
        length = int(rng.integers(1, len(data)))
        return data[:first] + bytes(length) + data[first + length :]

    def flip(data, first=0, last=None):
        data = bytearray(data)
        for at in rng.integers(first, last or len(data), int(rng.integers(1, 9))):
            data[at % len(data)] = int(rng.integers(256))
        return bytes(data)

    def header(data):
        return flip(data, 0, min(64, len(data)))

    def splice(data):
        return cut(data) + pick(whole)[1][int(rng.integers(200)) :]

    found = [("empty", b""), ("zeros", bytes(1000))]
    found += [(f"bomb {name}", data) for name, data in bombs().items()]
    ways = (cut, wrong_magic, zeros, flip, flip, header, splice)
    while len(found) < count:
        if len(found) % 10 == 0:
            name, data = pick(exif)
            at = data.index(b"Exif")
            found.append((f"exif of {name}", flip(data, at - 4, at + 40)))
        else:
            (name, data), way = pick(whole), ways[len(found) % len(ways)]
            found.append((f"{way.__name__} {name}", way(data)))
    return found
