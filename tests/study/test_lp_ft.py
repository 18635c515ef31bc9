"""LP-FT: fine-tuning from the logistic regression that validation images choose."""

import functools

import jax
import numpy as np
import pytest

from clipjax.study import run
from tests.conftest import parsed
from tests.study.test_study import config_of, trained

HEADS = {"start": "logistic"}
PIXELS = {"freeze": ("clip/text/.*", "clip/vision/embedding", "clip/logit_scale")}


@pytest.mark.slow
def test_training_begins_at_the_probe_of_frozen_features(photos, wee_clip, tmp_path, programs):
    """With rate 0 it is the probe: from pixels, and on cached features beside a domain head."""
    still = {"loss": "finetune", "heads": HEADS, "epochs": 1, "optim": {"lr": 0.0}}
    dann = still | {"loss": "dann", "heads": HEADS | {"discriminator": (4,)}}
    entries = {"pixels": still | PIXELS, "dann": dann}
    config = config_of(photos, wee_clip, probe={"loss": "probe"}, **entries)
    config.seeds = (0,)
    found = run(parsed(config), tmp_path, pages=False, programs=programs)
    layer = lambda name: found.params[name]["classifier"]["layer_0"]
    # Both fits end where no part of a gradient is above 1e-5, in coordinates that the kernel is
    # hundreds of times in: rounding, which differs between programs, ends them at different steps.
    # The next strength of the grid is three times this one: tens of % away.
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4)
    for name in entries:
        jax.tree.map(close, layer(name), layer("probe"))
    again = trained(config, tmp_path, "pixels", programs).params
    jax.tree.map(np.testing.assert_array_equal, again, found.params["pixels"])
