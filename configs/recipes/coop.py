"""CoOp: a few learned vectors in place of a template's words; both towers stay as they are.

clipjax run recipes/coop
clipjax run recipes/coop methods.coop.words="''" methods.coop.context=16     random vectors
clipjax run recipes/coop methods.coop.words="''" methods.coop.per_class=True     of each class (CSC)

Zhou et al. 2022 (arXiv 2109.01134), with their optimizer: SGD at 0.002, an epoch at 1e-5 first,
then a cosine by epochs, batches of 32, 200 epochs (16 and 8 shots; 100 of 4 and 2, 50 of 1). The
vectors start as "a photo of a", as in the base-to-new tables of later papers; random ones are 16
there, which the 16 tokens of the embedded model's texts have no room for. Images are not cropped at
random, so that they are encoded once and all seeds train as one program.

On the embedded data, as `few_shot` has it (200 steps of 32 images, docs/few-shot.md), 1, 4 and 16
images a class, three subsets, test accuracy in % on render: 35.9 ± 1.8, 43.6 ± 2.7, 45.3 ± 0.6;
trained on base classes 57.1 ± 3.1 on these and 30.7 ± 0.9 on new ones. Zero-shot has 46.2, and 59.6
and 40.4.
"""

from clipjax.configs import common

# What their code does to images in training, and that of all who build on it; where an image is
# encoded once, it is left out.
CROPS = {"smallest": 0.08, "flip": True}


def sgd(lr: float, epochs: int) -> dict:
    """Return the optimizer of CoOp's code and of those that build on it (Dassl's defaults)."""
    return {
        "name": "sgd",
        "nesterov": False,
        "lr": lr,
        "weight_decay": 5e-4,
        "decay": "all",
        "warmup": 1 / epochs,
        "warmup_kind": "constant",
        "warmup_from": 1e-5,
        "schedule_every": "epoch",
        "clip_norm": 0.0,
    }


def entry(epochs: int = 200) -> dict:
    """Return CoOp's entry, trained for so many epochs."""
    return {
        "loss": "coop",
        "words": "a photo of a",
        "epochs": epochs,
        "batch_size": 32,
        "optim": sgd(2e-3, epochs),
    }


def get_config(arg: str | None = None):
    """`recipes/coop[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment, config.stages = "coop", ("coop",)
    config.methods.coop = entry(2 if common.apply_arg(config, arg) else 200)
    return config
