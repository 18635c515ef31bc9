"""The image tower without its texts: a random head, and everything trains (arXiv 2311.02236).

clipjax run recipes/vision_only
clipjax run recipes/vision_only methods.vision_only.freeze="('clip/.*',)"   the head alone
clipjax run recipes/vision_only root=... source=id target=ood model=google/vit-base-patch16-224

The paper's own vision-only model is a ViT of supervised ImageNet weights, as the last line takes
one (any of model_type `vit`, with its own preprocessing); the first is CLIP's tower.
Not measured on the embedded data; a seed takes some minutes on two cores. The head alone is
`probe_random` of recipes/linear_probe.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/vision_only[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "vision_only"
    config.epochs = 20
    config.stages = ("vision_only",)
    config.methods.vision_only = {
        "loss": "finetune",
        "heads": {"start": "random"},
        "freeze": (),
        "optim": {"lr": 1e-4, "weight_decay": 1e-4, "lr_mults": (("classifier", 100.0),)},
    }
    if common.apply_arg(config, arg):
        config.epochs = 1
    return config
