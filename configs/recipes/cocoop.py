"""CoCoOp: learned context that depends on the image.

clipjax run recipes/cocoop
clipjax run recipes/cocoop methods.cocoop.batch_size=16      faster; the paper's batches are of 1

Zhou et al. 2022 (arXiv 2203.05557) with the rate, the batches and the 10 epochs of their code. Each
image is compared with texts of its own, so that training and testing encode images times classes
texts: the slowest of these methods by far.
"""

from clipjax.configs.recipes.coop import sgd

from clipjax.configs import common


def entry(epochs: int = 10) -> dict:
    """Return CoCoOp's entry, trained for so many epochs."""
    return {"loss": "cocoop", "epochs": epochs, "batch_size": 1, "optim": sgd(2e-3, epochs)}


def get_config(arg: str | None = None):
    """`recipes/cocoop[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment, config.stages = "cocoop", ("cocoop",)
    smoke = common.apply_arg(config, arg)
    config.methods.cocoop = entry(2 if smoke else 10)
    if smoke:
        config.methods.cocoop.batch_size = 64
    return config
