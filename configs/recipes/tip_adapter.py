"""Tip-Adapter and Tip-Adapter-F (Zhang et al. 2022, arXiv 2207.09519): labelled images as a cache.

clipjax run recipes/tip_adapter

The grid is the code's for ImageNet, on the source's validation images; keys train as there, by
AdamW of rate 1e-3 and eps 1e-4, 20 epochs of batches of 256. The code's keys are means of ten
augmented views of an image, and it trains on such views; here an image is seen once, as it is.

On the embedded data, as `few_shot` has it (200 steps of 32 images, docs/few-shot.md), 1, 4 and 16
images a class, three subsets, test accuracy in % on render: tip 45.5 ± 0.8, 43.6 ± 2.7, 46.7 ± 1.7;
trained on base classes 58.7 ± 2.1 on these; tip_f 45.9 ± 2.8, 44.2 ± 4.0, 47.3 ± 0.4; trained on
base classes 56.6 ± 3.9 on these. Zero-shot has 46.2, and 59.6 and 40.4.
"""

from clipjax.configs import common


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    return {
        "tip": {"loss": "tip"},
        "tip_f": {
            "loss": "tip_f",
            "epochs": 20,
            "batch_size": 256,
            "optim": {"lr": 1e-3, "eps": 1e-4, "weight_decay": 1e-2, "clip_norm": 0.0},
        },
    }


def get_config(arg: str | None = None):
    """`recipes/tip_adapter[:source=...,target=...,smoke]`; data.shots is 16."""
    config = common.few_shots()
    config.experiment = "tip_adapter"
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.methods.tip_f.epochs = 2
    return config
