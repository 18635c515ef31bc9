"""Layer-wise rate decay: each layer of the image tower learns slower than the one above it.

clipjax run recipes/layer_decay
clipjax run recipes/layer_decay sweep="({'optim.layer_decay': (1.0, 0.8, 0.65, 0.3)},)"

The rate of a layer is that of the head times 0.65 for every layer between them (Howard and Ruder
2018, arXiv 1801.06146, and BEiT's code; Dong et al. 2022, arXiv 2212.06138, on CLIP): the lowest of
the embedded tower's six blocks has 0.08 of it. The head starts at zero-shot; 1.0 is the same rate
for all layers.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/layer_decay[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "layer_decay"
    config.epochs = 5
    config.stages = ("finetune",)
    config.optim.lr, config.optim.weight_decay = 1e-4, 0.1
    config.methods.finetune = {"loss": "finetune", "heads": {}, "freeze": ()}
    config.sweep = ({"optim.layer_decay": (1.0, 0.65)},)
    if common.apply_arg(config, arg):
        config.epochs = 1
    return config
