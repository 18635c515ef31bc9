"""VPD, Domino-Add and -Sub on a small diffusion backbone of random weights: a smoke test.

clipjax run vpd_smoke
clipjax run vpd_smoke diffusion.unet=free
clipjax run vpd_smoke mixing.shares="(0.0, 0.5)"

The rows are configs/vpd_driving.py's, {none, add, sub} of W on the prompts x {plain, Domino} norms,
on a few embedded scenes. It shows that all of this runs; what it measures means nothing.
"""

from ml_collections import ConfigDict

from clipjax.configs import common, vpd_driving
from clipjax.study import Segmentation, flat


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/vpd_smoke.py[:smoke]`."""
    config = ConfigDict(flat(Segmentation()))
    config.diffusion.update(model="random", prompts="simple")
    config.methods = vpd_driving.methods()
    config.seeds = (0,)
    config.data.update(train=16, test=4)
    config.epochs, config.batch_size, config.width = 1, 8, 16
    common.apply_arg(config, arg)
    return config
