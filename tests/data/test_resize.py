"""The resize by matrix products: Pillow's bits, or left to Pillow."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clipjax.data.images import resize as resizing
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.images.resize import applies, coefficients, resize

# (width, height) of pictures and of what they are resized to: photographs, enlarging, one side
# smaller and one larger, odd sizes, a factor of ten, thin ones.
SHAPES = [
    ((500, 375), (298, 224)),
    ((375, 500), (224, 298)),
    ((201, 157), (448, 350)),
    ((331, 97), (200, 111)),
    ((1231, 1009), (123, 101)),
    ((900, 31), (1300, 45)),
    ((640, 427), (335, 224)),
]


def noise(width, height, seed=0):
    """The hardest there is: every pixel 0, 255 or something else, so that sums overshoot."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3))
    return np.where(rng.random(pixels.shape) < 0.6, (pixels > 127) * 255, pixels).astype(np.uint8)


def by_pillow(pixels, width, height, resample=3):
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), resample=resample))


@pytest.mark.parametrize(("old", "new"), SHAPES, ids=str)
def test_the_bits_are_those_of_pillow(old, new):
    pixels = noise(*old)
    found = resize(pixels, *new, 3, (0, 0, *new))
    np.testing.assert_array_equal(found, by_pillow(pixels, *new))


def test_a_window_is_a_part_of_the_whole():
    pixels = noise(500, 375)
    left, top, right, bottom = window = (37, 3, 261, 200)
    found = resize(pixels, 298, 224, 3, window)
    np.testing.assert_array_equal(found, by_pillow(pixels, 298, 224)[top:bottom, left:right])


@pytest.mark.parametrize("seed", range(12))
def test_random_sizes_and_strides_have_the_bits_of_pillow(seed):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(150, 700, 2)
    new = tuple(int(n) for n in rng.integers(20, 400, 2))
    pixels = noise(width, height, seed)[::-1].swapaxes(0, 1)  # as a turned picture comes
    found = resize(pixels, *new, 3, (0, 0, *new))
    if found is None:
        assert pixels.shape[0] - new[1] > 2 * (pixels.shape[1] - new[0])
    else:
        np.testing.assert_array_equal(found, by_pillow(pixels, *new))


@pytest.mark.parametrize(
    ("old", "new", "resample"),
    [
        ((500, 375), (298, 224), 2),  # another filter
        ((90, 90), (40, 40), 3),  # small
        ((500, 375), (500, 224), 3),  # one side as it was
        ((500, 375), (298, 375), 3),
        ((300, 900), (224, 672), 3),  # Pillow 13 begins with the height
    ],
    ids=str,
)
def test_what_is_left_to_pillow(old, new, resample):
    assert not applies(*old, *new, resample)
    assert resize(noise(*old), *new, resample, (0, 0, *new)) is None


def test_weights_by_hand():
    """Halving: distances of a quarter and three quarters from the centre, and so on."""
    low, high, weights = coefficients(16, 8)
    keys = [
        -0.5 * 1.75**3 + 2.5 * 1.75**2 - 4 * 1.75 + 2,
        -0.5 * 1.25**3 + 2.5 * 1.25**2 - 4 * 1.25 + 2,
        1.5 * 0.75**3 - 2.5 * 0.75**2 + 1,
        1.5 * 0.25**3 - 2.5 * 0.25**2 + 1,
    ]
    assert (low[4], high[4]) == (5, 13)
    np.testing.assert_allclose(weights[4], np.array(keys + keys[::-1]) / 2, atol=2**-22)
    assert (weights * 2**22 % 1 == 0).all()


@pytest.fixture
def taken(monkeypatch):
    """Sizes of the pictures that `resize` was given, in a process whose threads never met."""
    found = []

    def noted(pixels, *rest):
        found.append(pixels.shape[1::-1])
        return resizing.resize(pixels, *rest)

    monkeypatch.setattr("clipjax.data.images.preprocess.resize", noted)
    monkeypatch.setattr(resizing.Alone, "met", False)
    return found


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (260, 1000), (1000, 260)], ids=str)
def test_both_decoders_give_one_crop_and_the_reference_is_pillow_alone(shape, taken):
    pixels = noise(*shape)
    reference = Preprocess(size=224, decoder="reference").crop(pixels)
    assert taken == []
    np.testing.assert_array_equal(Preprocess(size=224).crop(pixels), reference)
    assert taken == [shape]


def test_threads_that_meet_get_the_same_bits_and_leave_the_rest_to_pillow(taken, monkeypatch):
    pixels = [noise(400, 300, seed) for seed in range(3)]
    wanted = [Preprocess(size=224, decoder="reference").crop(one) for one in pixels]
    crop, within = Preprocess(size=224).crop, []

    def meet(*args):  # another thread's crop begins within this one's
        with ThreadPoolExecutor(1) as pool:
            within.append(pool.submit(crop, pixels[1]).result())
        return resizing.resize(*args)

    monkeypatch.setattr("clipjax.data.images.preprocess.resize", meet)
    found = [crop(pixels[0]), within[0], crop(pixels[2])]
    assert resizing.Alone.met and resizing.Alone.inside == 0
    assert len(within) == 1  # after the meeting nobody takes this way
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
