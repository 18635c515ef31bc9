"""Pillow's bicubic resize as small matrix products: the same bits, in about two thirds of the time.

Pillow resizes uint8 pictures in two passes with integer coefficients of 22 bits and rounds between
them (src/libImaging/Resample.c). Sums of such products are exact in float64, so a matrix product
gives the same integers in whatever order it adds them; and of a crop only what it shows is
computed. Everything else (other filters, small pictures, long upright ones) is left to Pillow.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

BICUBIC = 3
_SUPPORT = 2.0  # of the filter, in pixels of the smaller picture
_BITS = 22  # Pillow's PRECISION_BITS
# Pictures of fewer pixels are resized sooner by Pillow than Python makes its calls.
_FEWEST_PIXELS = 150 * 150
# Outputs a product: the band of coefficients is about half full for a photograph.
_BLOCK = 16
# Multiplications a product: OpenBLAS takes one thread for this many. The loaders have their own.
_PRODUCT = 200_000


class Alone:
    """Whether all resizes of this process so far came one after the other.

    NumPy keeps Python's lock for parts of the work, Pillow for none: where several threads load
    images, Pillow is sooner. The bits are the same, so nothing but time depends on this.
    """

    inside, met = 0, False

    def __enter__(self) -> bool:
        Alone.inside += 1
        Alone.met |= Alone.inside > 1
        return not Alone.met

    def __exit__(self, *exc) -> None:
        Alone.inside -= 1


def resize(
    pixels: np.ndarray, width: int, height: int, resample: int, window: tuple[int, int, int, int]
) -> np.ndarray | None:
    """A window of the resized picture, or None where Pillow must do it.

    Args:
      pixels: uint8 [H, W, 3].
      width: of the whole resized picture.
      height: of it.
      resample: Pillow's number of the filter.
      window: left, top, right, bottom of what is asked for, within the resized picture.

    Returns:
      uint8 [bottom - top, right - left, 3], the bits of `PIL.Image.resize(...).crop(window)`.
    """
    if not applies(pixels.shape[1], pixels.shape[0], width, height, resample):
        return None
    left, top, right, bottom = window
    across = _bands(pixels.shape[1], width, left, right)
    down = _bands(pixels.shape[0], height, top, bottom)
    return _rows(_columns(pixels, across, down), down, bottom - top)[:, : right - left]


def applies(old_width: int, old_height: int, width: int, height: int, resample: int) -> bool:
    """Whether a resize is done here.

    Not where Pillow from version 13 on makes the vertical pass first (it rounds in between, so that
    the order shows), nor where a pass is left out because a side stays as it is.
    """
    vertical_first = old_height > height and old_height - height > 2 * (old_width - width)
    return (
        resample == BICUBIC
        and old_width * old_height >= _FEWEST_PIXELS
        and old_width != width
        and old_height != height
        and not vertical_first
    )


class _Bands(NamedTuple):
    """What neighbouring outputs are made of, some at a time: windows of inputs, evenly spaced.

    Even spacing makes all of them one call of `np.matmul`.
    """

    start: int  # first input of the first window; negative where windows reach over the edge
    step: int  # from window to window
    weights: np.ndarray  # float64 [windows, inputs, _BLOCK]; zero over the edge

    @property
    def length(self) -> int:
        """Inputs from the first to the last."""
        windows, inputs, _ = self.weights.shape
        return (windows - 1) * self.step + inputs

    def inside(self, count: int) -> tuple[slice, slice]:
        """Which of `count` inputs the windows cover, and where these are in the windows' count."""
        first, last = max(0, self.start), min(count, self.start + self.length)
        return slice(first, last), slice(first - self.start, last - self.start)


@functools.lru_cache(maxsize=64)  # pictures of a dataset have few sizes
def _bands(old: int, new: int, first: int, last: int) -> _Bands:
    """The windows that make outputs [first, last) of `new` from `old` inputs."""
    low, high, weights = coefficients(old, new)
    begins = np.arange(first, last, _BLOCK)
    step = round(_BLOCK * old / new)
    even = step * np.arange(len(begins))
    start = int((low[begins] - even).min())
    ends = np.minimum(begins + _BLOCK, last) - 1
    matrix = np.zeros((len(begins), int((high[ends] - even).max()) - start, _BLOCK))
    for output in range(first, last):
        window, column = divmod(output - first, _BLOCK)
        row, taps = low[output] - start - even[window], high[output] - low[output]
        matrix[window, row : row + taps, column] = weights[output, :taps]
    return _Bands(start, step, matrix)


def coefficients(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pillow's: (first input int [new], behind the last int [new], weights float64 [new, taps]).

    Weights are multiples of 2**-22 and sum to 1 but for that rounding; `precompute_coeffs` and
    `normalize_coeffs_8bpc` in Resample.c.
    """
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    low = np.maximum((centre - _SUPPORT * stretch + 0.5).astype(int), 0)
    high = np.minimum((centre + _SUPPORT * stretch + 0.5).astype(int), old)
    taps = np.arange((high - low).max())
    inside = taps < (high - low)[:, None]
    # Divided as Pillow does, by a multiplication: the last bit depends on it.
    distance = (taps + low[:, None] - centre[:, None] + 0.5) * (1.0 / stretch)
    weights = np.where(inside, _bicubic(distance), 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # one after the other, as Pillow adds them
    one = 1 << _BITS
    return low, high, np.trunc(weights * one + np.where(weights < 0, -0.5, 0.5)) / one


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -0.5, in Pillow's order of operations."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _columns(pixels: np.ndarray, across: _Bands, down: _Bands) -> np.ndarray:
    """The horizontal pass: uint8 [H, W, 3] to whole numbers, float64 [rows of `down`, 3, outputs].

    Rows over the edge are zero.
    """
    windows, inputs, block = across.weights.shape
    rows, place = down.inside(len(pixels))
    columns, inner = across.inside(pixels.shape[1])
    out = np.empty((down.length, 3, windows * block))
    out[: place.start] = out[place.stop :] = 0.0
    many = max(1, _PRODUCT // (3 * inputs * block))
    part = np.empty((many, 3, across.length))  # stays in the processor's cache
    part[..., : inner.start] = part[..., inner.stop :] = 0.0
    for row in range(rows.start, rows.stop, many):
        count = min(many, rows.stop - row)
        part[:count, :, inner] = pixels[row : row + count, columns].swapaxes(1, 2)
        here = out[row - rows.start + place.start :][:count].reshape(3 * count, windows, block)
        seen = _windows(part[:count].reshape(3 * count, -1), across, axis=1)
        np.matmul(seen.swapaxes(0, 1), across.weights, out=here.swapaxes(0, 1))
        _round(here)
    return out


def _rows(narrow: np.ndarray, down: _Bands, count: int) -> np.ndarray:
    """The vertical pass: float64 [rows of `down`, 3, W] to uint8 [count, W, 3]."""
    windows, inputs, block = down.weights.shape
    width = narrow.shape[2]
    seen = _windows(narrow.reshape(len(narrow), -1), down, axis=0)  # [windows, 3 W, inputs]
    values = np.empty((windows, block, 3 * width))
    many = max(1, _PRODUCT // (inputs * block))
    for column in range(0, 3 * width, many):
        here = slice(column, column + many)
        part = seen[:, here].swapaxes(1, 2)
        np.matmul(down.weights.swapaxes(1, 2), part, out=values[:, :, here])
    _round(values)
    return values.reshape(-1, 3, width)[:count].swapaxes(1, 2).astype(np.uint8)


def _windows(inputs: np.ndarray, bands: _Bands, axis: int) -> np.ndarray:
    """Overlapping windows along an axis of a matrix, as a view whose last axis runs inside them."""
    length = bands.weights.shape[1]
    seen = np.lib.stride_tricks.sliding_window_view(inputs, length, axis=axis)
    return seen[(slice(None),) * axis + (slice(None, None, bands.step or 1),)]


def _round(values: np.ndarray) -> None:
    """To whole numbers of 0 to 255 in place, halves upwards, as Pillow's shift does."""
    values += 0.5
    np.floor(values, out=values)
    np.clip(values, 0.0, 255.0, out=values)
