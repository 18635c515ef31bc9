"""The main job: zero-shot, heads on the source, DANN, and what stays anchored to zero-shot.

clipjax run dann

CLIP is frozen. The report's rows (Tables 3 and 5), beside them the anchored row to deploy and the
upper bound that labels of the target would give. README.md shows what it prints on the embedded
data. There the source is render, the style nearest to photographs, and the target that with the
largest gap of zero-shot to it on validation images.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`--config=configs/dann.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "dann"
    config.stages = ("finetune", "source_only", "dann", "blend", "upper_bound")
    config.methods.finetune = common.mlp_head()
    # The same network as DANN's without domain loss: what separates the two is DANN alone.
    trunk = {"adapter": (256, 256, 256), "classifier": (256,)}
    config.methods.source_only = {"loss": "finetune", "label_smoothing": 0.1, "heads": trunk}
    config.methods.dann = {
        "loss": "dann",
        "label_smoothing": 0.1,
        "schedule": "ganin",
        "lam_max": 0.3,
        "gamma": 10.0,
        "domain_weight": 1.0,
        "heads": trunk | {"discriminator": (256,)},
    }
    config.methods.blend = {"loss": "blend"}
    config.methods.upper_bound = {"loss": "logistic", "data": {"labels": "target"}}
    if common.apply_arg(config, arg):
        config.epochs = 2
    return config
