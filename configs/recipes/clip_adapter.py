"""CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544): a residual bottleneck on image features.

clipjax run recipes/clip_adapter

Ratio 0.2, a bottleneck of a quarter of the width, batches of 32 and the rate of 1e-5 are the
paper's; the code leaves optimizer and epochs to a file that is not published: Adam and the 200
epochs of CoOp are taken.
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
