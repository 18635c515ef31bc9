"""Zero-shot and a 2-layer MLP head trained on the source domain, CLIP frozen (Table 3).

clipjax run finetune
clipjax run finetune optim.schedule=step
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`--config=configs/finetune.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "finetune"
    config.stages = ("finetune",)
    config.methods.finetune = common.mlp_head()
    if common.apply_arg(config, arg):
        config.epochs = 2
    return config
