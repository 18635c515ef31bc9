"""CoCoOp: learned context that depends on the image.

clipjax run recipes/cocoop
clipjax run recipes/cocoop methods.cocoop.batch_size=16      faster; the paper's batches are of 1

Zhou et al. 2022 (arXiv 2203.05557) with the rate, the batches and the 10 epochs of their code. Each
image is compared with texts of its own, so that training and testing encode images times classes
texts: the slowest of these methods by far. As in recipes/coop images are not cropped at random.

On the embedded data, as `few_shot` has it (20 steps of 16 images, docs/few-shot.md), 1, 4 and 16
images a class, three subsets, test accuracy in % on render: 37.6 ± 0.2, 38.1 ± 0.7, 38.5 ± 0.8;
trained on base classes 52.1 ± 0.7 on these and 33.0 ± 1.0 on new ones. Zero-shot has 46.2, and 59.6
and 40.4.
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
