"""MaPLe: learned tokens in both towers and several blocks, the image's made of the text's.

clipjax run recipes/maple

Khattak et al. 2023 (arXiv 2210.03117) with the rate, batches and 2 epochs of their cross-dataset
setting, whose depth of 3 the embedded model's text tower has; its base-to-new setting is depth 9,
5 epochs at 0.0035, of 12 blocks. Every step encodes images, cropped and mirrored as there.

On the embedded data, as `few_shot` has it (20 steps of 16 whole images, docs/few-shot.md), 1, 4
and 16 images a class, three subsets, accuracy in % on render: 39.9 ± 0.8, 39.4 ± 1.4, 39.4 ± 1.0;
trained on base classes 57.3 ± 0.8 on these and 34.8 ± 1.3 on new ones. Zero-shot has 46.2, and 59.6
and 40.4.
"""

from clipjax.configs.recipes.coop import CROPS, sgd

from clipjax.configs import common


def entry(depth: int = 3) -> dict:
    """Return MaPLe's entry: of depth 9 as in base-to-new, of others as in cross-dataset."""
    epochs, lr = (5, 3.5e-3) if depth == 9 else (2, 2.6e-3)
    optim = sgd(lr, epochs)
    return {"loss": "maple", "depth": depth, "epochs": epochs, "batch_size": 4, "optim": optim}


def get_config(arg: str | None = None):
    """`recipes/maple[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment, config.stages = "maple", ("maple",)
    smoke = common.apply_arg(config, arg)
    config.methods.maple = entry() | {"augment": CROPS}
    if smoke:
        config.methods.maple.batch_size = 64
    return config
