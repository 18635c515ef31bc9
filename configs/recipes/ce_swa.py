"""Cross-entropy on both towers, then the average of the last epochs (SWA): arXiv 2311.02236.

clipjax run recipes/ce_swa
clipjax run recipes/ce_swa methods.ce_swa.freeze="('clip/vision/.*',)"   the text tower alone

Both towers and the scale train through the text classifier, as in the paper's code: without label
smoothing, clipping or a warm-up. The second half is averaged; "last" and "average" are two results.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/ce_swa[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "ce_swa"
    config.batch_size = 128
    epochs = 1 if common.apply_arg(config, arg) else 10
    config.stages = ("ce_swa",)
    config.methods.ce_swa = {
        "loss": "finetune",
        "heads": {"text": True},
        "freeze": (),
        "optim": {"lr": 1e-5, "weight_decay": 1e-4, "schedule": "constant", "clip_norm": 0.0},
        "phases": {
            "train": {"epochs": epochs},
            "swa": {"epochs": epochs, "average": {"kind": "uniform"}},
        },
        "phase_order": ("train", "swa"),
    }
    return config
