"""RandAugment on the device: random operations of one strength, as pure functions of an rng.

Cubuk et al. 2020 (arXiv 1909.13719). Operations are those of PIL that the paper names; strengths
are torchvision's, with `magnitude` from 0 to 30. Images are float32 [S, S, 3] in [0, 255], and are
not rounded between operations. Geometric ones sample bilinearly and fill with grey.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

MAGNITUDES = 30.0
FILL = 128.0  # grey, of what an image does not cover
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as PIL's "L"
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # PIL's ImageFilter.SMOOTH


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretch each channel to 0 .. 255; a channel of one value stays."""
    low, high = jnp.min(image, axis=(0, 1)), jnp.max(image, axis=(0, 1))
    flat = high <= low
    stretched = (image - low) * (255.0 / jnp.where(flat, 1.0, high - low))
    return jnp.where(flat, image, stretched)


def equalize(image: jax.Array) -> jax.Array:
    """Make each channel's histogram flat, by the whole numbers that PIL's tables have."""
    values = jnp.round(image).astype(jnp.int32)

    def channel(values):
        counts = jnp.zeros(256, jnp.int32).at[values.reshape(-1)].add(1)
        step = (values.size - counts[jnp.max(values)]) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step == 0, values, table[values])

    return jax.vmap(channel, in_axes=2, out_axes=2)(values).astype(jnp.float32)


def posterize(image: jax.Array, bits: jax.Array | int) -> jax.Array:
    """Keep the upper `bits` of 8 of each value."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(image) / step) * step


def solarize(image: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Invert values from the threshold on."""
    return jnp.where(image < threshold, image, 255.0 - image)


def _blend(dull: jax.Array, image: jax.Array, factor: jax.Array | float) -> jax.Array:
    return jnp.clip(dull + factor * (image - dull), 0.0, 255.0)


def colour(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Change saturation: 0 is grey, 1 the image."""
    return _blend((image @ _LUMA)[..., None], image, factor)


def contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Change contrast about the mean brightness: 0 is flat, 1 the image."""
    return _blend(jnp.round(jnp.mean(image @ _LUMA)), image, factor)


def brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Change brightness: 0 is black, 1 the image."""
    return _blend(jnp.zeros_like(image), image, factor)


def sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Change sharpness: 0 is smoothed, 1 the image; pixels at the border stay."""
    rows, columns = image.shape[:2]
    near = [
        _SMOOTH[i, j] * image[i : rows - 2 + i, j : columns - 2 + j]
        for i in range(3)
        for j in range(3)
    ]
    return _blend(image.at[1:-1, 1:-1].set(sum(near)), image, factor)


def affine(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Sample the image at `matrix` [2, 3] times (x, y, 1) about its middle, in units of pixels."""
    size = image.shape[0]
    middle = (size - 1) / 2
    y, x = jnp.mgrid[:size, :size] - middle
    at = jnp.einsum("cd,dij->cij", matrix, jnp.stack([x, y, jnp.ones_like(x)])) + middle
    inside = jnp.all((at >= -0.5) & (at < size - 0.5), axis=0)
    low = jnp.floor(at)
    share = at - low
    index = lambda step: jnp.clip(low + step, 0, size - 1).astype(jnp.int32)
    (left, up), (right, down) = index(0), index(1)
    across = lambda row: (
        image[row, left] * (1 - share[0])[..., None] + image[row, right] * share[0][..., None]
    )
    found = across(up) * (1 - share[1])[..., None] + across(down) * share[1][..., None]
    return jnp.where(inside[..., None], found, FILL)


def cutout(rng: jax.Array, image: jax.Array, share: float) -> jax.Array:
    """Paint a grey square whose side is a share of the image's; its middle is any pixel.

    DeVries & Taylor 2017 (arXiv 1708.04552).
    """
    size = image.shape[0]
    middle = jax.random.randint(rng, (2, 1), 0, size)
    within = jnp.abs(jnp.arange(size) - middle) < share * size / 2
    return jnp.where((within[0][:, None] & within[1])[..., None], FILL, image)


_COLOURS = (
    "identity", "autocontrast", "equalize", "posterize", "solarize",
    "colour", "contrast", "brightness", "sharpness",
)  # fmt: skip
_MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = _COLOURS + _MOVES


def _recolourings(magnitude: jax.Array | float) -> dict[str, Callable]:
    """Name -> (image, sign) -> image."""
    part = magnitude / MAGNITUDES
    stronger = lambda function: lambda image, sign: function(image, 1.0 + sign * 0.9 * part)
    return {
        "identity": lambda image, sign: image,
        "autocontrast": lambda image, sign: autocontrast(image),
        "equalize": lambda image, sign: equalize(image),
        "posterize": lambda image, sign: posterize(image, 8 - jnp.round(4.0 * part)),
        "solarize": lambda image, sign: solarize(image, 256.0 * (1.0 - part)),
        "colour": stronger(colour),
        "contrast": stronger(contrast),
        "brightness": stronger(brightness),
        "sharpness": stronger(sharpness),
    }


def move_matrix(name: jax.Array | int, magnitude: jax.Array | float, size: int) -> jax.Array:
    """Return the matrix [2, 3] of `affine` for the `name`-th of rotate, shears, translations."""
    part = magnitude / MAGNITUDES
    angle, shear, shift = part * np.pi / 6, 0.3 * part, 150 / 331 * size * part
    one, zero = jnp.ones(()), jnp.zeros(())
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = [
        [cos, -sin, zero, sin, cos, zero],
        [one, shear, zero, zero, one, zero],
        [one, zero, zero, shear, one, zero],
        [one, zero, shift, zero, one, zero],
        [one, zero, zero, zero, one, shift],
    ]
    table = jnp.asarray([[jnp.asarray(x, jnp.float32) for x in row] for row in rows])
    return table[name].reshape(2, 3)


def apply_operation(
    image: jax.Array, operation: jax.Array | int, magnitude: jax.Array | float, sign: jax.Array
) -> jax.Array:
    """Apply the `operation`-th of `OPERATIONS`; `sign`, 1 or -1, is the direction of its change."""
    move = operation - len(_COLOURS)
    matrix = move_matrix(jnp.maximum(move, 0), sign * magnitude, image.shape[0])
    moved = affine(image, matrix)
    steps = tuple(_recolourings(magnitude).values())
    # Under vmap a switch computes all its branches: one warp serves all moves.
    recoloured = jax.lax.switch(jnp.minimum(operation, len(_COLOURS) - 1), steps, image, sign)
    return jnp.where(move >= 0, moved, recoloured)


def randaugment(
    rng: jax.Array,
    images: jax.Array,
    *,
    ops: int = 2,
    magnitude: float = 9.0,
    square: float = 0.0,
) -> jax.Array:
    """Alter each image by `ops` operations drawn with replacement, each in a random direction.

    Args:
      rng: key; images are altered independently of each other.
      images: uint8 or float [B, S, S, 3] in [0, 255].
      ops: operations an image, N of the paper.
      magnitude: their strength, 0 to 30, M of the paper.
      square: side of the `cutout` that follows, as a share of the image's; 0 for none.

    Returns:
      float32 [B, S, S, 3] in [0, 255].

    ValueError: images that are not square RGB.
    """
    shape = jnp.shape(images)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(f"images have the shape {shape}; give square ones, [B, S, S, 3].")

    def alter(key, image):
        def step(image, key):
            which, turn = jax.random.split(key)
            operation = jax.random.randint(which, (), 0, len(OPERATIONS))
            sign = jnp.where(jax.random.bernoulli(turn), 1.0, -1.0)
            return apply_operation(image, operation, magnitude, sign), None

        keys = jax.random.split(key, ops + 1)
        if ops:  # as a loop: all operations are compiled once, however many follow each other
            image, _ = jax.lax.scan(step, image, keys[:ops])
            image = jnp.clip(image, 0, 255)  # interpolation rounds beyond
        return cutout(keys[ops], image, square) if square else image

    return jax.vmap(alter)(jax.random.split(rng, shape[0]), jnp.asarray(images, jnp.float32))
