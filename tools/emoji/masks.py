"""Which pixels of a drawing are the object: bits of the alpha that the builder has of it."""

import lzma

import numpy as np

from .drawing import SIZE, Artist

# The styles of filled drawings: of stencils and sketches alpha is the ink alone.
MASKED = ("render", "flat", "clipart", "cartoon")
OPAQUE = 128  # of 255: pixels that the drawing covers by half or more
# Exact, whatever version of the library writes it.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}]


def mask_files(rows: list[dict], artist: Artist) -> dict[str, bytes]:
    """The files of clipjax/assets/emoji_masks, by name.

    `masks.xz` holds, for each style of `MASKED` and each identity in the order of identities.csv,
    64 x 64 bits, row by row, the first in the highest place of a byte; every row is stored as its
    difference (exclusive or) from the one above.
    """
    bits = np.stack(
        [
            [np.asarray(artist.draw(domain, row["hexcode"]).alpha) >= OPAQUE for row in rows]
            for domain in MASKED
        ]
    )
    changed = bits.copy()
    changed[..., 1:, :] ^= bits[..., :-1, :]
    data = np.packbits(changed.reshape(-1)).tobytes()
    assert bits.shape[-2:] == (SIZE, SIZE)
    return {"masks.xz": lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=_FILTERS)}
