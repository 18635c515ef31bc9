"""Augmentation on the device: places, colours and ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.images.augment import augment_drawings, random_resized_crop, resample_matrices

cropped = jax.jit(random_resized_crop, static_argnames=("smallest", "flip"))  # as training does


def test_scale_one_and_no_shift_is_identity():
    matrix = resample_matrices(jnp.ones(1), jnp.zeros(1), 8)
    np.testing.assert_allclose(matrix[0], np.eye(8), atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3])
def test_a_flat_area_stays_flat(scale):
    """Every row of weights inside the picture sums to 1: no ripples."""
    matrix = resample_matrices(jnp.array([scale]), jnp.zeros(1), 64)[0]
    inner = slice(24, 40)
    np.testing.assert_allclose(matrix.sum(axis=1)[inner], 1.0, atol=1e-5)


def test_shift_moves_by_a_share_of_the_size():
    matrix = resample_matrices(jnp.ones(1), jnp.array([0.25]), 8)[0]
    line = jnp.zeros(8).at[2].set(1.0)
    assert int(jnp.argmax(matrix @ line)) == 4


@pytest.mark.slow
def test_drawings_are_painted_in_range_and_differ_by_rng():
    rgba = np.zeros((4, 16, 16, 4), np.uint8)
    rgba[:, 4:12, 4:12] = 255
    mono = jnp.array([True, True, False, False])
    draw = jax.jit(augment_drawings)
    one, two = (draw(jax.random.key(s), jnp.asarray(rgba), mono) for s in (0, 1))
    assert one.shape == (4, 16, 16, 3) and one.dtype == jnp.float32
    assert float(one.min()) >= 0 and float(one.max()) <= 1
    assert not jnp.array_equal(one, two)
    contrast = jnp.abs(one[:2, 8, 8] - one[:2, 0, 0]).max(axis=-1)
    assert (contrast > 0.1).all()  # ink differs from paper


def ramp(size=16):
    """Two images whose red grows to the right and green downwards, in pixels."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return jnp.asarray(np.stack([np.stack([x, y, 0 * x], axis=-1)] * 2))


def test_a_crop_is_a_part_of_the_image_at_full_size():
    out = np.asarray(cropped(jax.random.key(1), ramp(), smallest=0.3, flip=False))
    assert out.shape == (2, 16, 16, 3) and out.min() >= 0 and out.max() <= 15 + 1e-4
    across, down = np.diff(out[..., 0], axis=2)[:, 4:-4, 4:-4], np.diff(out[..., 1], axis=1)
    # A linear ramp stays one; its slope is the share of the side that was kept.
    assert np.ptp(across, axis=(1, 2)).max() < 1e-3
    area = across.mean(axis=(1, 2)) * down[:, 4:-4, 4:-4].mean(axis=(1, 2))
    assert np.all((area > 0.28) & (area <= 1.0))
    assert not np.allclose(out[0], out[1])  # each image has its own crop


@pytest.mark.slow
def test_the_whole_image_stays_as_it_is_and_half_are_mirrored():
    images = jnp.concatenate([ramp()] * 16).astype(jnp.uint8)
    kept = cropped(jax.random.key(0), images[:2], smallest=1.0, flip=False)
    assert kept.dtype == jnp.float32
    # The whole area with another aspect ratio is cut to the side that fits.
    assert np.abs(np.asarray(kept) - np.asarray(images[:2], np.float32)).max() < 2.5
    out = np.asarray(cropped(jax.random.key(0), images, smallest=1.0))
    mirrored = out[:, 8, 0, 0] > out[:, 8, -1, 0]
    assert 8 <= mirrored.sum() <= 24
