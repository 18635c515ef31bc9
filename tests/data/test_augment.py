"""Augmentation on the device: places, colours and ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.augment import augment_drawings, resample_matrices


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


def test_drawings_are_painted_in_range_and_differ_by_rng():
    rgba = np.zeros((4, 16, 16, 4), np.uint8)
    rgba[:, 4:12, 4:12] = 255
    mono = jnp.array([True, True, False, False])
    one, two = (augment_drawings(jax.random.key(s), jnp.asarray(rgba), mono) for s in (0, 1))
    assert one.shape == (4, 16, 16, 3) and one.dtype == jnp.float32
    assert float(one.min()) >= 0 and float(one.max()) <= 1
    assert not jnp.array_equal(one, two)
    contrast = jnp.abs(one[:2, 8, 8] - one[:2, 0, 0]).max(axis=-1)
    assert (contrast > 0.1).all()  # ink differs from paper
