"""CLIP-LoRA (Zanella and Ben Ayed 2024, arXiv 2405.18541): low-rank factors in both towers.

clipjax run recipes/lora

As published: rank 2 on the query, key and value projections of all blocks, dropout 0.25 before
them, AdamW of rate 2e-4 down to 1e-6, batches of 32, 500 steps for each image of a class, crops
from 0.08 of the area. The code's float16 is left out. Results must be those of both towers as they
are trained, so images are encoded from pixels: on two cores take fewer steps, data.epoch=50.

On the embedded data, as `few_shot` has it (20 steps of 16 images, docs/few-shot.md), 1, 4 and 16
images a class, three subsets, test accuracy in % on render: 47.3 ± 0.4, 47.3 ± 0.4, 47.7 ± 0.4;
trained on base classes 61.9 ± 1.6 on these and 39.8 ± 0.5 on new ones. Zero-shot has 46.2, and 59.6
and 40.4.
"""

from clipjax.configs import common

SHOTS = 16


def methods() -> dict[str, dict]:
    """Return the method's entry."""
    return {
        "lora": {
            "loss": "lora",
            "rank": 2,
            "scaling": "rs",
            "dropout": 0.25,
            "epochs": SHOTS,
            "batch_size": 32,
            "augment": {"smallest": 0.08, "flip": True},
            "optim": {"lr": 2e-4, "min_lr": 1e-6, "weight_decay": 1e-2, "clip_norm": 0.0},
        }
    }


def get_config(arg: str | None = None):
    """`recipes/lora[:source=...,target=...,smoke]`; an epoch is 500 steps, data.shots is 16."""
    config = common.few_shots(SHOTS)
    config.experiment, config.data.epoch = "lora", "500"
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.data.epoch, config.methods.lora.epochs = "5", 1
    return config
