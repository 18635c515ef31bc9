"""Shared by tests of studies."""

import pytest

from clipjax.study import segmentation_maps


@pytest.fixture(scope="module", autouse=True)
def few_at_a_time():
    """Ten images are encoded, or answered, at a time: here they are few, and a batch is filled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation_maps, "BATCH", 10)
        yield
