"""CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544): a residual bottleneck on image features.

clipjax run recipes/clip_adapter

Ratio 0.2, a bottleneck of a quarter of the width, batches of 32 and the rate of 1e-5 are the
paper's; the code leaves optimizer and epochs to a file that is not published: Adam and the 200
epochs of CoOp are taken.

On the embedded data, as `few_shot` has it (200 steps of 32 images, docs/few-shot.md), 1, 4 and 16
images a class, three subsets, test accuracy in % on render: 43.2 ± 1.9, 45.3 ± 1.2, 48.1 ± 1.5;
trained on base classes 61.0 ± 1.4 on these and 32.7 ± 1.3 on new ones. Zero-shot has 46.2, and 59.6
and 40.4.
"""

from clipjax.configs import common


def methods() -> dict[str, dict]:
    """Return the method's entry."""
    return {
        "clip_adapter": {
            "loss": "clip_adapter",
            "ratio": 0.2,
            "epochs": 200,
            "batch_size": 32,
            "optim": {"name": "adam", "lr": 1e-5, "weight_decay": 0.0, "clip_norm": 0.0},
        }
    }


def get_config(arg: str | None = None):
    """`recipes/clip_adapter[:source=...,target=...,smoke]`; data.shots is 16."""
    config = common.few_shots()
    config.experiment = "clip_adapter"
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.methods.clip_adapter.epochs = 2
    return config
