"""KgCoOp: CoOp whose class texts stay near those of zero-shot.

clipjax run recipes/kgcoop

Yao et al. 2023 (arXiv 2303.13283) with the rate, the weight and the 100 epochs of their code, which
has batches of 128. The texts that it stays near are those of the run's `prompts`.
"""

from clipjax.configs.recipes.coop import sgd

from clipjax.configs import common


def entry(epochs: int = 100) -> dict:
    """Return KgCoOp's entry, trained for so many epochs."""
    optim = sgd(2e-3, epochs)
    return {"loss": "kgcoop", "epochs": epochs, "batch_size": 128, "optim": optim}


def get_config(arg: str | None = None):
    """`recipes/kgcoop[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment, config.stages = "kgcoop", ("kgcoop",)
    config.methods.kgcoop = entry(2 if common.apply_arg(config, arg) else 100)
    return config
