"""CLIP-CITE: both towers fine-tuned on 16 images a class, drawn half way back (arXiv 2407.04003).

clipjax run recipes/clip_cite
clipjax run recipes/clip_cite methods.clip_cite.distill_weight=0 methods.clip_cite.alignment=text

From the paper: the three losses and their weights 0.7 and 0.1, AdamW at 5e-6 along a cosine,
batches of 32, 20 epochs, random crops without anything else, alpha 0.5, 3 seeds. Not given there,
and taken here: weight decay 0.01, no warm-up and no clipping, crops of 8 to 100 % of the area, a
fixed temperature. What the equations leave open is in clipjax/adapt/cite.py. Results are "last",
which is alpha 1, and "wise_0.5", the paper's.
"""

from clipjax.configs import common


def entry() -> dict:
    """Return the method as published."""
    return {
        "loss": "cite",
        "heads": {"text": True},
        "freeze": ("clip/logit_scale",),
        "epochs": 20,
        "batch_size": 32,
        "augment": {"smallest": 0.08, "flip": False},
        "optim": {"lr": 5e-6, "weight_decay": 1e-2, "schedule": "cosine", "clip_norm": 0.0},
        "wise": (0.5,),
    }


def get_config(arg: str | None = None):
    """`recipes/clip_cite[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "clip_cite"
    config.stages = ("clip_cite",)
    config.data.shots, config.data.shots_missing = 16, "all"  # the embedded data have fewer
    config.methods.clip_cite = entry()
    if common.apply_arg(config, arg):
        config.data.shots, config.methods.clip_cite.epochs = 1, 1
    return config
