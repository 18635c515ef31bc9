"""KgCoOp: CoOp whose class texts stay near those of zero-shot.

clipjax run recipes/kgcoop

Yao et al. 2023 (arXiv 2303.13283) with the rate, the weight and the 100 epochs of their code, which
has batches of 128. The texts that it stays near are those of the run's `prompts`. Images are not
cropped at random, as in recipes/coop.

On the embedded data, as `few_shot` has it (200 steps of 32 images, docs/few-shot.md), 1, 4 and 16
images a class, three subsets, test accuracy in % on render: 43.1 ± 2.3, 45.4 ± 1.4, 45.4 ± 2.3;
trained on base classes 56.4 ± 0.8 on these and 33.6 ± 1.3 on new ones. Zero-shot has 46.2, and 59.6
and 40.4.
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
