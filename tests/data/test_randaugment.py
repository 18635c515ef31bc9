"""RandAugment's operations against PIL's, and what drawing them at random may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from clipjax.data.images import randaugment as ra

SIZE = 24
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
# Of few values, and dark: what autocontrast and equalize change.
DARK = (RNG.beta(2, 5, (SIZE, SIZE, 3)) * 160 + 20).astype(np.uint8)
altered = jax.jit(ra.randaugment, static_argnames=("ops", "magnitude", "square"))

ENHANCED = {
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


def compare(ours, theirs, most=1.0):
    """PIL cuts to whole numbers where ours stay as they are."""
    assert np.abs(np.asarray(ours) - np.asarray(theirs, np.float32)).max() <= most


@pytest.mark.parametrize("image", [NOISE, DARK], ids=["noise", "dark"])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_histograms_as_pil_stretches_them(name, image):
    theirs = getattr(ImageOps, name)(Image.fromarray(image))
    compare(getattr(ra, name)(jnp.asarray(image, jnp.float32)), theirs)


def test_equal_channels_stay():
    flat = jnp.full((SIZE, SIZE, 3), 70.0)
    for name in ("autocontrast", "equalize"):
        assert jnp.array_equal(getattr(ra, name)(flat), flat)


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterize_is_pils(bits):
    theirs = ImageOps.posterize(Image.fromarray(NOISE), bits)
    compare(ra.posterize(jnp.asarray(NOISE, jnp.float32), bits), theirs, 0.0)


@pytest.mark.parametrize("threshold", [0, 100, 255])
def test_solarize_is_pils(threshold):
    theirs = ImageOps.solarize(Image.fromarray(NOISE), threshold)
    compare(ra.solarize(jnp.asarray(NOISE, jnp.float32), threshold), theirs, 0.0)


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
@pytest.mark.parametrize("name", ENHANCED)
def test_enhancements_are_pils(name, factor):
    theirs = ENHANCED[name](Image.fromarray(DARK)).enhance(factor)
    ours = getattr(ra, name)(jnp.asarray(DARK, jnp.float32), factor)
    compare(ours, theirs, 2.0)  # of a rounded grey or smoothed image, times up to 1.9


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_moves_are_pils_affine_maps(name, sign):
    number = ra.OPERATIONS.index(name)
    matrix = np.asarray(ra.move_matrix(number - 9, sign * 19.3, SIZE), np.float64)
    # Ours is about the middle of the image, PIL's about the corner of its first pixel.
    middle = SIZE / 2
    shift = matrix[:, 2] + middle - matrix[:, :2] @ [middle, middle]
    given = [*matrix[0, :2], shift[0], *matrix[1, :2], shift[1]]
    fill = (int(ra.FILL),) * 3
    theirs = Image.fromarray(NOISE).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, given, Image.Resampling.BILINEAR, fillcolor=fill
    )
    ours = ra.apply_operation(jnp.asarray(NOISE, jnp.float32), number, 19.3, jnp.float32(sign))
    compare(ours, theirs, 1.5)
    assert np.abs(np.asarray(ours) - NOISE).max() > 20


def test_no_strength_leaves_moves_and_enhancements_out():
    image = jnp.asarray(NOISE, jnp.float32)
    for number, name in enumerate(ra.OPERATIONS):
        if name not in ("autocontrast", "equalize"):
            compare(ra.apply_operation(image, number, 0.0, jnp.float32(1.0)), NOISE, 1e-3)


def test_cutout_paints_one_square():
    image = jnp.zeros((SIZE, SIZE, 3))
    for seed in range(5):
        grey = np.asarray(ra.cutout(jax.random.key(seed), image, 0.5)) == ra.FILL
        rows, columns = grey[..., 0].any(axis=1), grey[..., 0].any(axis=0)
        assert grey.sum() == 3 * rows.sum() * columns.sum()  # a rectangle, perhaps cut by the edge
        assert SIZE // 4 <= rows.sum() <= SIZE // 2 and np.ptp(np.flatnonzero(rows)) < SIZE / 2


@pytest.mark.slow
def test_images_differ_in_range_and_repeat_by_the_key():
    images = jnp.asarray(np.stack([DARK] * 16))
    out = altered(jax.random.key(0), images, ops=2, magnitude=20.0, square=0.25)
    assert out.shape == images.shape and out.dtype == jnp.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 255
    assert len(np.unique(np.asarray(out).reshape(16, -1), axis=0)) > 12
    again = altered(jax.random.key(0), images, ops=2, magnitude=20.0, square=0.25)
    assert jnp.array_equal(out, again)
    plain = altered(jax.random.key(0), images, ops=0, magnitude=20.0, square=0.0)
    assert jnp.array_equal(plain, images.astype(jnp.float32))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 8, 9, 3\); give square ones"):
        ra.randaugment(jax.random.key(0), jnp.zeros((2, 8, 9, 3)))
