"""The leak filter by picture: no image near a drawing of a held-out identity."""

from __future__ import annotations

import multiprocessing
from typing import NamedTuple

import numpy as np
from PIL import Image

from .phash import framed, hash_luminance, luminance, nearest_hamming

THUMB = 16
# Root mean square difference of 16 x 16 luminance in 0..1; an image at most this far from a
# held-out drawing leaves the corpus. Below it are nothing but pale shapes (clouds, sheets of
# paper) and discs, at .08 the first drawings that merely share an outline.
MAX_RMSE = 0.06
CHUNK = 500  # pictures a worker process takes at a time


def _thumb(square: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(square).resize((THUMB, THUMB), Image.Resampling.BOX))


def _fingerprint(pixels: list[np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
    squares = [framed(luminance(picture)) for picture in pixels]
    return [hash_luminance(square) for square in squares], [_thumb(square) for square in squares]


def fingerprints(pixels: list[np.ndarray], processes: int) -> tuple[np.ndarray, np.ndarray]:
    """What the filter compares of every picture: uint64 [N] hashes, uint8 [N, 16, 16] thumbs."""
    chunks = [pixels[i : i + CHUNK] for i in range(0, len(pixels), CHUNK)]
    hashes: list[int] = []
    thumbs: list[np.ndarray] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for some_hashes, some_thumbs in pool.imap(_fingerprint, chunks):
            hashes += some_hashes
            thumbs += some_thumbs
    return np.array(hashes, np.uint64), np.array(thumbs, np.uint8)


class Nearness(NamedTuple):
    """How near each corpus image comes to the held-out drawings."""

    hamming: np.ndarray  # uint8 [N], bits between perceptual hashes
    rmse: np.ndarray  # float32 [N], of 16 x 16 luminance in 0..1
    nearest: np.ndarray  # int32 [N], index of the drawing with the smallest rmse


class HeldOut:
    """Drawings of held-out identities, ready to be compared with.

    Args:
        squares: uint8 [M, SIDE, SIDE] framed luminance.
    """

    def __init__(self, squares: np.ndarray):
        both = np.concatenate([squares, 255 - squares])
        self.count = len(squares)
        self.hashes = np.array([hash_luminance(square) for square in both], np.uint64)
        thumbs = np.stack([_thumb(square) for square in both])
        self._thumbs = thumbs.reshape(len(both), -1).astype(np.float32) / 255
        self._norms = (self._thumbs**2).sum(1)

    def compare(self, hashes: np.ndarray, thumbs: np.ndarray, block: int = 4096) -> Nearness:
        """Compares corpus images with every held-out drawing and its inverse.

        Args:
            hashes: uint64 [N].
            thumbs: uint8 [N, 16, 16] framed luminance.
            block: rows compared at a time; bounds the memory.
        """
        rmse = np.empty(len(hashes), np.float32)
        nearest = np.empty(len(hashes), np.int32)
        for start in range(0, len(hashes), block):
            part = thumbs[start : start + block].reshape(-1, THUMB * THUMB).astype(np.float32) / 255
            squared = (part**2).sum(1)[:, None] + self._norms - 2 * part @ self._thumbs.T
            best = squared.argmin(1)
            rmse[start : start + block] = np.sqrt(
                np.maximum(squared[np.arange(len(part)), best], 0) / THUMB**2
            )
            nearest[start : start + block] = best % self.count
        return Nearness(nearest_hamming(hashes, self.hashes), rmse, nearest)
