"""LP-FT: a linear probe in closed form, then the image tower trains too, from there.

clipjax run recipes/lp_ft

Kumar et al. 2022 (arXiv 2202.10054): what a random head teaches in its first steps distorts the
features; one that fits them already moves them less. `probe` is the start, logistic regression
whose strength validation images choose; `lp_ft` goes on from it with every layer of the image
tower; `random` is the same from a random head, whose own rate is 100 times higher. What differs
from their code: AdamW with a cosine in place of SGD, one rate in place of ten, no random crops.

On the embedded data, as `clipjax run recipes/lp_ft seeds="(0,1)" epochs=3` (21 steps, half a minute
a seed and method on two busy cores), test accuracy in % on render (the source), stencil and the
mean of all five other styles, ± standard deviation over both seeds: zero-shot 46.2, 35.4, 39.8; the
probe 50.4, 28.1, 37.6; LP-FT 50.4 ± 0.5, 26.5 ± 0.0, 36.6 ± 0.1; from a random head 23.8 ± 7.6,
19.2 ± 7.6, 20.9 ± 5.4, which is not trained to its end. So LP-FT keeps what the probe has, where
a random head needs many more steps; with so few of them it gains nothing over the probe, and both
are below zero-shot on other styles, which a head that starts at the texts is not.
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
