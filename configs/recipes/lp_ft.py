"""LP-FT: a linear probe in closed form, then the image tower trains too, from there.

clipjax run recipes/lp_ft

Kumar et al. 2022 (arXiv 2202.10054): what a random head teaches in its first steps distorts the
features; one that fits them already moves them less. `probe` is the start, logistic regression
whose strength validation images choose; `lp_ft` goes on from it with every layer of the image
tower; `random` is the same from a random head, whose own rate is 100 times higher. What differs
from their code: AdamW with a cosine in place of SGD, one rate in place of ten, no random crops.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/lp_ft[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "lp_ft"
    config.epochs = 5
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.epochs = 1
    return config


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    free = {"loss": "finetune", "freeze": ()}
    optim = {"lr": 3e-5, "weight_decay": 0.0}
    head = {"lr_mults": (("classifier", 100.0),)}
    return {
        "probe": {"loss": "probe"},
        "lp_ft": free | {"heads": {"start": "logistic"}, "optim": optim},
        "random": free | {"heads": {"start": "random"}, "optim": optim | head},
    }
