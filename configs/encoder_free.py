"""Anchored methods that train the image tower too: CMKD, of biases alone, and FixMatch.

clipjax run encoder_free model=openai/clip-vit-base-patch16

Rates are those published for CMKD on ViT-B (Zhou & Zhou 2024): 3e-6 in the tower, 1000 times that
in the head.
"""

from clipjax.configs import common

TEXT_TOWER = ("clip/text/.*", "clip/logit_scale")
# Patterns of single parameters, none of which is a layer group's name: all but the biases.
ALL_BUT_BIASES = (
    r"clip/vision/.*/(kernel|scale)",
    r"clip/vision/(class|patch|position)_embedding",
    r"clip/visual_projection/kernel",
)


def methods() -> dict:
    """The methods by name: BitFit (Zaken et al. 2022, arXiv 2106.10199) trains biases alone."""
    cmkd = {"loss": "cmkd", "heads": {"class_bias": False}, "freeze": TEXT_TOWER}
    # A square of half the side and two strong operations on a crop: the strong view of FixMatch.
    strong = {"smallest": 0.5, "ops": 2, "magnitude": 20.0, "cutout": 0.5}
    return {
        "cmkd": cmkd,
        "cmkd_biases": cmkd | {"freeze": TEXT_TOWER + ALL_BUT_BIASES},
        "fixmatch": cmkd | {"loss": "fixmatch", "threshold": 0.95, "augment": strong},
    }


def get_config(arg: str | None = None):
    """`--config=configs/encoder_free.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "encoder_free"
    config.methods = methods()
    config.stages = tuple(config.methods)
    config.epochs = 20
    config.optim.lr, config.optim.weight_decay = 3e-6, 1e-2
    config.optim.lr_mults = (("classifier", 1000.0),)
    if common.apply_arg(config, arg):
        config.epochs = 1
    return config
