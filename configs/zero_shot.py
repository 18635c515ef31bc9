"""Zero-shot accuracy of a CLIP on every domain: nothing is trained (the report's Table 1).

clipjax run zero_shot
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`--config=configs/zero_shot.py[:model=...,root=...]`."""
    config = common.study()
    config.experiment = "zero_shot"
    common.apply_arg(config, arg)
    return config
