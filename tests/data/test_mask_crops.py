"""Joint augmentation: image and mask stay aligned, whatever is drawn."""

import numpy as np
import pytest

from clipjax.data.images.mask_crops import FILL, Crops, crop_together, resized

SIZE = (60, 90)
ROWS, COLUMNS = (x.astype(np.uint8) * 2 for x in np.indices(SIZE))
IMAGE = np.stack([ROWS, COLUMNS, np.full(SIZE, 7, np.uint8)], axis=2)  # its pixels are its places


def both(crops: Crops, seed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop of the image, and of two masks that hold each pixel's row and column."""
    image, rows = crop_together(IMAGE, ROWS, crops, seed)
    again, columns = crop_together(IMAGE, COLUMNS, crops, seed)
    assert np.array_equal(image, again)
    return image.astype(int), rows.astype(int), columns.astype(int)


@pytest.mark.parametrize("size", [None, (16, 24), (64, 40), (100, 120)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_pixel_of_a_mask_is_that_of_the_image(size, scale, mirror):
    crops = Crops(size, scale, mirror)
    places, drawn = set(), set()
    for seed in range(25):
        image, rows, columns = both(crops, (3, seed))
        assert image.shape[:2] == rows.shape and (size is None or rows.shape == size)
        there = rows != 255
        assert np.array_equal(there, columns != 255) and there.any()
        # What a mask says of its place is what the image shows there, to the width of a pixel.
        exact = scale == (1.0, 1.0)
        for shown, told in ((image[..., 0], rows), (image[..., 1], columns)):
            assert np.abs(shown - told)[there].max() <= (0 if exact else 3)
        assert (image[~there] == FILL).all()
        assert set(np.unique(rows[there])) <= set(ROWS[:, 0].tolist())  # nearest: no new values
        places.add((int(rows[0, 0]), int(columns[0, 0])))
        drawn.add((int(columns[0, 1]) < int(columns[0, 0]), rows.shape))
    if size == (16, 24):
        assert len(places) > 15  # crops lie anywhere
    if mirror and size is not None and scale == (1.0, 1.0) and size[1] <= SIZE[1]:
        assert len(drawn) == 2  # some are mirrored, some not
    if size is None and scale != (1.0, 1.0):
        assert len(drawn) > 15  # of many sizes


def test_the_same_seed_gives_the_same_crop_and_another_another():
    crops = Crops((16, 24), (0.5, 2.0), True)
    first, second, other = (crop_together(IMAGE, ROWS, crops, s) for s in ((1, 2), (1, 2), (2, 1)))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], other[0])
    nothing = crop_together(IMAGE, ROWS, Crops(), (0,))
    assert np.array_equal(nothing[0], IMAGE) and np.array_equal(nothing[1], ROWS)
    assert not Crops().changes and Crops((8, 8)).changes and Crops(mirror=True).changes


def test_crops_of_one_class_are_drawn_anew():
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 1
    mask[:6] = 255  # counts for nothing
    image = np.zeros((40, 40, 3), np.uint8)
    share = lambda ratio, seed: np.bincount(
        crop_together(image, mask, Crops((8, 16), cat_max_ratio=ratio), (seed,))[1].ravel(),
        minlength=2,
    )[:2]
    alone = lambda ratio: sum(share(ratio, seed).min() == 0 for seed in range(60))
    # Of 25 places 10 show one class alone, and 9 show at least a quarter of both.
    assert alone(1.0) > 12 and alone(0.75) <= 3


def test_masks_are_resized_to_their_nearest_pixels():
    assert set(np.unique(resized(ROWS, (37, 51)))) <= set(np.unique(ROWS))
    assert resized(IMAGE, (37, 51)).shape == (37, 51, 3)
    assert resized(ROWS, SIZE) is ROWS
