"""Gradual unfreezing with ULMFiT's triangle and layer-wise rates (arXiv 1801.06146).

clipjax run recipes/gradual_unfreezing
clipjax run recipes/gradual_unfreezing optim.layer_decay=1.0        the same rate for all layers

The head trains alone for an epoch, from zero-shot; then the projection and the tower's blocks join
it from the top, one an epoch, and all train for the rest. One slanted triangle runs over all of it;
each layer has a rate of 1 / 2.6 of that of the layer above.

On the embedded data, seeds 0 to 2, test accuracy in % (standard deviation over seeds), zero-shot
and this: render (source) 46.2, 49.6 (0.0); stencil (target) 35.4, 35.9 (0.2); flat 43.8, 47.1
(0.4); clipart 45.8, 44.6 (0.4); cartoon 41.9, 44.2 (0.0); sketch 32.3, 30.1 (0.4). One accuracy
has a standard error of 3.1 points: no difference here is larger than chance allows by much.
"""

from clipjax.configs import common

BLOCKS = 6  # of the embedded model's image tower; 12 of ViT-B


def get_config(arg: str | None = None):
    """`recipes/gradual_unfreezing[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "gradual_unfreezing"
    config.epochs = 12
    config.stages = ("gradual",)
    config.optim.lr, config.optim.layer_decay = 3e-4, 1 / 2.6
    config.optim.schedule, config.optim.schedule_over = "slanted", "run"
    tower = "clip/vision"
    order = (f"{tower}/projection", f"{tower}/block_{BLOCKS - 1}..0", f"{tower}/embedding")
    config.methods.gradual = {
        "loss": "finetune",
        "heads": {},
        "unfreeze": {"order": order, "epochs": 1},
    }
    if common.apply_arg(config, arg):
        config.epochs, config.methods.gradual.unfreeze.order = 2, order[:1]
        config.methods.gradual.freeze = (f"{tower}/block_.*", f"{tower}/embedding")
        config.optim.layer_decay = 1.0  # the projection has the whole rate
    return config
