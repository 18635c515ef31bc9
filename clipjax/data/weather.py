"""Weather as pure functions of a picture, its depth and a random generator: NumPy alone."""

from collections.abc import Callable, Mapping

import numpy as np

Picture = np.ndarray  # float32 [H, W, 3], 0 to 1


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Draw noise that varies over a grid of `cells`, bilinear between, float32 [H, W], 0 to 1."""
    grid = rng.random((cells + 1, cells + 1), np.float32)
    place = [np.linspace(0, cells, length, endpoint=False, dtype=np.float32) for length in size]
    low = [x.astype(int) for x in place]
    down, across = (x - y for x, y in zip(place, low, strict=True))
    line = lambda rows: grid[rows][:, low[1]] * (1 - across) + grid[rows][:, low[1] + 1] * across
    return line(low[0]) * (1 - down[:, None]) + line(low[0] + 1) * down[:, None]


def clear(picture: Picture, depth: np.ndarray, rng: np.random.Generator) -> Picture:
    """Leave it as it is."""
    return picture


def fog(picture: Picture, depth: np.ndarray, rng: np.random.Generator) -> Picture:
    """Mix with a light grey by exp(-density * depth) (Koschmieder), depth float32 [H, W]."""
    light = rng.uniform(0.78, 0.92) + rng.uniform(-0.02, 0.02, 3).astype(np.float32)
    seen = np.exp(-rng.uniform(1.2, 2.2) * depth)[..., None]
    return picture * seen + light.astype(np.float32) * (1 - seen)


def night(picture: Picture, depth: np.ndarray, rng: np.random.Generator) -> Picture:
    """Darken by gamma and a bluish factor, and add the noise of a sensor."""
    tint = np.array([0.75, 0.85, 1.15], np.float32) * rng.uniform(0.18, 0.30)
    dark = picture**1.4 * tint
    return dark + rng.normal(0, 0.02, dark.shape).astype(np.float32)


def rain(picture: Picture, depth: np.ndarray, rng: np.random.Generator) -> Picture:
    """Blur and darken, then draw slanted streaks."""
    wet = 0.8 * _blurred(picture) + 0.02
    rows, columns = picture.shape[:2]
    slant, streaks = rng.uniform(0.2, 0.5), np.zeros((rows, columns), np.float32)
    for _ in range(rng.integers(60, 100)):
        top, left = rng.integers(-10, rows), rng.integers(-5, columns + 5)
        along = np.arange(rng.integers(5, 12))
        down, across = top + along, left + np.rint(slant * along).astype(int)
        inside = (down >= 0) & (down < rows) & (across >= 0) & (across < columns)
        streaks[down[inside], across[inside]] = rng.uniform(0.25, 0.5)
    return wet + streaks[..., None] * (1 - wet)


def snow(picture: Picture, depth: np.ndarray, rng: np.random.Generator) -> Picture:
    """Wash out towards grey, whiten what lies far, and draw flakes."""
    pale = 0.65 * picture + 0.30
    pale = pale + 0.15 * depth[..., None] * (1 - pale)
    rows, columns = picture.shape[:2]
    flakes = np.zeros((rows, columns), np.float32)
    count = rng.integers(150, 260)
    places = rng.integers(0, rows, count), rng.integers(0, columns, count)
    flakes[places] = rng.uniform(0.6, 1.0, count)
    wide = 0.5 * _blurred(np.repeat(flakes[..., None], 3, axis=2))[..., 0] * 4
    flakes = np.maximum(flakes, np.minimum(wide, 0.7))[..., None]
    return pale * (1 - flakes) + flakes


def _blurred(picture: Picture) -> Picture:
    """Average over 3 x 3 pixels, borders repeated."""
    edge = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, columns = picture.shape[:2]
    parts = [edge[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return sum(parts) / np.float32(9)


def tinted(picture: Picture, depth: np.ndarray, rng: np.random.Generator) -> Picture:
    """Change colours alone: contrast, brightness and a tint drawn at random.

    A recipe that shares nothing with the conditions above: what trains on it has seen none of them.
    """
    factor = rng.uniform(0.5, 1.0) + rng.uniform(-0.15, 0.15, 3)
    shift = rng.uniform(-0.1, 0.3)
    return picture * factor.astype(np.float32) + np.float32(shift)


CONDITIONS: Mapping[str, Callable[[Picture, np.ndarray, np.random.Generator], Picture]] = {
    "clear": clear,
    "fog": fog,
    "night": night,
    "rain": rain,
    "snow": snow,
    "tinted": tinted,
}
