"""The image tower without its texts: a random head, and everything trains (arXiv 2311.02236).

clipjax run recipes/vision_only
clipjax run recipes/vision_only methods.vision_only.freeze="('clip/.*',)"   the head alone
clipjax run recipes/vision_only root=... source=id target=ood model=google/vit-base-patch16-224

The paper's own vision-only model is a ViT of supervised ImageNet weights, as the last line takes
one (any of model_type `vit`, with its own preprocessing); the first is CLIP's tower.
The head alone is `probe_random` of recipes/linear_probe. A seed takes some minutes on two cores.
Measured on the embedded data by `clipjax suite --study=robust`, in short (20 steps of 32 images):
with all of render 44.2 ± 1.1 there and 34.2 ± 0.9 on the mean of the other styles (2 runs),
zero-shot 46.2 and 39.8; with a tenth 36.0 ± 1.7 and 29.1 ± 1.1 (4 runs;
docs/robust-fine-tuning.md).
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
