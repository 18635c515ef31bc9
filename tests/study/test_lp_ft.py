"""LP-FT: fine-tuning from the logistic regression that validation images choose."""

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
    for name in entries:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            layer(name),
            layer("probe"),
        )
    again = trained(config, tmp_path, "pixels", programs).params
    jax.tree.map(np.testing.assert_array_equal, again, found.params["pixels"])
